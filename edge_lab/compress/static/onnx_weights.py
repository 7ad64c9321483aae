"""Int8 weights that two operators of an ONNX graph share, as one copy for each.

ONNX Runtime has other kernels for x86-64 without VNNI (`session.x64quantprecision`). It rewrites the weights for them
operator by operator, and fails at a tensor that it has rewritten already.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def separate(graph: Any) -> bool:
    """Give each reader of an int8 weight its own DequantizeLinear and its own weight. In place; whether any shared."""
    import onnx

    weights = {t.name: t for t in graph.initializer if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)}
    readers: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers[name].append((node, place))
    nodes, taken, initializers = [], {""}, len(graph.initializer)
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "DequantizeLinear" or node.input[0] not in weights or not weights[node.input[0]].dims:
            continue
        for count, (reader, place) in enumerate(readers[node.output[0]]):
            own = node if count == 0 else _copy(node, f"{node.output[0]}_{count}")
            if count:
                reader.input[place] = own.output[0]
                nodes.append(own)
            for i in (0, 2):  # the weight and its zero point; the scales stay as they are
                name = own.input[i] if i < len(own.input) else ""
                if name and name in taken and name in weights:
                    tensor = onnx.TensorProto()
                    tensor.CopyFrom(weights[name])
                    tensor.name = own.input[i] = f"{name}_{len(taken)}"
                    graph.initializer.append(tensor)
                taken.add(own.input[i] if name else "")
    shared = len(nodes) > len(graph.node) or len(graph.initializer) > initializers
    del graph.node[:]
    graph.node.extend(nodes)
    return shared


def _copy(node: Any, output: str) -> Any:
    import onnx

    own = onnx.NodeProto()
    own.CopyFrom(node)
    own.name, own.output[0] = f"{node.name}_{output}", output
    return own
