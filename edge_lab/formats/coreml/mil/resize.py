"""Core ML operators that sample a picture at other places (definitions: see `mil_layers`).

Linear interpolation follows Apple's formulas for the grid, not PyTorch's function of that name: they agree for
`align_corners`, except where one pixel comes out. How a device rounds the place of the nearest pixel is not
documented: what would differ between the two readings (by the factor, by the sizes) is not computed.

Import this file lazily: it needs torch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.table import Inputs, operator, plain


@operator("upsample_nearest_neighbor")
def _upsample_nearest(p: Inputs) -> Tensor:
    x = p["x"]
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        factor, size = float(p.get(name, 1)), int(x.shape[axis])
        length = math.floor(size * factor + 1e-6)
        places = _nearest(size, length)
        if places != [min(size - 1, math.floor(i / factor + 1e-6)) for i in range(length)]:
            raise NotImplementedError(f"upsample_nearest_neighbor by {factor:g}: which pixel is the nearest one")
        x = x.index_select(axis, torch.tensor(places))
    out: Tensor = x
    return out


@operator("resize_nearest_neighbor")
def _resize_nearest(p: Inputs) -> Tensor:
    x = p["x"]
    for axis, name in ((-2, "target_size_height"), (-1, "target_size_width")):
        x = x.index_select(axis, torch.tensor(_nearest(int(x.shape[axis]), int(p[name]))))
    out: Tensor = x
    return out


def _nearest(size: int, length: int) -> list[int]:
    return [i * size // length for i in range(length)]


@operator("upsample_bilinear")
def _upsample_bilinear(p: Inputs) -> Tensor:
    x = p["x"]
    aligned = bool(p.get("align_corners", True))
    centres = p.get("half_pixel_centers")
    if centres is not None and bool(centres) == aligned:
        raise NotImplementedError(f"upsample_bilinear with align_corners and half_pixel_centers both {aligned}")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS"
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        x = _linear(x, axis, math.floor(int(x.shape[axis]) * float(p.get(name, 1)) + 1e-6), mode)
    out: Tensor = x
    return out


@operator("resize_bilinear")
def _resize_bilinear(p: Inputs) -> Tensor:
    x, mode = p["x"], p.get("sampling_mode", "DEFAULT")
    for axis, name in ((-2, "target_size_height"), (-1, "target_size_width")):
        x = _linear(x, axis, int(p.get(name, 1)), mode)
    out: Tensor = x
    return out


@operator("resize")
def _resize(p: Inputs) -> Tensor:
    """iOS 17: the last `resized_dims` sizes of `shape`; 0 leaves an axis as it is."""
    if p.get("interpolation_mode", "LINEAR") != "LINEAR":
        raise NotImplementedError(f"resize with interpolation_mode {p['interpolation_mode']}")
    x, n = p["x"], int(p["resized_dims"])
    for i, size in enumerate(plain(p["shape"])[-n:]):
        x = _linear(x, i - n, int(size) or int(x.shape[i - n]), p.get("sampling_mode", "DEFAULT"))
    out: Tensor = x
    return out


def _linear(x: Tensor, axis: int, length: int, mode: str) -> Tensor:
    """Linear interpolation along one axis at the places of a sampling_mode."""
    size = int(x.shape[axis])
    places = _places(size, length, mode).clamp(0, size - 1)
    low = places.floor().long()
    share = (places - low).to(x.dtype).reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    high = (low + 1).clamp(max=size - 1)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _places(size: int, length: int, mode: str) -> Tensor:
    """Apple's grids: of `size` pixels, `length` are wanted."""
    i = torch.arange(length, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        return (i + 0.5) * size / length - 0.5
    if mode == "OFFSET_CORNERS":
        return (i + 0.5) * max(1, size - 1) / length
    if mode == "DEFAULT":
        return i * size / length
    if mode == "ALIGN_CORNERS" and length == 1:
        return i + (size - 1) / 2
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return i * (size - 1) / max(1, length - 1)
    raise NotImplementedError(f"sampling_mode {mode}")


@operator("resample")
def _resample(p: Inputs) -> Tensor:
    x, places, aligned = p["x"], p["coordinates"].float(), bool(p["align_corners"])
    edges = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
    mode, kind = p["padding_mode"], p["coordinates_mode"]
    if float(p.get("padding_value", 0.0)) != 0 and mode == "constant":
        raise NotImplementedError("resample with a padding_value other than 0")
    if mode in ("reflection", "symmetric") and aligned != (mode == "reflection"):
        raise NotImplementedError(f"resample with padding_mode {mode} and align_corners {aligned}")
    if kind == "normalized_zero_to_one":
        places = places * 2 - 1
    elif kind != "normalized_minus_one_to_one":
        raise NotImplementedError(f"resample with coordinates_mode {kind}")
    return F.grid_sample(x, places, p["sampling_mode"], edges[mode], aligned)
