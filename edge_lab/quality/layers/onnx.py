"""What the layers of an .onnx file give: its inner values become outputs of a copy in memory."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.formats.onnx.ort import open_session, refusal

_SCOPES = "pkg.torch.onnx.name_scopes"
_PLUMBING = ("QuantizeLinear", "DequantizeLinear", "Constant", "Shape")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_CARRIERS = ("DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity")  # between a stored weight and its layer


def values(bundle: Bundle, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every floating-point value of the graph as it was written, without optimisations, with its module's name.

    The exporter notes the names in the file; in files of other tools a layer has the name of its weight.
    """
    import onnx

    path = bundle.program_path
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and the operating system's
        raise refusal(path, error) from error
    graph = model.graph
    wanted: list[tuple[str, str]] = []
    weights = _Weights(graph)
    rounded = _rounded(graph)
    for node in graph.node:
        if node.op_type not in _PLUMBING:
            name = _scope(node) or weights.layer(node)
            wanted += [(name, rounded.get(output, output)) for output in node.output[:1] if output]
    there = {output.name for output in graph.output}
    for value in dict.fromkeys(value for _, value in wanted):
        if value not in there:
            graph.output.append(onnx.ValueInfoProto(name=value))  # ONNX Runtime finds the type itself
    session = open_session(model.SerializeToString(), level="disable", name=path)
    names = [output.name for output in session.get_outputs()]
    arrays = dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))
    for name, value in wanted:
        if arrays[value].dtype.kind == "f":
            yield name, arrays[value].astype(np.float32)


def _scope(node: Any) -> str:
    """The module that torch's exporter says a node came from; "" if it says nothing."""
    note = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    try:
        scopes = ast.literal_eval(note) if note else []
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""  # the last is the operator's own


def _rounded(graph: Any) -> dict[str, str]:
    """For values that are rounded to integers: the name of what the next operator reads."""
    after = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    steps = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return {value: after[step] for value, step in steps.items() if step in after}


class _Weights:
    """Which layer a node is, by the name of its stored weight ("features.0.weight"); "?" if that has another name."""

    def __init__(self, graph: Any) -> None:
        self.stored = {tensor.name for tensor in graph.initializer}
        self.source = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _CARRIERS}

    def layer(self, node: Any) -> str:
        name = node.input[1] if len(node.input) > 1 else ""
        while name not in self.stored and name in self.source:
            name = self.source[name]
        if name not in self.stored or node.op_type not in _LAYERS:
            return ""
        found = re.match(r"(.+)\.weight", name)
        return found[1] if found else "?"
