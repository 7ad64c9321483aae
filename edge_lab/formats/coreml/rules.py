"""Pooling as Core ML means it, in PyTorch operators: decompositions for `core_ml_graph`.

Core ML counts what `ceil_mode` adds behind the edge as padding (measured on devices: apple/coremltools#2772 and #2844);
PyTorch never does. Padding that an average counts gave wrong numbers on devices for some sizes (#1901). So averages are
written in the two forms that leave no doubt: nothing padded at all, or nothing padded counted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.capture.expand import each_axis

aten = torch.ops.aten


def rules() -> dict[Any, Callable[..., Any]]:
    """Decompositions by operator, for `ExportedProgram.run_decompositions`."""
    average = (aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
    largest = (aten.max_pool1d, aten.max_pool2d, aten.max_pool3d)
    table: dict[Any, Callable[..., Any]] = {}
    for n in (1, 2, 3):
        table[average[n - 1].default] = functools.partial(_average, average[n - 1].default, n)
        table[largest[n - 1].default] = functools.partial(_largest, largest[n - 1].default, n)
    for both in (aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default):
        table[both] = functools.partial(_with_indices, both)
    return table


def _with_indices(own: Any, x: Tensor, kernel: Any, stride: Any = (), *rest: Any) -> Any:
    return NotImplemented if stride else own(x, kernel, kernel, *rest)


@dataclass(frozen=True)
class _Axis:
    """Pooling along one axis: where PyTorch puts its windows. `size` is a symbol where it may vary."""

    size: Any
    kernel: int
    stride: int
    padding: int
    dilation: int
    ceil: bool

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    @property
    def windows(self) -> int:
        room = self.size + 2 * self.padding - self.reach + (self.stride - 1 if self.ceil else 0)
        count = room // self.stride + 1
        begins_outside = self.ceil and (count - 1) * self.stride >= self.size + self.padding
        return int(count) - 1 if begins_outside else int(count)

    @property
    def needed(self) -> int:
        """From the first window's begin to the last one's end."""
        return (self.windows - 1) * self.stride + self.reach

    @property
    def overhangs(self) -> bool:
        if not self.ceil:
            return False
        if not isinstance(self.size, int):
            raise ValueError("pooling with ceil_mode of a size that varies")
        return self.needed > self.size + 2 * self.padding


def _axes(x: Tensor, n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> list[_Axis]:
    k, p, d = (each_axis(value, n) for value in (kernel, padding, dilation))
    s = each_axis(stride, n) if stride else k
    return [_Axis(x.shape[i - n], k[i], s[i], p[i], d[i], ceil) for i in range(n)]


def _average(
    own: Any,
    n: int,
    x: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Any:
    axes = _axes(x, n, kernel, stride, padding, 1, ceil)
    over = any(axis.overhangs for axis in axes)
    padded = any(axis.padding for axis in axes)
    k, s, p = [a.kernel for a in axes], [a.stride for a in axes], [a.padding for a in axes]
    if divisor is not None:  # sums: zeros to the end of the last window, all of them counted
        ends = [a.needed - a.size - a.padding if over else a.padding for a in axes]
        total = own(_resized(x, [(a.padding, end) for a, end in zip(axes, ends, strict=True)]), k, s)
        return total * (math.prod(k) / divisor)
    if count_padding and padded:  # zeros that count are part of the picture
        ends = [min(a.padding, a.needed - a.size - a.padding) if over else a.padding for a in axes]
        x = _resized(x, [(a.padding, end) for a, end in zip(axes, ends, strict=True)])
        return own(x, k, s, [0] * n, over, not over)
    cut = [(0, min(0, a.needed - a.size) if over and not a.padding else 0) for a in axes]
    if stride and over == ceil and not (over and count_padding) and not any(end for _, end in cut):
        return NotImplemented  # as it is
    return own(_resized(x, cut), k, s, p, over, count_padding and not over)


def _largest(
    own: Any,
    n: int,
    x: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil: bool = False,
) -> Any:
    axes = _axes(x, n, kernel, stride, padding, dilation, ceil)
    over = any(axis.overhangs for axis in axes)
    if any(a.dilation > 1 for a in axes):
        return _dilated(x, axes)
    k, s, p = [a.kernel for a in axes], [a.stride for a in axes], [a.padding for a in axes]
    cut = [(0, min(0, a.needed - a.size) if over and not a.padding else 0) for a in axes]
    if stride and over == ceil and not any(end for _, end in cut):
        return NotImplemented  # as it is
    return own(_resized(x, cut), k, s, p, 1, over)


def _dilated(x: Tensor, axes: list[_Axis]) -> Tensor:
    """Core ML has no dilated pooling: the largest of as many strided slices as a window has places, axis by axis."""
    amounts = [(a.padding, max(0, a.needed - a.size - a.padding)) for a in axes]
    x = F.pad(x, [m for pair in reversed(amounts) for m in pair], value=-math.inf)
    for i, a in enumerate(axes):
        span = (a.windows - 1) * a.stride + 1
        dim = i - len(axes)
        parts = [aten.slice.Tensor(x, dim, j * a.dilation, j * a.dilation + span, a.stride) for j in range(a.kernel)]
        x = functools.reduce(torch.maximum, parts)
    return x


def _resized(x: Tensor, ends: list[tuple[int, int]]) -> Tensor:
    """Zeros at both ends of the last axes; a negative amount is cut off (what no window reaches)."""
    for i, (_, after) in enumerate(ends):
        if after < 0:
            dim = i - len(ends)
            x = x.narrow(dim, 0, x.shape[dim] + after)
    amounts = [m for before, after in reversed(ends) for m in (before, max(0, after))]
    return F.pad(x, amounts) if any(amounts) else x
