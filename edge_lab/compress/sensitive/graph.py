"""Runs a prepared graph in float, in int8, and with one layer at a time in int8. Imports torch: import it lazily."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import numpy as np
import torch
from torch import fx

from edge_lab.compress.graphs.graph import attribute, call, fake_quantized, is_observer, module_of, operator_of
from edge_lab.compress.sensitive.report import LayerSensitivity
from edge_lab.core.errors import ExportError
from edge_lab.core.numbers import sqnr_db

aten = torch.ops.aten
_CONVS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_WEIGHTED = (*_CONVS, aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.linear.default)
# What follows a layer and belongs to it: activations, and what only moves values.
_ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "clamp", "hardsigmoid", "hardswish", "silu", "sigmoid", "tanh", "gelu", "elu",
    "leaky_relu", "dropout", "feature_dropout", "batch_norm",
}  # fmt: skip
_MOVES = {
    "flatten", "view", "reshape", "_unsafe_view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "clone",
    "alias", "slice", "pad", "constant_pad_nd", "max_pool2d",
}  # fmt: skip
_FOLLOWERS = _ACTIVATIONS | _MOVES


def clamp_of(node: fx.Node) -> tuple[float, float] | None:
    """Smallest and largest value that a clamp lets through, or None if the node is no clamp."""
    name = operator_of(node)
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else inf
    if name in ("hardtanh", "clamp"):
        low, high = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low, high = (*node.args[1:], *(low, high)[len(node.args) - 1 :])[:2]  # type: ignore[assignment]
        return -inf if low is None else float(low), inf if high is None else float(high)
    return None


class _Layer:
    """One layer of the report: what is rounded for it, where its output is read, and the sums behind its SQNRs."""

    def __init__(self, root: fx.Node) -> None:
        self.root, self.tail = root, root
        self.rounded: set[fx.Node] = set()  # observers, and weights, that are switched with this layer
        self.own, self.so_far = _Ratio(), _Ratio()

    @property
    def bias(self) -> fx.Node | None:
        """The bias of a layer with weights, if it has one and the layer is quantized."""
        found = self.root.args[2] if self.root.target in _WEIGHTED and len(self.root.args) > 2 else None
        return found if isinstance(found, fx.Node) and found in self.rounded else None


class _Ratio:
    """Signal to noise over several tensors."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, exact: torch.Tensor, other: torch.Tensor) -> None:
        self.signal += float(exact.double().square().sum())
        self.noise += float((exact.double() - other.double()).square().sum())

    @property
    def db(self) -> float:
        return sqnr_db(self.signal, self.noise)


class Simulation:
    """The float network and its int8 version side by side.

    Made from a graph with calibrated observers while its weights are still exact; `run` then reads the weights that
    the recipe has changed in the meantime.
    """

    def __init__(self, prepared: fx.GraphModule, module: torch.nn.Module) -> None:
        self.graph_module, self.module = prepared, module
        self.nodes = list(prepared.graph.nodes)
        self.exact = {n: attribute(self.graph_module, n).clone() for n in self.nodes if n.op == "get_attr"}
        self.found = self._layers()
        if not any(layer.rounded for layer in self.found):
            raise ExportError(
                "nothing in this model can be quantized.",
                "it has no layer that the XNNPACK quantizer knows (conv, linear, add, mul, average pool, cat).",
                "keep it in float32.",
            )
        self.total = _Ratio()
        self.alone: dict[fx.Node, torch.Tensor] = {}

    @property
    def output_db(self) -> float:
        """SQNR of the network's output with all layers in int8."""
        return self.total.db

    def correct_each(self, inputs: list[np.ndarray]) -> None:
        """If the recipe has corrected biases: what it would add to each layer's if only that layer were rounded.

        A corrected bias also makes up for the layers before, so it can't be used where those are exact.
        """
        shifts: dict[fx.Node, list[torch.Tensor]] = {}
        with torch.no_grad():
            for x in inputs:
                exact = self._values(x, frozenset())
                for layer in self.found:
                    bias = layer.bias
                    if bias is None or torch.equal(self.exact[bias], attribute(self.graph_module, bias)):
                        continue
                    on = layer.rounded - {bias}
                    weights = [n for n in self.nodes if n in on and layer.root in _readers(n)]
                    alone = self._values(x, on, [*weights, layer.root], exact)[layer.root]
                    channel = -1 if layer.root.target is aten.linear.default else 1
                    difference = (exact[layer.root] - alone).movedim(channel, 0).flatten(1).mean(1)
                    shifts.setdefault(bias, []).append(difference)
        self.alone = {bias: self.exact[bias] + torch.stack(shift).mean(0) for bias, shift in shifts.items()}

    def run(self, inputs: list[np.ndarray]) -> None:
        """Simulate every input and add it to the sums."""
        later = [(layer, self._downstream(layer.rounded)) for layer in self.found if layer.rounded]
        with torch.no_grad():
            for x in inputs:
                exact = self._values(x, frozenset())
                everything = frozenset(self.nodes)
                rounded = self._values(x, everything)
                self.total.add(self._output(exact), self._output(rounded))
                for layer in self.found:
                    layer.so_far.add(exact[layer.tail], rounded[_seen(layer.tail)])
                del rounded
                for layer, nodes in later:
                    alone = self._values(x, layer.rounded, nodes, exact, self.alone)
                    layer.own.add(self._output(exact), self._output(alone))

    def layers(self) -> Iterator[LayerSensitivity]:
        """The report's rows, in the order of the network."""
        for i, layer in enumerate(self.found):
            name = "input" if layer.root.op == "placeholder" else module_of(layer.root)
            yield LayerSensitivity(name, self._kind(layer.root), i, layer.own.db, layer.so_far.db, self._cut(layer))

    def _layers(self) -> list[_Layer]:
        found: dict[fx.Node, _Layer] = {}
        for node in self.nodes:
            if node.op == "placeholder" or node.target in _WEIGHTED:
                found[node] = _Layer(node)
        for node in self.nodes:
            if node.op == "call_function" and (owner := _owner(node)) in found:
                found[owner].tail = node
            elif is_observer(node):
                source = node.args[0]
                assert isinstance(source, fx.Node)
                owners = self._users(node) if source.op == "get_attr" else [_owner(source)]
                for owner in owners:
                    found.setdefault(owner, _Layer(owner)).rounded |= {
                        node,
                        *([source] if source.op == "get_attr" else []),
                    }
        for layer in found.values():
            layer.rounded |= {a for a in layer.root.all_input_nodes if a.op == "get_attr" and layer.rounded}
        order = {node: i for i, node in enumerate(self.nodes)}
        quantized = [layer for layer in found.values() if layer.rounded or layer.root.op != "placeholder"]
        return sorted(quantized, key=lambda layer: order[layer.root])

    def _users(self, observer: fx.Node) -> list[fx.Node]:
        return [user for user in observer.users if user.op == "call_function"]

    def _downstream(self, start: set[fx.Node]) -> list[fx.Node]:
        reached: set[fx.Node] = set()
        for node in self.nodes:  # in topological order
            if node in start or any(a in reached for a in node.all_input_nodes):
                reached.add(node)
        return [node for node in self.nodes if node in reached]

    def _values(
        self,
        x: np.ndarray,
        rounding: frozenset[fx.Node] | set[fx.Node],
        nodes: list[fx.Node] | None = None,
        known: dict[fx.Node, Any] | None = None,
        biases: dict[fx.Node, torch.Tensor] | None = None,
    ) -> dict[fx.Node, Any]:
        """Values of `nodes` (default: all), int8 for those in `rounding`; other nodes keep their known values."""
        values = dict(known or {})
        for node in nodes or self.nodes:
            if node.op == "placeholder":
                values[node] = torch.from_numpy(x.copy())
            elif node.op == "get_attr":
                rounded = biases[node] if biases and node in biases else attribute(self.graph_module, node)
                values[node] = rounded if node in rounding else self.exact[node]
            elif node.op == "call_module":
                source = values[node.args[0]]  # type: ignore[index]
                observer = self.graph_module.get_submodule(str(node.target))
                values[node] = _rounded(source, observer) if node in rounding else source
            elif node.op == "call_function":
                values[node] = call(node, values.__getitem__)
        return values

    def _output(self, values: dict[fx.Node, Any]) -> torch.Tensor:
        first = self.nodes[-1].all_input_nodes[0]
        result = values[first]
        assert isinstance(result, torch.Tensor)
        return result

    def _kind(self, root: fx.Node) -> str:
        if root.op == "placeholder":
            return "input"
        if root.target is aten.linear.default:
            return "linear"
        if root.target in _CONVS:
            weight = root.args[1]
            while isinstance(weight, fx.Node) and is_observer(weight):
                weight = weight.args[0]  # type: ignore[assignment]
            groups = root.args[6] if len(root.args) > 6 else 1
            whole = isinstance(weight, fx.Node) and weight in self.exact and self.exact[weight].shape[1] == 1
            return "depthwise conv" if whole and groups != 1 else "conv"
        name = operator_of(root)
        return "transposed conv" if name.startswith("conv_transpose") else name

    def _cut(self, layer: _Layer) -> float:
        """Share of an int8 range that the clamp right behind it cuts off; the worst of the layer's tensors."""
        worst = 0.0
        for node in layer.rounded:
            clamps = [limits for user in node.users if (limits := clamp_of(user))] if is_observer(node) else []
            if not clamps or len(clamps) < len(node.users):
                continue
            observer: Any = self.graph_module.get_submodule(str(node.target))
            if not hasattr(observer, "min_val"):
                continue
            scale, zero = (float(v.flatten()[0]) for v in observer.calculate_qparams())
            low, high = (observer.quant_min - zero) * scale, (observer.quant_max - zero) * scale
            kept = max(0.0, min(high, max(c[1] for c in clamps)) - max(low, min(c[0] for c in clamps)))
            worst = max(worst, 1 - kept / (high - low))
        return worst


def _owner(node: fx.Node) -> fx.Node:
    """The layer that a tensor comes from: activations and moves belong to what stands before them."""
    while is_observer(node) or operator_of(node) in _FOLLOWERS:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return node


def _seen(node: fx.Node) -> fx.Node:
    """What the next layer reads of a tensor: its rounded version if there is one."""
    return next((user for user in node.users if is_observer(user)), node)


def _rounded(x: torch.Tensor, observer: Any) -> torch.Tensor:
    """What int8 makes of a tensor: with the range that was calibrated, or with its own if that is read anew."""
    if not getattr(observer, "is_dynamic", False):
        return fake_quantized(x, observer)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = torch.round(-128 - low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, -128, 127) - zero) * scale


def _readers(node: fx.Node) -> set[fx.Node]:
    """What reads a weight, through its observer or directly."""
    return {reader for user in node.users for reader in ([user, *user.users] if is_observer(user) else [user])}
