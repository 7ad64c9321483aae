"""Cross-layer equalisation: give the channels between two layers the same range, without changing what they compute.

If a filter's weights are scaled by 1/s, its output is too, and the next layer makes up for it by reading that channel
with weights scaled by s. A ReLU lets scales through; ReLU6 does not, since it would clamp elsewhere. Chosen well, s
gives all filters of a layer similar ranges, so that one int8 scale fits them all.
Method: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1. It helps where a layer has ONE weight scale (`StaticInt8(per_channel=False)`); with a scale per channel the filters
need no equal ranges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_lab.compress.graphs.graph import is_zero_pad, module_of, operator_of
from edge_lab.compress.graphs.quantized import refuse_quantized
from edge_lab.compress.static.quantize import check_weights
from edge_lab.core.errors import InputError
from edge_lab.core.quiet import quiet
from edge_lab.zoo import Model

if TYPE_CHECKING:
    import torch
    from torch import fx

_ROUNDS = 50  # a chain of layers settles in fewer
_SETTLED = 1e-3
# What a scale per channel passes through unchanged: f(s x) = s f(x) for s > 0, channel by channel.
_PASS = {
    "relu", "leaky_relu", "dropout", "feature_dropout", "pad", "constant_pad_nd", "max_pool2d", "avg_pool2d", "alias",
    "clone", "contiguous", "identity",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two layers, one after the other; `obstacle` says why they can't be equalised ("" if they can)."""

    first: str
    second: str
    obstacle: str = ""


@dataclass(frozen=True)
class Equalizable:
    """The pairs of layers of a network, before anything is done. `print(report)` sums up."""

    pairs: tuple[Pair, ...]

    @property
    def possible(self) -> tuple[Pair, ...]:
        """The pairs that `equalize` equalises."""
        return tuple(pair for pair in self.pairs if not pair.obstacle)

    def __str__(self) -> str:
        reasons: dict[str, int] = {}
        for pair in self.pairs:
            if pair.obstacle:
                reasons[pair.obstacle] = reasons.get(pair.obstacle, 0) + 1
        left = "".join(f"\n  {count} not: {reason}" for reason, count in sorted(reasons.items()))
        return f"{len(self.possible)} of {len(self.pairs)} layers can be equalised with the one before{left}"


def equalizable(model: Model) -> Equalizable:
    """Which layers can be equalised with the layer before them, and what keeps the others from it.

    Raises:
        InputError: the model is quantized already.
        ExportError: it can't be captured as a graph.
    """
    refuse_quantized(model.module, model.spec.name, "equalised")
    return Equalizable(tuple(_pairs(_graph(model), model.module)))


def equalize(model: Model) -> Model:
    """Fold batch norms into convolutions, and equalise every pair of layers that a ReLU, or nothing, stands between.

    Pairs with another activation between stay as they are: ReLU6 clamps at 6 whatever the scale, so the network would
    compute something else (a clamp per channel would repair that, but no int8 kernel has one). `equalizable(model)`
    lists both kinds.

    Args:
        model: float32; it is not changed.

    Returns:
        A new model, named NAME-equalized, with the same float outputs but for rounding. Its batch norms are still
        there, and do nothing.

    Raises:
        InputError: no pair can be equalised, or the model is quantized already or holds NaN.
        ExportError: it can't be captured as a graph.
    """
    import copy

    import torch

    refuse_quantized(model.module, model.spec.name, "equalised")
    check_weights(model.module)
    graph = _graph(model)
    report = Equalizable(tuple(_pairs(graph, model.module)))
    if not report.possible:
        raise InputError(
            f"no two layers of {model.spec.name} can be equalised.",
            str(report).replace("\n ", ";"),
            "with one weight scale per channel (StaticInt8's default) there is nothing to equalise: leave this out.",
        )
    module = copy.deepcopy(model.module).eval()
    with torch.no_grad():
        for conv, norm in _norms(graph):
            if not _plain(module.get_submodule(conv)):
                continue
            _fold(module.get_submodule(conv), module.get_submodule(norm))
        for _ in range(_ROUNDS):
            changes = [_equalize(*map(module.get_submodule, (p.first, p.second))) for p in report.possible]
            if max(changes) < _SETTLED:
                break
    return Model(module, model.spec.with_(name=f"{model.spec.name}-equalized"))


def _graph(model: Model) -> fx.Graph:
    import torch

    from edge_lab.core.errors import ExportError
    from edge_lab.core.raised import last_line

    example = torch.zeros(model.spec.input.shape)
    try:
        with quiet():
            return torch.export.export(model.module.eval(), (example,), strict=False).module(check_guards=False).graph  # type: ignore[return-value]
    except Exception as error:  # torch.export raises whatever the forward method does
        raise ExportError(
            f"{model.spec.name} can't be captured as a graph.",
            last_line(error),
            "write the forward method without choices that depend on values.",
        ) from error


def _pairs(graph: fx.Graph, module: torch.nn.Module) -> list[Pair]:
    """Every layer that reads another layer's output, through operators that act on each channel alone."""
    calls: dict[str, int] = {}
    layers = [node for node in graph.nodes if _is_layer(node)]
    for node in layers:
        calls[module_of(node)] = calls.get(module_of(node), 0) + 1
    found = []
    for node in layers:
        first, between = _before(node)
        if first is None:
            continue
        obstacle = ""
        if any(calls[module_of(n)] > 1 for n in (first, node)):
            obstacle = "a layer is used more than once"
        elif (operator_of(first) == "linear") != (operator_of(node) == "linear"):
            obstacle = "one is a convolution, the other reads rows"
        elif not all(_plain(module.get_submodule(module_of(n))) for n in (first, node)):
            obstacle = "the weights are not plain parameters of a convolution or linear layer"
        elif between:
            obstacle = between
        found.append(Pair(module_of(first), module_of(node), obstacle))
    return found


def _before(node: fx.Node) -> tuple[fx.Node | None, str]:
    """The layer whose output a layer reads, and what between the two does not let a scale through ("" if nothing)."""
    obstacle = ""
    here: Any = node.args[0]
    while not _is_layer(here):
        name = operator_of(here)
        if _folds(here) or (name in _PASS and not _pads_with_values(here)):
            pass
        elif name in ("relu6", "hardtanh", "clamp"):
            obstacle = obstacle or "a clamp (ReLU6) stands between"
        elif name in ("hardswish", "hardsigmoid", "silu", "sigmoid", "gelu", "tanh", "elu"):
            obstacle = obstacle or "an activation that is not linear on each side of 0 stands between"
        else:
            return None, ""  # an addition, a mean, the network's input: no single layer before
        if len(here.users) > 1:
            obstacle = obstacle or "something else reads the values between"
        here = here.args[0]
    if len(here.users) > 1:
        obstacle = obstacle or "something else reads the values between"
    return here, obstacle


def _is_layer(node: fx.Node) -> bool:
    return operator_of(node) in ("conv1d", "conv2d", "linear")


def _pads_with_values(node: fx.Node) -> bool:
    return operator_of(node) in ("pad", "constant_pad_nd") and not is_zero_pad(node)


def _plain(layer: torch.nn.Module) -> bool:
    from torch import nn

    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and "weight" in layer._parameters


def _norms(graph: fx.Graph) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms right behind them."""
    found = []
    for node in graph.nodes:
        if _folds(node):
            conv: Any = node.args[0]
            statistics: Any = node.args[3]
            found.append((module_of(conv), str(statistics.target).rpartition(".")[0]))
    calls = Counter(map(module_of, (node for node in graph.nodes if _is_layer(node))))
    norms: Any = [node for node in graph.nodes if operator_of(node) == "batch_norm" and node.args[3] is not None]
    uses = Counter(str(norm.args[3].target) for norm in norms)  # what is called elsewhere must go on as it is
    return [(conv, norm) for conv, norm in found if calls[conv] == uses[f"{norm}.running_mean"] == 1]


def _folds(node: fx.Node) -> bool:
    """Whether a node is a batch norm that can be folded into the convolution before it."""
    if operator_of(node) != "batch_norm" or node.args[3] is None:
        return False
    conv: Any = node.args[0]
    return operator_of(conv) in ("conv1d", "conv2d") and len(conv.users) == 1


def _fold(conv: Any, norm: Any) -> None:
    """Move what a batch norm does into the convolution before it, and leave a batch norm that does nothing."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.weight is not None:
        norm.weight.copy_(torch.ones_like(norm.weight))
        norm.bias.zero_()


def _equalize(first: Any, second: Any) -> float:
    """Scale the channels between two layers so that both have the same range for each; returns the largest change.

    s = sqrt(range of the filter / range of the weights that read it); the filter is divided by s. Channels that are
    dead on either side keep their scale.
    """
    import torch

    groups = getattr(second, "groups", 1)
    weight = second.weight
    # (groups, outputs of a group, inputs of a group, ...): channel g * inputs + i is read by [g, :, i]
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    reading = grouped.transpose(1, 2).abs().flatten(2).amax(2).flatten()
    writing = first.weight.abs().flatten(1).amax(1)
    scale = torch.sqrt(writing / reading)
    scale[(writing == 0) | (reading == 0)] = 1
    first.weight.div_(scale.reshape(-1, *[1] * (first.weight.ndim - 1)))
    if first.bias is not None:
        first.bias.div_(scale)
    shape = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    second.weight.copy_((grouped * scale.reshape(shape)).reshape(weight.shape))
    return float((scale - 1).abs().max())
