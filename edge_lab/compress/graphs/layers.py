"""Which layers of a network are quantized, how, and what it saves: the report that keeps an int8 label honest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layer:
    """One layer with weights.

    Attributes:
        name: its place in the network, such as "blocks.0.conv".
        kind: class name, such as "Conv2d".
        bits: of one stored weight; 32 means untouched.
        compute: what its arithmetic is done in: "float32", "float16", "bfloat16", or "int8".
        before: bytes of its weights as float32, biases not counted.
        after: bytes of its weights and their scales as they are stored now.
    """

    name: str
    kind: str
    bits: int
    compute: str
    before: int
    after: int


@dataclass(frozen=True)
class LayerReport:
    """All layers with weights, in the network's order. `print(report)` says how many are quantized."""

    layers: tuple[Layer, ...]

    @property
    def quantized(self) -> tuple[Layer, ...]:
        """Layers whose weights have 8 bits or fewer."""
        return tuple(layer for layer in self.layers if layer.bits <= 8)

    @property
    def untouched(self) -> tuple[Layer, ...]:
        """Layers that still hold float weights, of 32 or 16 bits."""
        return tuple(layer for layer in self.layers if layer.bits > 8)

    @property
    def before(self) -> int:
        """Bytes of all weights as float32."""
        return sum(layer.before for layer in self.layers)

    @property
    def after(self) -> int:
        """Bytes of all weights and scales as stored."""
        return sum(layer.after for layer in self.layers)

    def __str__(self) -> str:
        done = f"{len(self.quantized)} of {len(self.layers)} layers quantized"
        return f"{done}, weights {self.before / 1e6:.2f} MB -> {self.after / 1e6:.2f} MB"


def quantized_layers(module: torch.nn.Module) -> LayerReport:
    """Look at every layer that holds a weight matrix (conv, linear, embedding, recurrent) and say how it is stored.

    Knows the weights of this package, torchao's tensors, the modules of the legacy torch.ao, and the graphs of PT2E,
    as `quantize` returns them. Batch norms and biases are not counted: no quantizer stores them in 8 bits.
    """
    return LayerReport(tuple(_layers(module)))


def is_graph(module: Any) -> TypeGuard[Any]:
    """Whether a module is a captured graph. A scripted one, or a user's, may well have a `graph` of another kind."""
    from torch.fx import GraphModule

    return isinstance(module, GraphModule)


def _layers(module: torch.nn.Module) -> Iterator[Layer]:
    for name, part in module.named_modules():
        if is_graph(part):
            yield from _graph_layers(part)
            continue
        kind = type(part).__name__.removeprefix("Parametrized")
        if type(part).__module__.startswith("torch.ao.nn"):
            weights = _legacy_weights(part)
            if weights:
                before = sum(4 * w.numel() for w in weights)
                yield Layer(name, kind, 8, "int8", before, sum(_bytes(w) for w in weights))
        elif is_layer(part):
            yield _float_or_packed(name, kind, part)


def _graph_layers(graph_module: Any) -> Iterator[Layer]:
    """Layers of a captured graph: operators whose second argument is a stored weight."""
    from edge_lab.compress.graphs.graph import attribute, module_of, operator_of

    for node in graph_module.graph.nodes:
        kind = operator_of(node)
        if not kind.startswith(("conv", "linear", "embedding")):
            continue
        held = node.args[0] if kind == "embedding" else node.args[1]
        source = held.args[0] if "dequantize" in str(held.target) else held
        if source.op != "get_attr":
            continue
        weight = attribute(graph_module, source)
        scales = [a.meta["val"].numel() for a in held.args[1:] if hasattr(a, "meta") and "val" in a.meta]
        extra = 4 * (scales[0] if scales else 1) if held is not source else 0
        compute = "int8" if "dequantize" in str(getattr(node.args[0], "target", "")) else "float32"
        bits = 8 * weight.element_size()
        yield Layer(module_of(node), kind, bits, compute, 4 * weight.numel(), _bytes(weight) + extra)


def is_layer(part: torch.nn.Module) -> bool:
    """Whether this is a layer with a float weight matrix: conv, linear, embedding or recurrent."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return isinstance(part, _ConvNd | nn.Linear | nn.Embedding | nn.RNNBase)


def packed(part: torch.nn.Module, name: str = "weight") -> Any:
    """The ParametrizationList that holds a PackedWeight, or None."""
    from edge_lab.compress.graphs.packed import PackedWeight

    held: Any = getattr(part, "parametrizations", {})
    found = held[name] if name in held else None  # noqa: SIM401  (a ModuleDict has no get)
    return found if found is not None and isinstance(found[0], PackedWeight) else None


def _float_or_packed(name: str, kind: str, part: Any) -> Layer:
    from torch import nn

    found = packed(part)
    if found is not None:
        integers, scale = found.original0, found.original1
        before = 4 * part.weight.numel()
        return Layer(name, kind, found[0].bits, str(scale.dtype)[6:], before, _bytes(integers) + _bytes(scale))
    if isinstance(part, nn.RNNBase):
        weights = [w for key, w in part.named_parameters() if key.startswith("weight")]
    else:
        weights = [part.weight]
    first = weights[0]
    before = sum(4 * w.numel() for w in weights)
    if type(first.data).__module__.startswith("torchao"):
        return _torchao(name, kind, first, before)
    return Layer(name, kind, 8 * first.element_size(), str(first.dtype)[6:], before, sum(_bytes(w) for w in weights))


def _torchao(name: str, kind: str, weight: Any, before: int) -> Layer:
    bits = 4 if "int4" in str(getattr(weight, "target_dtype", "")) else 8
    dynamic = getattr(weight, "act_quant_kwargs", None) or getattr(weight, "activation_quantization", None)
    inner = [getattr(weight, key) for key in weight.__tensor_flatten__()[0]]
    after = sum(_bytes(tensor) for tensor in inner if tensor is not None)
    return Layer(name, kind, bits, "int8" if dynamic else str(weight.dtype)[6:], before, after)


def _legacy_weights(part: Any) -> list[Any]:
    """Quantized weight tensors of a torch.ao module (static or dynamic, feed-forward or recurrent)."""
    if hasattr(part, "get_weight"):  # LSTM, GRU
        return list(part.get_weight().values())
    return [part.weight()] if callable(getattr(part, "weight", None)) else []


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
