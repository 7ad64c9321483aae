"""Which nodes of an .onnx graph stay in float: those asked for, and those that 256 steps would ruin.

ONNX Runtime's quantizer gives every tensor that it meets the range of its values. Where a mask writes minus infinity,
or -1e9, among scores, one step is wider than all the scores together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_lab.compress.keep_float import kept_onnx_nodes
from edge_lab.compress.masks import WATCHED_INPUTS, is_spoiled

_PASS = ("Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Reshape", "Transpose", "Expand", "Unsqueeze", "Squeeze")
_MASKS = ("Add", "Sub", "Where", "Max", "Min")


def float_nodes(model: Any, calibration: Sequence[np.ndarray], keep_float: tuple[str, ...]) -> list[str]:
    """Names of the nodes of an ONNX model (a ModelProto, one input) that ONNX Runtime's quantizer shall leave alone.

    Args:
        model: float32, shapes inferred, ready to be quantized.
        calibration: inputs; the first few are run.
        keep_float: patterns of module names.
    """
    graph = model.graph
    kept = set(kept_onnx_nodes(graph, keep_float)) | _before_softmax(graph)
    kept |= {node.name for node in graph.node if node.op_type == "ConvTranspose" and _groups(node) > 1}
    spoiled = _spoiled(model, calibration)
    kept |= {node.name for node in graph.node if spoiled.intersection((*node.input, *node.output))}
    return sorted(kept)


def _groups(node: Any) -> int:
    """Of a transposed convolution: its weight has no axis with all output channels if it has several."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _before_softmax(graph: Any) -> set[str]:
    """Nodes between the products of an attention and its softmax, if scores are masked or shifted there."""
    makers = {name: node for node in graph.node for name in node.output}
    kept: set[str] = set()
    for softmax in graph.node:
        if softmax.op_type != "Softmax":
            continue
        found, waiting = {softmax.name: softmax}, [softmax]
        while waiting:
            for name in waiting.pop().input:
                maker = makers.get(name)
                if maker is not None and maker.op_type in _PASS and maker.name not in found:
                    found[maker.name] = maker
                    waiting.append(maker)
        if any(node.op_type in _MASKS for node in found.values()):
            kept |= set(found)
    return kept


def _spoiled(model: Any, calibration: Sequence[np.ndarray]) -> set[str]:
    """Names of the float tensors that a mask fills, seen on the first inputs."""
    import onnx
    import onnxruntime as ort

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    written = {name for node in model.graph.node for name in node.output} - {o.name for o in model.graph.output}
    for value in model.graph.value_info:  # which names some that were folded away, too
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name in written:
            watched.graph.output.append(value)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: set[str] = set()
    for x in calibration[:WATCHED_INPUTS]:
        values = session.run(names, {model.graph.input[0].name: x})
        found |= {name for name, value in zip(names, values, strict=True) if is_spoiled(value)}
    return found
