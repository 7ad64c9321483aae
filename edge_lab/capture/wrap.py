"""Modules that adapt a model for export. Import this file lazily: it needs torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch.utils import _pytree as pytree

from edge_lab.bundle.spec import Preprocess, TensorSpec
from edge_lab.core.errors import ExportError
from edge_lab.zoo.steady import calling
from edge_lab.zoo.wrapped import with_plain_weights


class FlatOutputs(torch.nn.Module):
    """Returns the tensors of an output (nested in dicts, lists, dataclasses) as a flat tuple, in pytree order.

    `copied`: places of outputs that no operator computes: the input, or a parameter. They are copied, because XNNPACK
    gives no parameter of its own away. `writes`: the module writes to its input, which gets a copy to write to:
    runtimes hand over the caller's array, or memory that they reuse.
    """

    def __init__(self, module: torch.nn.Module, copied: tuple[int, ...] = (), *, writes: bool = False) -> None:
        super().__init__()
        self.module, self.copied, self.writes = module, copied, writes

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: D102
        x = x.clone() if self.writes else x
        leaves = [leaf for leaf in pytree.tree_leaves(self.module(x)) if isinstance(leaf, torch.Tensor)]
        return tuple(leaf.clone() if i in self.copied else leaf for i, leaf in enumerate(leaves))


class Pictures(torch.nn.Module):
    """A network that takes pixels from 0 to 255, (N, C, H, W), and does its own normalisation."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: torch.nn.Module, preprocess: Preprocess, *, softmax: bool) -> None:
        super().__init__()
        self.network, self.scale, self.softmax = network, preprocess.scale, softmax
        self.register_buffer("mean", torch.tensor(preprocess.mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).reshape(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # noqa: D102
        scores: torch.Tensor = self.network((pixels * self.scale - self.mean) / self.std)
        return scores.softmax(-1) if self.softmax else scores


def flatten(
    module: torch.nn.Module, example: np.ndarray, taken: Collection[str] = ()
) -> tuple[torch.nn.Module, tuple[TensorSpec, ...]]:
    """The module, wrapped unless it computes one plain tensor, and the specs of its outputs.

    Outputs are named after their place: `output` for a single tensor, dict keys and indices joined by "_" otherwise;
    see `names`.

    Args:
        module: takes one tensor.
        example: an input.
        taken: names that outputs can't have: those of the inputs.
    """
    x = torch.from_numpy(example.copy())
    before = x._version
    with calling():
        value = module(x)
    writes = x._version != before
    leaves, _ = pytree.tree_flatten_with_path(value)
    _check_leaves(module, [leaf for _, leaf in leaves])
    found = [(path, leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)]
    copied = _not_computed(module, x.clone() if writes else x, [leaf for _, leaf in found])
    called = names(["_".join(_key(part) for part in path) for path, _ in found], taken)
    specs = tuple(_spec(name, leaf) for name, (_, leaf) in zip(called, found, strict=True))
    plain = isinstance(value, torch.Tensor) and not copied and not writes
    module = with_plain_weights(module)
    return module if plain else FlatOutputs(module, copied, writes=writes).eval(), specs


def _not_computed(module: torch.nn.Module, x: torch.Tensor, outputs: list[torch.Tensor]) -> tuple[int, ...]:
    """Places of outputs that are the input, a parameter or a buffer, as they are."""

    def place(tensor: torch.Tensor) -> tuple[object, ...]:
        return tensor.data_ptr(), tensor.dtype, *tensor.shape, *tensor.stride()

    own = [t for t in (x, *module.parameters(), *module.buffers()) if type(t) in (torch.Tensor, torch.nn.Parameter)]
    places = {place(t) for t in own if t.numel()}
    return tuple(i for i, out in enumerate(outputs) if out.numel() and place(out) in places)


def names(wanted: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Names of outputs as every format takes them: identifiers of ASCII letters, digits and "_", each once.

    They are names of files, too (golden outputs), so two that differ in case only are one name, and they are short.
    Reserved words of Core ML's language are kept away from: coremltools would rename them without a word.

    Args:
        wanted: keys and indices, joined by "_". An empty one becomes `output`.
        taken: names that they can't have: those of the inputs.
    """
    used = {name.lower() for name in taken}
    given = []
    for text in wanted:
        name = _identifier(text)
        if name.lower() in _RESERVED:
            name = f"output_{name}"
        unique, number = name, 1
        while unique.lower() in used:
            unique, number = f"{name}_{number}", number + 1
        used.add(unique.lower())
        given.append(unique)
    return given


_LONGEST = 60  # golden/12345.NAME.bin fits into the 143 bytes that encrypted file systems leave
_RESERVED = frozenset(
    (
        *("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state"),
        *("bf16", "fp16", "fp32", "fp64"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)


def _identifier(text: str) -> str:
    """Letters without their accents, anything else that is no letter or digit as "_", no digit in front."""
    kept = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in kept)[:_LONGEST]
    if not name.strip("_"):
        return "output"
    return f"output_{name}" if name[0].isdigit() else name


def _check_leaves(module: torch.nn.Module, leaves: list[object]) -> None:
    """Raise ExportError if an output hides tensors in a class that nobody can take apart, or if there is no tensor."""
    plain = (torch.Tensor, bool, int, float, str, type(None))
    strange = sorted({type(leaf).__name__ for leaf in leaves if not isinstance(leaf, plain)})
    if strange or not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise ExportError(
            f"{type(module).__name__} can't be exported: its output can't be taken apart.",
            f"it returns an object of the class {', '.join(strange)}." if strange else "it returns no tensor.",
            "return a tensor, or a dict, list or tuple of tensors, and build the object from them in the app.",
        )


def _key(part: object) -> str:
    return str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    layout = "NCHW" if tensor.ndim == 4 else "any"
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), layout)
