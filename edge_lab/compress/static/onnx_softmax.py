"""Which softmax ONNX Runtime's int8 kernel computes wrongly: tried on the numbers that it will meet.

ONNX Runtime 1.31 has one kernel for DequantizeLinear, Softmax, QuantizeLinear in a row. Where scores are nearly alike,
as in attention that looks everywhere (or to a single token), what it adds up overflows, and probabilities become 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_lab.core.numbers import sqnr_between

_LOSS_DB = 3.0  # that the kernel may lose against the same numbers rounded


def wrong_softmaxes(graph: Any, runs: Sequence[Mapping[str, np.ndarray]]) -> set[str]:
    """Names of those nodes of an ONNX graph, with what reads them: between int8 neighbours the kernel is taken anyway.

    Args:
        graph: a GraphProto, float32.
        runs: for some inputs all float values on the way, by name.
    """
    found = set()
    for node in graph.node:
        if node.op_type != "Softmax" or not all(node.input[0] in run and node.output[0] in run for run in runs):
            continue
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), -1)
        if runs and axis % runs[0][node.input[0]].ndim == 0:
            runs = runs[:1]  # of several inputs joined, each would change the others' probabilities
        scores = [run[node.input[0]] for run in runs]
        if runs and _is_wrong(np.concatenate(scores), np.concatenate([run[node.output[0]] for run in runs]), axis):
            found |= {node.name, *(reader.name for reader in graph.node if node.output[0] in reader.input)}
    return found


def _is_wrong(scores: np.ndarray, wanted: np.ndarray, axis: int) -> bool:
    if not np.isfinite(scores).all():
        return False  # masked: stays float anyway
    low, high, most = min(0.0, float(scores.min())), max(0.0, float(scores.max())), float(wanted.max())
    step, unit = max((high - low) / 255, 1e-12), max(most / 255, 1e-12)
    zero = round(-low / step)
    rounded = np.clip(np.round(wanted / unit), 0, 255) * unit
    found = _kernel(scores, axis, (step, zero), unit)
    return sqnr_between(wanted, found) < min(sqnr_between(wanted, rounded), 30.0) - _LOSS_DB


def _kernel(scores: np.ndarray, axis: int, steps: tuple[float, int], unit: float) -> np.ndarray:
    """What ONNX Runtime makes of a softmax between uint8 neighbours."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    names = ("step", "zero", "unit", "none")
    numbers = (np.float32(steps[0]), np.uint8(steps[1]), np.float32(unit), np.uint8(0))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "step", "zero"], ["b"]),
        helper.make_node("Softmax", ["b"], ["c"], axis=axis),
        helper.make_node("QuantizeLinear", ["c", "unit", "none"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "unit", "none"], ["y"]),
    ]
    shape = list(scores.shape)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(n), name) for name, n in zip(names, numbers, strict=True)]
    graph = helper.make_graph(nodes, "softmax", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    out: np.ndarray = session.run(None, {"x": scores})[0]
    return out
