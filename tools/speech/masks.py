"""What is done to the features of a word each time it is drawn in training: level, colour, pace, pitch, and gaps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .fit import SoundFitConfig

_BANDS, _PLACES = 5, 4  # between which gains and stretches are drawn along a straight line


def masked(x: Tensor, config: SoundFitConfig) -> Tensor:
    """Every window louder or softer, coloured, warped, and with a band and a pause blanked out.

    Args:
        x: log-mel features, (N, frames, mels). The lowest of all is taken for the floor: the logarithm of what `LogMel`
            adds to every energy.
        config: how far each of these goes.

    Returns:
        Features of the same shape.
    """
    import torch

    lowest = float(x.min())
    x = _warped(_louder(x, math.exp(lowest), config), config)
    mean = x.mean((1, 2), keepdim=True)
    for axis in (1, 2):
        size = x.shape[axis]
        first, width = torch.randint(0, size, (len(x), 1)), torch.randint(0, config.mask + 1, (len(x), 1))
        at = torch.arange(size)[None]
        blank = (at >= first) & (at < first + width)
        x = torch.where(blank[:, :, None] if axis == 1 else blank[:, None, :], mean, x)
    return x.clamp(min=lowest)


def _louder(x: Tensor, floor: float, config: SoundFitConfig) -> Tensor:
    """At another level, half of the windows with an equaliser too; what falls below the floor is lost."""
    import torch

    n, _, mels = x.shape
    low, high = (decibels * math.log(10) / 10 for decibels in config.level_db)
    gain = low + (high - low) * torch.rand(n, 1, 1)
    bands = _curve(n, mels, _BANDS, config.equaliser_db * math.log(10) / 10)[:, None, :]
    gain = gain + bands * (torch.rand(n, 1, 1) < 0.5)
    return torch.log((x.exp() - floor) * gain.exp() + floor)


def _warped(x: Tensor, config: SoundFitConfig) -> Tensor:
    """Time bent around the middle of the window, the mel axis bent and stretched from its low end."""
    import torch
    from torch.nn import functional

    n, frames, mels = x.shape
    in_time, in_pitch = torch.rand(n, 1) < 0.6, torch.rand(n, 1) < 0.7
    pace = (_curve(n, frames, _PLACES, config.bend[1]) * in_time).exp()
    bent = _curve(n, mels, _PLACES, config.bend[0]) * in_pitch
    steps = (bent + (2 * torch.rand(n, 1) - 1) * config.stretch * in_pitch).exp()
    at = pace.cumsum(1)
    at = (at - at[:, frames // 2 : frames // 2 + 1]) / (frames - 1) * 2  # -1 to 1, as grid_sample counts
    band = (steps.cumsum(1) - steps[:, :1]) / (mels - 1) * 2 - 1
    grid = torch.stack([band[:, None, :].expand(n, frames, mels), at[:, :, None].expand(n, frames, mels)], -1)
    return functional.grid_sample(x[:, None], grid, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]


def _curve(n: int, size: int, points: int, largest: float) -> Tensor:
    """Straight lines between random points, (n, size), between -largest and largest."""
    import torch
    from torch.nn import functional

    drawn = (2 * torch.rand(n, 1, points) - 1) * largest
    return functional.interpolate(drawn, size=size, mode="linear", align_corners=True)[:, 0]
