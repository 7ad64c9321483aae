"""Reading a captured or prepared PT2E graph: what a node computes, where it comes from, and what int8 makes of it.

Nodes are those of torch.export's ATen graphs; torch itself is imported only where values are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import fx


def operator_of(node: fx.Node) -> str:
    """Name of an ATen operator without its overload and without the underscore of an in-place one; "" otherwise."""
    return _name(node).removesuffix("_")


def module_of(node: fx.Node) -> str:
    """Name of the module that a node comes from, as in `named_modules()`; "" for the network itself."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path = str(list(stack.values())[-1][0]).removeprefix("L['self']").removeprefix(".")
    return path.split("@")[0]  # a module that is called twice appears as name@1


def is_observer(node: fx.Node) -> bool:
    """Whether a node of a prepared graph is one that watches the range of a tensor."""
    return node.op == "call_module" and "activation_post_process" in str(node.target)


def is_zero_pad(node: Any) -> bool:
    """Whether a node adds zeros, and only adds, at the borders of an image."""
    if operator_of(node) not in ("pad", "constant_pad_nd"):
        return False
    amounts, *rest = node.args[1:]
    mode = rest.pop(0) if rest and isinstance(rest[0], str) else "constant"
    value = rest[0] if rest else 0
    return mode == "constant" and not value and len(amounts) <= 4 and min(amounts) >= 0


def attribute(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    """The tensor that a get_attr node stands for."""
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def call(node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
    """Compute a call_function node. In-place operators get copies, so that the values given stay what they were."""
    import torch
    from torch import fx

    writes = _name(node).endswith("_")

    def value(arg: fx.Node) -> Any:
        found = value_of(arg)
        return found.clone() if writes and isinstance(found, torch.Tensor) else found

    assert callable(node.target)
    return node.target(*fx.node.map_arg(node.args, value), **fx.node.map_arg(node.kwargs, value))


def fake_quantized(x: torch.Tensor, observer: Any) -> torch.Tensor:
    """What quantizing and dequantizing makes of x, with its observer's scale and zero point; x if there are none."""
    import torch

    if not hasattr(observer, "min_val") or not x.is_floating_point():
        return x
    scale, zero_point = observer.calculate_qparams()
    if scale.numel() > 1:
        shape = [1] * x.ndim
        shape[observer.ch_axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    steps = torch.clamp(torch.round(x / scale) + zero_point, observer.quant_min, observer.quant_max)
    result: torch.Tensor = ((steps - zero_point) * scale).reshape(x.shape)  # a number has no axis, its scale has one
    return result


def _name(node: Any) -> str:
    parts = str(getattr(node, "target", "")).split(".")
    return parts[1] if parts[0] == "aten" and getattr(node, "op", "") == "call_function" else ""
