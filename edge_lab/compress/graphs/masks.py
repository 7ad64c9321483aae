"""Places of a network that a mask spoils for 256 steps: minus infinity, or a number as large, among ordinary ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.compress.graphs.graph import operator_of

if TYPE_CHECKING:
    from torch import fx

WATCHED_INPUTS = 2  # a mask is there for every input
_LARGE = 1e3  # smaller masks are found by what follows them: a softmax
_STEPS = 255
_PASS = ("add", "sub", "mul", "div", "where", "masked_fill", "maximum", "minimum", "view", "reshape", "transpose",
         "permute", "expand", "unsqueeze", "squeeze", "contiguous", "clone")  # fmt: skip
_MASKS = ("add", "sub", "where", "masked_fill", "maximum", "minimum")


def is_spoiled(values: np.ndarray) -> bool:
    """Whether a range of 256 steps over all values has room for nothing but a few huge ones.

    True with an infinity and no NaN (a NaN is a fault, no mask); or if values of a thousand and more stand alone:
    everything else lies within one step of zero, and isn't zero.
    """
    if values.dtype != np.float32 or values.size < 2:
        return False
    low, high = float(values.min()), float(values.max())
    largest = max(-low, high)
    if np.isnan(largest) or largest < _LARGE:
        return False
    if np.isinf(largest):
        return True
    sizes = np.abs(values)
    rest = sizes[sizes <= largest / 16]
    return rest.size > 0 and 0 < float(rest.max()) <= largest / _STEPS


def mark_spoiled(model: fx.GraphModule, calibration: Sequence[np.ndarray]) -> None:
    """Keep all that writes or reads a spoiled place in float, in a captured graph before it is quantized. In place."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    places = _spoiled(model, calibration)
    marked = _before_softmax(model) | {user for place in places for user in (place, *place.users)}
    for node in marked:
        if node.op == "call_function" and Q_ANNOTATION_KEY not in node.meta:
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)


def _spoiled(model: fx.GraphModule, calibration: Sequence[np.ndarray]) -> set[fx.Node]:
    import torch
    from torch import fx

    found: set[fx.Node] = set()

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if isinstance(value, torch.Tensor) and node.op == "call_function" and is_spoiled(value.numpy()):
                found.add(node)
            return value

    with torch.no_grad():
        for x in calibration[:WATCHED_INPUTS]:
            Watch(model).run(torch.from_numpy(x.copy()))
    return found


def _before_softmax(model: fx.GraphModule) -> set[fx.Node]:
    """Nodes between the products of an attention and its softmax, if scores are masked or shifted there."""
    marked: set[fx.Node] = set()
    for softmax in model.graph.nodes:
        if operator_of(softmax) not in ("softmax", "_softmax"):
            continue
        found, waiting = {softmax}, [softmax]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if operator_of(source) in _PASS and source not in found:
                    found.add(source)
                    waiting.append(source)
        if any(operator_of(node) in _MASKS for node in found):
            marked |= found
    return marked
