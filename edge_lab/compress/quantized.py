"""Is a network quantized already?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_lab.errors import InputError

if TYPE_CHECKING:
    import torch


def is_quantized(module: torch.nn.Module) -> bool:
    """Whether some weights or activations of a module are integers: PT2E graphs, torch.ao modules, torchao tensors."""
    return has_quantized_graph(module) or any(map(_is_legacy, module.modules())) or _has_torchao_tensors(module)


def has_quantized_graph(module: torch.nn.Module) -> bool:
    """Whether a module holds a graph with quantize/dequantize pairs, as convert_pt2e writes: what XNNPACK can lower."""
    graphs = [getattr(m, "graph", None) for m in module.modules()]
    return any("quantized_decomposed" in str(node.target) for graph in graphs for node in getattr(graph, "nodes", ()))


def refuse_quantized(module: torch.nn.Module, name: str, verb: str) -> None:
    """Raise InputError if the module is quantized already; `verb` is what can't be done to it."""
    if is_quantized(module):
        raise InputError(
            f"{name} is already quantized; it can't be {verb} again.",
            "its weights have been rounded: a second rounding only adds error, and there is nothing left to gain.",
            "start from the float32 model it was made from.",
        )


def _is_legacy(module: Any) -> bool:
    place = type(module).__module__
    return place.startswith(("torch.ao.nn", "torch.nn.quantized")) and ".quantized" in place


def _has_torchao_tensors(module: torch.nn.Module) -> bool:
    return any(type(value).__module__.startswith("torchao") for value in module.parameters())
