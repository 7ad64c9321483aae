"""Modules that adapt a model for export. Import this file lazily: it needs torch."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils import _pytree as pytree

from edge_lab.errors import ExportError
from edge_lab.spec import Preprocess, TensorSpec
from edge_lab.zoo.steady import calling
from edge_lab.zoo.wrapped import with_plain_weights


class FlatOutputs(torch.nn.Module):
    """Returns the tensors of a nested output (dict, list, dataclass) as a flat tuple, in pytree order."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: D102
        return tuple(leaf for leaf in pytree.tree_leaves(self.module(x)) if isinstance(leaf, torch.Tensor))


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


def flatten(module: torch.nn.Module, example: np.ndarray) -> tuple[torch.nn.Module, tuple[TensorSpec, ...]]:
    """The module, wrapped if its output is more than one tensor, and the specs of its outputs.

    Outputs are named after their place: `output` for a single tensor, dict keys and indices joined by "_" otherwise.
    """
    with calling():
        value = module(torch.from_numpy(example.copy()))
    module = with_plain_weights(module)
    if isinstance(value, torch.Tensor):
        return module, (_spec("output", value),)
    leaves, _ = pytree.tree_flatten_with_path(value)
    _check_leaves(module, [leaf for _, leaf in leaves])
    specs = tuple(
        _spec("_".join(_key(part) for part in path) or "output", leaf)
        for path, leaf in leaves
        if isinstance(leaf, torch.Tensor)
    )
    return FlatOutputs(module).eval(), specs


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
    text = str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))
    return "".join(c if c.isalnum() else "_" for c in text)


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    layout = "NCHW" if tensor.ndim == 4 else "any"
    name = f"output_{name}" if name[:1].isdigit() else name
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), layout)
