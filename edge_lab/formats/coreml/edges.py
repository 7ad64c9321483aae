"""What happens at the edges of a map and Core ML has no operator for: decompositions for `core_ml_graph`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.capture.expand import each_axis

aten = torch.ops.aten


def edge_rules() -> dict[Any, Callable[..., Any]]:
    """Decompositions by operator, for `ExportedProgram.run_decompositions`."""
    transposed = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
    return {
        aten.pad.default: _pad,
        **{
            own: functools.partial(_of_one, own)
            for own in (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
        },
        **{own: functools.partial(_conv_transpose, own, n) for n, own in enumerate(transposed, 1)},
    }


def _of_one(own: Any, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    """A picture without a batch axis."""
    return own(x.unsqueeze(0), weight, *rest).squeeze(0) if x.ndim == weight.ndim - 1 else NotImplemented


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode != "circular":
        return NotImplemented
    for i, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - i
        x = x.narrow(dim, max(0, -before), x.shape[dim] + min(0, before) + min(0, after))
        front = [x.narrow(dim, x.shape[dim] - before, before)] if before > 0 else []
        back = [x.narrow(dim, 0, after)] if after > 0 else []
        x = torch.cat([*front, x, *back], dim) if front or back else x
    return x


def _conv_transpose(
    own: Any,
    n: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """coremltools 9 cuts an `output_padding` out of the padding, and fails where that is smaller."""
    inner, outer = each_axis(padding, n), each_axis(output_padding, n)
    known = n < 3 or not any(outer)  # volumes with output_padding are refused
    if known and all(more <= less for less, more in zip(inner, outer, strict=True)):
        return NotImplemented
    y = own(x, weight, None, each_axis(stride, n), [0] * n, [0] * n, groups, each_axis(dilation, n))
    for i, (less, more) in enumerate(zip(inner, outer, strict=True)):
        dim = y.ndim - n + i
        y = y.narrow(dim, less, y.shape[dim] - less - max(0, less - more))
    ends = [
        amount for less, more in reversed(list(zip(inner, outer, strict=True))) for amount in (0, max(0, more - less))
    ]
    y = F.pad(y, ends)
    return y if bias is None else y + bias.reshape(-1, *[1] * n)
