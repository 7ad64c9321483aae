"""Bias correction: take back the shift that rounding gives to every channel's mean.

Rounding a filter's weights changes its mean response, and what follows a ReLU is not centred on zero, so the error does
not average out: it adds up from layer to layer. Here the network runs twice on calibration inputs, in float and as int8
will compute it, layer by layer; each layer's bias takes up the difference of the two means before the next layer runs.
Method: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.2 (the empirical variant).

The same walk rounds the weights of each layer for the inputs that it will really get, those that the layers before it
have rounded (`compress/rounding.py`).

Import this file lazily: it needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edge_lab.compress.graphs.graph import attribute, call, fake_quantized, is_observer, module_of
from edge_lab.compress.static.rounding import Nearest, SecondOrder, parts, rounded_layer

_AXES: dict[Any, int] = {  # over how many axes a layer's window goes
    torch.ops.aten.conv1d.default: 1,
    torch.ops.aten.conv2d.default: 2,
    torch.ops.aten.linear.default: 0,
}


def correct(
    prepared: fx.GraphModule, calibration: Sequence[np.ndarray], rounding: Nearest | SecondOrder, *, biases: bool = True
) -> tuple[str, ...]:
    """Round the weights of a model that `prepare_pt2e` made and that has seen its inputs, and correct biases. In place.

    Args:
        prepared: observers in place and calibrated. Its weights are rounded to the grid that their observers give, so
            that `convert_pt2e` afterwards stores exactly what was corrected here.
        calibration: a few real inputs, float32 with the example's shape; 16 do, 32 are a little better.
        rounding: how weights are rounded.
        biases: let biases take back the shift of the mean. Layers without a bias stay as they are.

    Returns:
        Layers whose filters were too long to be rounded as a whole, with their sizes.
    """
    twin = _Twin(prepared, [torch.from_numpy(x) for x in calibration], rounding, biases)
    with torch.no_grad():
        for node in prepared.graph.nodes:
            twin.step(node)
    return tuple(twin.split)


def without_observers(prepared: fx.GraphModule) -> fx.GraphModule:
    """The float model inside a prepared one: same weights and biases, no observers. For other quantizers."""
    import copy

    plain = copy.deepcopy(prepared)
    for node in list(plain.graph.nodes):
        if is_observer(node):
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    plain.graph.eliminate_dead_code()
    plain.recompile()
    return plain


class _Twin:
    """Runs a prepared graph node by node on all inputs, in float (`exact`) and in simulated int8 (`rounded`)."""

    def __init__(
        self, graph_module: fx.GraphModule, inputs: list[torch.Tensor], rounding: Nearest | SecondOrder, biases: bool
    ) -> None:
        self.graph_module, self.inputs = graph_module, inputs
        self.rounding, self.biases = rounding, biases
        self.exact: dict[fx.Node, list[Any]] = {}
        self.rounded: dict[fx.Node, list[Any]] = {}
        self.split: list[str] = []
        self.last_use = {a: node for node in graph_module.graph.nodes for a in node.all_input_nodes}

    def step(self, node: fx.Node) -> None:
        count = range(len(self.inputs))
        if node.op == "placeholder":
            self.exact[node] = self.rounded[node] = list(self.inputs)
        elif node.op == "get_attr":
            self.exact[node] = self.rounded[node] = [attribute(self.graph_module, node)] * len(self.inputs)
        elif node.op == "call_module":
            self._observer(node)
        elif node.op == "call_function":
            if node.target in _AXES:
                self._round_weight(node)
            self.exact[node] = [call(node, lambda arg, i=i: self.exact[arg][i]) for i in count]  # type: ignore[misc]
            self.rounded[node] = [call(node, lambda arg, i=i: self.rounded[arg][i]) for i in count]  # type: ignore[misc]
            if node.target in _AXES and self.biases:
                self._correct(node)
        for used in node.all_input_nodes:
            if self.last_use[used] is node:  # activations are large
                self.exact.pop(used, None)
                self.rounded.pop(used, None)

    def _observer(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        observer: Any = self.graph_module.get_submodule(str(node.target))
        if source.op == "get_attr":
            weight = attribute(self.graph_module, source)
            exact = weight.clone()
            observer(weight)
            weight.copy_(fake_quantized(weight, observer))  # to the nearest; `_round_weight` may know better
            self.exact[node], self.rounded[node] = [exact] * len(self.inputs), [weight] * len(self.inputs)
            return
        self.exact[node] = self.exact[source]
        self.rounded[node] = [fake_quantized(x, observer) for x in self.rounded[source]]

    def _round_weight(self, node: fx.Node) -> None:
        """Round a layer's weight for the inputs that reach it, if it is rounded at all and belongs to this layer."""
        held = node.args[1]
        if not isinstance(self.rounding, SecondOrder) or not isinstance(held, fx.Node) or not is_observer(held):
            return
        source, observer = held.args[0], self.graph_module.get_submodule(str(held.target))
        if not isinstance(source, fx.Node) or source.op != "get_attr" or len(held.users) + len(source.users) > 2:
            return  # several layers share it
        if not hasattr(observer, "min_val"):
            return
        assert isinstance(node.args[0], fx.Node)
        exact = self.exact[held][0]
        if len(parts(exact[0].numel(), self.rounding)) > 1:
            self.split.append(f"{module_of(node) or node.name} ({exact[0].numel()} inputs)")
        scale, _ = observer.calculate_qparams()  # type: ignore[operator]
        low, high = int(observer.quant_min), int(observer.quant_max)  # type: ignore[arg-type]
        inputs = self.rounded[node.args[0]]
        weight = rounded_layer(exact, inputs, _settings(node, exact.ndim - 2), scale, low, high, self.rounding)
        attribute(self.graph_module, source).copy_(weight)

    def _correct(self, node: fx.Node) -> None:
        bias = node.args[2] if len(node.args) > 2 else None
        while isinstance(bias, fx.Node) and bias.op == "call_module":
            bias = bias.args[0]  # type: ignore[assignment]
        if not isinstance(bias, fx.Node) or bias.op != "get_attr":
            return
        channel = -1 - _AXES[node.target]  # from the end: a single picture may come without its batch
        shift = torch.stack(
            [_mean(e - r, channel) for e, r in zip(self.exact[node], self.rounded[node], strict=True)]
        ).mean(0)
        if not torch.isfinite(shift).all():
            return
        attribute(self.graph_module, bias).add_(shift)
        shape = [1] * self.exact[node][0].ndim
        shape[channel] = -1
        self.rounded[node] = [r + shift.reshape(shape) for r in self.rounded[node]]


def _settings(node: fx.Node, axes: int) -> dict[str, Any]:
    """Stride, padding, dilation and groups of a convolution over `axes` axes; {} for a linear layer."""
    if node.target is torch.ops.aten.linear.default:
        return {}
    names = ("stride", "padding", "dilation", "groups")
    given = dict(zip(names, node.args[3:], strict=False)) | {k: v for k, v in node.kwargs.items() if k in names}
    return {"stride": [1] * axes, "padding": [0] * axes, "dilation": [1] * axes, "groups": 1} | given


def _mean(x: torch.Tensor, channel: int) -> torch.Tensor:
    return x.movedim(channel, 0).flatten(1).mean(1)
