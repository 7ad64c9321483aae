"""What a network holds already: the one place that reads a precision out of a module. Names don't count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from edge_lab.bundle.folder import Method, Scheme
from edge_lab.compress.graphs.layers import is_graph, quantized_layers
from edge_lab.core.errors import ExportError, InputError

if TYPE_CHECKING:
    import torch

Form = Literal["plain", "packed", "torchao", "torchao-intx", "torch.ao", "graph"]

_MARK = "edge_lab.quantized_by"
_XNNPACK_LAYERS = "the XNNPACK quantizer knows (conv, linear, add, mul, average pool, cat)"


def scheme_of(module: torch.nn.Module) -> Scheme:
    """The precision of a module's weights and arithmetic, as a bundle states it.

    A network of which only some layers are quantized has the scheme of those layers; `quantized_layers` counts them.
    Float modules are fp16 or bf16 if all their parameters are, otherwise fp32.
    """
    nodes = _graph_operators(module)
    if any("quantized_decomposed" in name for name in nodes):
        fixed = any("quantize_per_tensor.default" in name for name in nodes)  # a last layer may be dynamic all the same
        return "int8-static" if fixed or not any("choose_qparams" in name for name in nodes) else "int8-dynamic"
    legacy = [type(m) for m in module.modules() if _is_legacy(m) and "PackedParams" not in type(m).__name__]
    if any(".dynamic" not in kind.__module__ for kind in legacy):
        return "int8-static"
    done = quantized_layers(module).quantized
    if done:
        four = any(layer.bits == 4 for layer in done)
        if any(layer.compute == "int8" for layer in done):
            return "int4-dynamic" if four else "int8-dynamic"
        return "int4-weights" if four else "int8-weights"
    types = {str(p.dtype)[6:] for p in module.parameters() if p.is_floating_point()}
    if types == {"float16"}:
        return "fp16"
    return "bf16" if types == {"bfloat16"} else "fp32"


def form_of(module: torch.nn.Module) -> Form:
    """Who wrote the quantized weights, and so who can read them.

    "graph": quantize/dequantize operators of PT2E; "torch.ao": modules of the legacy API; "torchao": its tensors, and
    "torchao-intx" those that ExecuTorch recognizes; "packed": weights of `quantize_weights`; "plain": floats.
    """
    if has_quantized_graph(module):
        return "graph"
    if any(map(_is_legacy, module.modules())):
        return "torch.ao"
    tensors = {type(value) for value in module.parameters() if type(value).__module__.startswith("torchao")}
    if tensors:
        return "torchao-intx" if any(kind.__name__.startswith("Intx") for kind in tensors) else "torchao"
    return "packed" if quantized_layers(module).quantized else "plain"


def is_quantized(module: torch.nn.Module) -> bool:
    """Whether some weights or activations of a module are integers, whoever made them so."""
    return form_of(module) != "plain"


def has_quantized_graph(module: torch.nn.Module) -> bool:
    """Whether a module holds a graph with quantize/dequantize pairs, as convert_pt2e writes."""
    return any("quantized_decomposed" in name for name in _graph_operators(module))


def has_dynamic_ranges(module: torch.nn.Module) -> bool:
    """Whether a layer of a quantized graph finds the range of its input when it runs."""
    return any("choose_qparams" in name for name in _graph_operators(module))


def mark(module: Any, method: Method) -> None:
    """Note in a graph module whether its integers were trained ("qat") or not ("ptq"): nothing else in it tells."""
    module.meta[_MARK] = method


def seal(graph: Any, method: Method, layers: str = _XNNPACK_LAYERS) -> torch.nn.Module:
    """Check and mark the graph that convert_pt2e returns, and let it be called like any module.

    Args:
        graph: is changed.
        method: how it came by its integers.
        layers: what the quantizer knows, for the error.

    Raises:
        ExportError: nothing in it was quantized.
    """
    if not has_quantized_graph(graph):
        raise ExportError(
            "nothing in this model was quantized.",
            f"it has no layer that {layers}.",
            "use the fp32 target; an int8 label on it would be a lie.",
        )
    mark(graph, method)
    for name in ("train", "eval"):  # torchao forbids both; nothing in this graph depends on the mode any more
        graph.__dict__.pop(name, None)
    graph.requires_grad_(False)
    return graph.eval()  # type: ignore[no-any-return]


def method_of(module: torch.nn.Module) -> Method | None:
    """What `mark` noted; "ptq" for weights that were only rounded; None: not known, or float."""
    for part in module.modules():
        method = part.meta.get(_MARK) if is_graph(part) else None
        if method is not None:
            return method  # type: ignore[no-any-return]
    return "ptq" if form_of(module) in ("packed", "torchao", "torchao-intx") else None


def refuse_quantized(module: torch.nn.Module, name: str, verb: str) -> None:
    """Raise InputError if the module is quantized already; `verb` is what can't be done to it."""
    if is_quantized(module):
        raise InputError(
            f"{name} is already quantized ({scheme_of(module)}); it can't be {verb}.",
            "its weights have been rounded: a second rounding only adds error, and there is nothing left to gain.",
            "start from the float32 model it was made from; every verb leaves its input as it was.",
        )


def _graph_operators(module: torch.nn.Module) -> set[str]:
    return {str(node.target) for part in module.modules() if is_graph(part) for node in part.graph.nodes}


def _is_legacy(module: Any) -> bool:
    place = type(module).__module__
    return place.startswith(("torch.ao.nn", "torch.nn.quantized")) and ".quantized" in place
