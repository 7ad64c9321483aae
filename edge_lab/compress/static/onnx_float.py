"""Which nodes of an .onnx graph stay in float: those asked for, and those that 256 steps would ruin.

ONNX Runtime's quantizer gives every tensor that it meets the range of its values. Where a mask writes minus infinity,
or -1e9, among scores, one step is wider than all the scores together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_lab.compress.graphs.keep_float import kept_onnx_nodes
from edge_lab.compress.graphs.masks import WATCHED_INPUTS, is_spoiled
from edge_lab.compress.static.onnx_softmax import wrong_softmaxes

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
    kept |= {n.name for n in graph.node if n.op_type == "Resize" and _text(n, "mode") == "cubic"}  # no int8 kernel
    runs = [_intermediate(model, x) for x in calibration[:WATCHED_INPUTS]]
    kept |= _wide_norms(graph) | wrong_softmaxes(graph, runs)
    spoiled = {name for values in runs for name, value in values.items() if is_spoiled(value)}
    kept |= {node.name for node in graph.node if spoiled.intersection((*node.input, *node.output))}
    return sorted(kept)


def _groups(node: Any) -> int:
    """Of a transposed convolution: its weight has no axis with all output channels if it has several."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _text(node: Any, attribute: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == attribute), "")


def _wide_norms(graph: Any) -> set[str]:
    """Layer norms over several axes: ONNX Runtime's quantizer stumbles over their weights."""
    axes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    return {n.name for n in graph.node if n.op_type == "LayerNormalization" and axes.get(n.input[1], 1) > 1}


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


def too_large_for_half(model: Any, x: np.ndarray) -> list[str]:
    """Names of the nodes of a float32 ONNX model that meet numbers near the end of float16's range, or past it.

    Infinities don't count: float16 has them. One input is tried, so half of the range is left to others.
    """
    limit = float(np.finfo(np.float16).max) / 2

    def large(value: np.ndarray) -> bool:
        return bool((np.isfinite(value) & (np.abs(value) > limit)).any())

    stored = {t.name: _array(t) for t in model.graph.initializer if t.data_type == 1}
    values = stored | {model.graph.input[0].name: x} | _intermediate(model, x)
    found = {name for name, value in values.items() if large(value)}
    return [node.name for node in model.graph.node if found.intersection((*node.input, *node.output))]


def _array(tensor: Any) -> np.ndarray:
    import onnx

    value: np.ndarray = onnx.numpy_helper.to_array(tensor)
    return value


def _intermediate(model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """All float tensors that a model with one input computes on the way, by name."""
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
    return dict(zip(names, session.run(names, {model.graph.input[0].name: x}), strict=True))
