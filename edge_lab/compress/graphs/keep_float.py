"""Mixed precision: which layers a recipe leaves in float, by shell patterns of module names."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from edge_lab.compress.graphs.graph import module_of
from edge_lab.core.errors import InputError

if TYPE_CHECKING:
    from torch import fx


def check_patterns(patterns: object) -> None:
    """Raise InputError unless this is a tuple of non-empty strings."""
    if not isinstance(patterns, tuple) or not all(isinstance(p, str) and p for p in patterns):
        raise InputError(
            f"keep_float={patterns!r} is no tuple of names.",
            "it holds shell patterns of module names.",
            'write for example keep_float=("classifier", "blocks.0*").',
        )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module, or one that it stands in, has a name that fits a pattern."""
    parts = name.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(n, pattern) for n in names for pattern in patterns)


def refuse_unmatched(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Raise InputError if a pattern fits none of the modules; offers the nearest names."""
    names = sorted({name for name in names if name})
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise InputError(
                f"keep_float names {pattern!r}, which fits no layer.",
                f"the model has {len(names)} named layers; the nearest are {', '.join(near)}.",
                "use names of model.module.named_modules(), or what sensitivity(...).worst(n) returns.",
            )


def mark_kept(model: fx.GraphModule, patterns: tuple[str, ...]) -> None:
    """Mark the nodes of all modules that fit a pattern, so that no quantizer touches them. In place."""
    if not patterns:
        return
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    nodes = [node for node in model.graph.nodes if node.op == "call_function"]
    refuse_unmatched(patterns, map(module_of, nodes))
    for node in nodes:
        if matches(module_of(node), patterns):
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)


def kept_onnx_nodes(graph: Any, patterns: tuple[str, ...]) -> list[str]:
    """Names of the nodes of an ONNX graph that come from modules that fit a pattern."""
    if not patterns:
        return []
    modules = {node.name: _onnx_modules(node) for node in graph.node}
    refuse_unmatched(patterns, (name for found in modules.values() for name in found))
    return [node for node, found in modules.items() if any(matches(name, patterns) for name in found)]


def _onnx_modules(node: Any) -> set[str]:
    """The modules of an ONNX node: those that own its weights (a folded batch norm has none), else its scope."""
    owners = {name.removesuffix(".weight") for name in node.input if name.endswith(".weight")}
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    places = ast.literal_eval(scopes)
    return owners or set(places[-2:-1])
