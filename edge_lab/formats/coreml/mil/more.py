"""Core ML operators that mobile networks use now and then (definitions: see `mil_layers`).

Import this file lazily: it needs torch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.table import Inputs, operator, plain


@operator("tan")
def _tan(p: Inputs) -> Tensor:
    return torch.tan(p["x"])


@operator("atanh")
def _atanh(p: Inputs) -> Tensor:
    return torch.atanh(p["x"])


@operator("clamped_relu")
def _clamped_relu(p: Inputs) -> Tensor:
    return torch.clamp(F.leaky_relu(p["x"], p["alpha"]), max=p["beta"])


@operator("scaled_tanh")
def _scaled_tanh(p: Inputs) -> Tensor:
    out: Tensor = p["alpha"] * torch.tanh(p["beta"] * p["x"])
    return out


@operator("threshold")
def _threshold(p: Inputs) -> Tensor:
    return torch.clamp(p["x"], min=p["alpha"])


@operator("thresholded_relu")
def _thresholded_relu(p: Inputs) -> Tensor:
    return torch.where(p["x"] >= p["alpha"], p["x"], 0.0)


@operator("softplus_parametric")
def _softplus_parametric(p: Inputs) -> Tensor:
    shape = [1, -1, *[1] * (p["x"].ndim - 2)]
    alpha, beta = p["alpha"].reshape(shape), p["beta"].reshape(shape)
    out: Tensor = alpha * F.softplus(beta * p["x"])
    return out


@operator("local_response_norm")
def _local_response_norm(p: Inputs) -> Tensor:
    return F.local_response_norm(p["x"], int(p["size"]), p["alpha"], p["beta"], p["k"])


@operator("band_part")
def _band_part(p: Inputs) -> Tensor:
    x, below, above = p["x"], int(p["lower"]), int(p["upper"])
    x = torch.tril(x, above) if above >= 0 else x
    return torch.triu(x, -below) if below >= 0 else x


@operator("flatten2d")
def _flatten2d(p: Inputs) -> Tensor:
    out: Tensor = p["x"].reshape(math.prod(p["x"].shape[: p["axis"]]), -1)
    return out


@operator("crop")
def _crop(p: Inputs) -> Tensor:
    (top, bottom), (left, right) = plain(p["crop_height"]), plain(p["crop_width"])
    height, width = p["x"].shape[-2:]
    out: Tensor = p["x"][..., top : height - bottom, left : width - right]
    return out


@operator("depth_to_space")
def _depth_to_space(p: Inputs) -> Tensor:
    x, b = p["x"], int(p["block_size"])
    n, c, h, w = x.shape
    out: Tensor = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return out


@operator("pixel_unshuffle")
def _pixel_unshuffle(p: Inputs) -> Tensor:
    return F.pixel_unshuffle(p["x"], int(p["downscale_factor"]))


@operator("fill_like")
def _fill_like(p: Inputs) -> Tensor:
    return torch.full(p["ref_tensor"].shape, p.get("value", 0.0))


@operator("topk")
def _topk(p: Inputs) -> tuple[Tensor, ...]:
    values, places = torch.topk(p["x"], int(p["k"]), int(p["axis"]), largest=not p.get("ascending", False))
    return values, places.to(torch.int32)


@operator("argsort")
def _argsort(p: Inputs) -> Tensor:
    return torch.argsort(p["x"], int(p["axis"]), descending=not p.get("ascending", False)).to(torch.int32)


@operator("reduce_argmin")
def _argmin(p: Inputs) -> Tensor:
    return torch.argmin(p["x"], int(p["axis"]), keepdim=bool(p.get("keep_dims", False))).to(torch.int32)
