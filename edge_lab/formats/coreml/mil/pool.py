"""Pooling of Core ML programs (definitions: see `mil_layers`).

`ceil_mode` adds a window that hangs over the edge. An average divides by the whole window there, as it does for
padding, unless `exclude_padding_from_average` is set: then by what lies inside the picture. PyTorch divides by what
lies inside picture and padding, which is neither. Apple's reference leaves this open; measured on devices it is so
(apple/coremltools#2772 and #2844).

Import this file lazily: it needs torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.layers import padding
from edge_lab.formats.coreml.mil.table import Inputs, operator, plain


@operator("max_pool")
def _max_pool(p: Inputs) -> Tensor:
    x, kernel, stride = _padded(p, -math.inf)
    out: Tensor = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1](x, kernel, stride)
    return out


@operator("avg_pool")
def _avg_pool(p: Inputs) -> Tensor:
    if not p.get("exclude_padding_from_average"):
        return _mean(*_padded(p, 0.0))
    inside = p | {"x": torch.ones_like(p["x"])}
    return _mean(*_padded(p, 0.0)) / _mean(*_padded(inside, 0.0))


@operator("l2_pool")
def _l2_pool(p: Inputs) -> Tensor:
    x, kernel, stride = _padded(p | {"x": p["x"].square()}, 0.0)
    return torch.sqrt(_mean(x, kernel, stride) * math.prod(kernel))


def _mean(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    out: Tensor = function(x, kernel, stride)
    return out


def _padded(p: Inputs, fill: float) -> tuple[Tensor, list[int], list[int]]:
    """x with its padding, and with what the last windows lack on the right; the windows' sizes and steps."""
    x, kernel = p["x"], plain(p["kernel_sizes"])
    n = len(kernel)
    stride = plain(p.get("strides", [1] * n))
    amounts = padding(p, x, kernel, stride)
    if p.get("ceil_mode"):
        for axis in range(n):
            last = 2 * (n - 1 - axis)
            before, after = amounts[last : last + 2]
            size = int(x.shape[axis - n])
            windows = math.ceil((size + before + after - kernel[axis]) / stride[axis]) + 1
            if before + after and (windows - 1) * stride[axis] >= size + before:
                windows -= 1  # with padding, a window must begin inside the picture or the padding before it
            amounts[last + 1] = max(after, (windows - 1) * stride[axis] + kernel[axis] - size - before)
    return F.pad(x, amounts, value=fill), kernel, stride
