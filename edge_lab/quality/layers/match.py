"""The model's own values, layer by layer, and which value of a program belongs to which. Imports torch: lazily."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edge_lab.core.numbers import sqnr_between
from edge_lab.quality.layers.report import LayerGap

Seen = Sequence[tuple[str, np.ndarray]]

# What stands behind a layer and belongs to it. Exporters fold batch norms and fuse activations.
_FOLLOWERS = {
    "batch_norm", "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid", "silu", "sigmoid",
    "tanh", "gelu", "elu", "leaky_relu", "leaky_relu_", "clamp", "clamp_", "dropout", "dropout2d", "prelu",
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "FrozenBatchNorm2d", "ReLU", "ReLU6", "Hardtanh", "Hardswish",
    "Hardsigmoid", "SiLU", "Sigmoid", "Tanh", "GELU", "ELU", "LeakyReLU", "PReLU", "Mish", "Dropout", "Dropout1d",
    "Dropout2d", "Identity",
}  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """A value of the model: a module's output, or a function's inside of a module that has submodules."""

    name: str
    kind: str
    value: np.ndarray
    is_module: bool
    has_children: bool
    has_weights: bool = False

    @property
    def follows(self) -> bool:
        return self.kind in _FOLLOWERS and not self.has_children


def compare(module: torch.nn.Module, x: np.ndarray, seen: Seen) -> tuple[tuple[LayerGap, ...], tuple[str, ...]]:
    """The layers that a module and a program share, in the module's order, and names of those with other shapes."""
    rows = _recorded(module, x)
    places = {row.name: i for i, row in enumerate(rows) if row.is_module}
    if any(name not in ("", "?") for name, _ in seen):
        named = _repeated(_renamed(seen, set(places)), rows)
    else:
        named = _by_order(rows, [value for name, value in seen if name == "?"])
    shown = {name for name, _ in named}
    last = _last_values(named)
    chosen = {_root(rows, places[name]): (places[name], value) for name, value in last.items() if name in places}
    layers: list[LayerGap] = []
    unmatched = []
    for root, (place, value) in sorted(chosen.items()):
        own = [rows[place], *_fused(rows, place, shown)]
        near = [sqnr_between(row.value, value) for row in own if row.value.size == value.size]
        if near:
            layers.append(LayerGap(rows[root].name, rows[root].kind, len(layers), max(near)))
        else:
            unmatched.append(rows[root].name or rows[root].kind)
    return tuple(layers), tuple(unmatched)


def _recorded(module: torch.nn.Module, x: np.ndarray) -> list[_Row]:
    """Run a module and note what each of its parts gives, in the order in which they are done."""
    rows: list[_Row] = []
    names = {part: name for name, part in module.named_modules()}
    parents = {part for part in names if next(part.children(), None) is not None}
    stack: list[torch.nn.Module] = []
    calls: Counter[str] = Counter()

    def enter(part: torch.nn.Module, _: Any) -> None:
        stack.append(part)

    def leave(part: torch.nn.Module, _: Any, output: Any) -> None:
        stack.pop()
        name, n = names[part], calls[names[part]]
        calls[name] += 1
        weights = next(part.parameters(recurse=False), None) is not None
        note(f"{name}@{n}" if n else name, type(part).__name__, output, True, part in parents, weights)

    def note(name: str, kind: str, output: Any, *about: bool) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        if tensors and tensors[0].is_floating_point():
            with torch._C.DisableTorchFunction():
                value = tensors[0].detach().float().numpy().copy()  # what comes next may write to it
            rows.append(_Row(name, kind, value, *about))

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if stack and stack[-1] in parents and isinstance(result, torch.Tensor):
                note(names[stack[-1]], getattr(func, "__name__", "?").strip("_"), result, False, False)
            return result

    hooks = [h for p in names for h in (p.register_forward_pre_hook(enter), p.register_forward_hook(leave))]
    try:
        with torch.no_grad(), Functions():
            module.eval()(torch.from_numpy(x.copy()))
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def _root(rows: Sequence[_Row], place: int) -> int:
    """The layer that a value belongs to: behind activations, batch norms, and modules that only hand on a value."""
    while place > 0:
        row, before = rows[place], rows[place - 1]
        same = row.has_children and np.array_equal(row.value, before.value, equal_nan=True)
        if not (same or (row.follows and row.value.shape == before.value.shape)):
            break
        place -= 1
    return place


def _fused(rows: Sequence[_Row], place: int, shown: set[str]) -> list[_Row]:
    """What an operator may have swallowed: the activations right behind a value that the program does not show."""
    found = []
    for row in rows[place + 1 :]:
        if row.has_children:
            continue
        if not row.follows or (row.is_module and row.name in shown):
            break
        found.append(row)
    return found


def _last_values(named: Seen) -> dict[str, np.ndarray]:
    """What each module gives: the last value under its name; modules that end with a submodule are left out."""
    last: dict[str, tuple[int, np.ndarray]] = {name: (i, value) for i, (name, value) in enumerate(named)}
    inner: Counter[str] = Counter()
    for name, (i, _) in last.items():
        parts = name.split(".") if name else []
        for n in range(len(parts)):
            inner[".".join(parts[:n])] = max(inner[".".join(parts[:n])], i)
    return {name: value for name, (i, value) in last.items() if i >= inner[name]}


def _renamed(seen: Seen, known: set[str]) -> Seen:
    """Names as in the model: without the wrapper that an exporter has put around it, and down to known modules."""
    for _ in range(2):
        names = {name for name, _ in seen if name}
        first = {name.split(".")[0] for name in names}
        if len(first) != 1 or first & known:
            break
        seen = [(name.partition(".")[2], value) for name, value in seen]
    return [(_ancestor(name, known.__contains__), value) for name, value in seen if name != "?"]


def _ancestor(name: str, known: Callable[[str], bool]) -> str:
    while name and not known(name):
        name = name.rpartition(".")[0]
    return name


def _repeated(named: Seen, rows: Sequence[_Row]) -> Seen:
    """Names of modules that are called more than once: each call is a run of values of its own, "relu", "relu@1"."""
    calls = Counter(row.name.split("@")[0] for row in rows if row.is_module and not row.has_children)
    runs: Counter[str] = Counter()
    found, before = [], ""
    for name, value in named:
        leaf = name.split("@")[0]
        if calls[leaf] > 1:
            runs[leaf] += leaf != before
            n = runs[leaf] - 1
            name = f"{leaf}@{n}" if n else leaf
        found.append((name, value))
        before = leaf
    return [(name, value) for name, value in found if calls[name.split("@")[0]] in (1, runs[name.split("@")[0]], 0)]


def _by_order(rows: Sequence[_Row], values: Sequence[np.ndarray]) -> Seen:
    """Names for what layers with weights give, if none are known: the longest run of equal shapes, in order."""
    layers = [row for row in rows if row.has_weights and not row.has_children and not row.follows]
    matcher = SequenceMatcher(None, [r.value.shape for r in layers], [v.shape for v in values], autojunk=False)
    return [
        (layers[block.a + i].name, values[block.b + i])
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    ]
