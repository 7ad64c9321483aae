"""Modules that hold weights in fewer bits. Import this file lazily: it needs torch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils import _pytree as pytree


class PackedWeight(torch.nn.Module):
    """A parametrization that stores a weight as integers and scales, and gives it back in floating point.

    The stored rows are the output channels. `group` consecutive values of a row share a scale; rows are filled up
    with zeros to whole groups. Two 4-bit values share a byte, the first in its low half. Only ordinary operators
    are used, so that every exporter can translate them.

    Args:
        weight: the float weight that will be stored.
        bits: 8 or 4.
        group: values per scale; None for a whole row; 0 for one scale for the whole weight.
        transposed: output channels are the second dimension (transposed convolutions).
    """

    def __init__(self, weight: torch.Tensor, bits: int, group: int | None, transposed: bool) -> None:
        super().__init__()
        self.bits, self.transposed = bits, transposed
        self.shape = tuple(weight.transpose(0, 1).shape if transposed else weight.shape)
        self.length = weight.numel() // self.shape[0]  # values in a row
        self.group = min(group, self.length) if group else self.length
        self.per_tensor = group == 0

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Round to the nearest step: float weight to (integers, scales). Largest value = largest integer."""
        rows = (weight.transpose(0, 1) if self.transposed else weight).reshape(self.shape[0], -1)
        groups = -(-self.length // self.group)
        rows = torch.nn.functional.pad(rows, (0, groups * self.group - self.length))
        grouped = rows.reshape(self.shape[0], groups, self.group)
        largest = grouped.abs().amax((0, 1, 2) if self.per_tensor else 2, keepdim=True)
        top = 2 ** (self.bits - 1) - 1
        scale = largest.clamp_min(torch.finfo(weight.dtype).tiny * top) / top
        integers = torch.round(grouped / scale).clamp(-top, top).to(torch.int8).reshape(self.shape[0], -1)
        return (integers if self.bits == 8 else _pack(integers)), scale[..., 0].contiguous()

    def forward(self, integers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The weight: integers times scales, in the scales' dtype and the original shape."""
        rows = integers if self.bits == 8 else _unpack(integers)
        groups = -(-self.length // self.group)
        rows = rows[:, : groups * self.group].reshape(self.shape[0], groups, self.group)
        weight = (rows.to(scale.dtype) * scale[..., None]).reshape(self.shape[0], -1)[:, : self.length]
        weight = weight.reshape(self.shape)
        return weight.transpose(0, 1) if self.transposed else weight

    def extra_repr(self) -> str:  # noqa: D102
        return f"bits={self.bits}, shape={self.shape}, group={'tensor' if self.per_tensor else self.group}"


def _pack(integers: torch.Tensor) -> torch.Tensor:
    """int8 in -8..7, (rows, n) to uint8, (rows, ceil(n / 2))."""
    nibbles = (torch.nn.functional.pad(integers, (0, integers.shape[1] % 2)) + 8).to(torch.uint8)
    return nibbles[:, ::2] | (nibbles[:, 1::2] << 4)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `_pack`; one value too many if n was odd."""
    # // instead of >>: every exporter knows division
    both = torch.stack((packed % 16, packed // 16), dim=-1)
    return both.reshape(packed.shape[0], -1).to(torch.int8) - 8


class HalfInside(torch.nn.Module):
    """float32 in and out, 16-bit floats inside, so that callers feed every precision alike."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(dtype)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> Any:  # noqa: D102
        return pytree.tree_map(self._widen, self.module(x.to(self.dtype)))

    def _widen(self, leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype is self.dtype else leaf
