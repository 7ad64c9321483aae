"""Round weights so that a layer's output changes least, not each weight: the second-order rule.

Rounding every weight to its nearest step treats weights as strangers. But a layer's inputs are correlated, so the error
that one weight makes can be taken back by those that are not rounded yet. Method: E. Frantar et al., "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023 (with its rules for order and damping),
after B. Hassibi and D. Stork, "Optimal Brain Surgeon", 1993. Here it also serves convolutions, depthwise ones included:
each group of channels is a small problem of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

from edge_lab.core.errors import InputError

if TYPE_CHECKING:
    import torch

_BLOCK = 128  # columns whose corrections are collected before they reach the rest
_PART = 1024  # inputs that are rounded together where all at once would take minutes and gigabytes
_TRIES = 4  # each with ten times the damping: moments that only just aren't positive definite become so


@dataclass(frozen=True)
class Nearest:
    """Every weight goes to the nearest step of its scale."""


@dataclass(frozen=True)
class SecondOrder:
    """Weights are rounded one input after the other; those that remain make up for the error (GPTQ).

    Time grows with the cube of a filter's inputs (kernel height x width x channels), memory with the square: seconds
    for a mobile net, a minute for a ResNet. A filter of more than `largest` inputs (a Linear behind a Flatten) is
    rounded in parts of 1024, each as if the others were exact, and a warning says so.

    Attributes:
        damping: trust in the calibration inputs, above 0: this share of the mean squared input counts as noise that is
            the same in all directions. Large values end at `Nearest()`.
        largest: inputs of a filter that are rounded together, at least 1.
    """

    damping: float = 0.05
    largest: int = 4608

    def __post_init__(self) -> None:
        if self.largest < 1:
            raise InputError(
                f"SecondOrder(largest={self.largest}) can't be used.",
                "it is the number of a filter's inputs that are rounded together.",
                "pass at least 1; the default is 4608. Rounding each weight by itself is Nearest().",
            )
        if not 0 < self.damping < inf:
            raise InputError(
                f"SecondOrder(damping={self.damping}) can't be used.",
                "few calibration inputs leave directions that no input has, and only damping makes them solvable.",
                "pass a number above 0; 0.01 to 0.1 is usual. Rounding without inputs is Nearest().",
            )


def second_moments(
    inputs: Sequence[torch.Tensor], weight: torch.Tensor, settings: dict[str, Any], part: slice = slice(None)
) -> torch.Tensor:
    """Mean of x x^T over everything that the filters of a layer are multiplied with.

    Args:
        inputs: what enters the layer, (1, C, H, W), (1, C, L) or (..., in).
        weight: (out, C/groups, kh, kw), (out, C/groups, k) or (out, in).
        settings: of the convolution: stride, padding, dilation (lists of integers), groups; {} for a linear layer.
        part: of a filter's weights; default all.

    Returns:
        float64 (groups, k, k), k weights in a filter, or in the part of it.
    """
    import torch

    groups, k = settings.get("groups", 1), len(range(weight[0].numel())[part])
    total, count = torch.zeros(groups, k, k, dtype=torch.float64), 0
    for x in inputs:
        columns = _columns(x, weight, settings)[:, part]
        total += columns @ columns.transpose(1, 2)
        count += columns.shape[2]
    return total / count


def rounded_layer(
    weight: torch.Tensor,
    inputs: Sequence[torch.Tensor],
    settings: dict[str, Any],
    scale: torch.Tensor,
    lowest: int,
    highest: int,
    config: SecondOrder,
) -> torch.Tensor:
    """A layer's weight on the grid of `scale`, rounded for its inputs; in parts if its filters are too long.

    Arguments as for `second_moments` and `round_second_order`. Where the inputs hold NaN or infinity, or no damping
    makes the problem solvable, weights go to the nearest step.
    """
    import torch

    rows = weight.flatten(1)
    rounded = torch.empty_like(rows)
    for part in parts(rows.shape[1], config):
        moments = second_moments(inputs, weight, settings, part)
        rounded[:, part] = round_second_order(rows[:, part], moments, scale, lowest, highest, config)
    return rounded.reshape(weight.shape)


def parts(inputs: int, config: SecondOrder) -> list[slice]:
    """Which inputs of a filter are rounded together: all, or parts of almost equal size."""
    count = 1 if inputs <= config.largest else -(-inputs // min(_PART, config.largest))
    edges = [inputs * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def round_second_order(
    weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, lowest: int, highest: int, config: SecondOrder
) -> torch.Tensor:
    """Weights on the integer grid of `scale` that keep a layer's output close.

    Args:
        weight: (out, ...) float32; a row is one filter.
        moments: of its inputs, from `second_moments`: (groups, k, k).
        scale: step per filter, (out,), or one for all, (1,). The zero point is 0.
        lowest, highest: range of the integers.
        config: damping.

    Returns:
        The same shape as `weight`, every value a whole number of steps; the nearest ones if the moments aren't finite
        or can't be inverted.
    """
    import torch

    groups, k = moments.shape[:2]
    rows = weight.reshape(groups, -1, k)
    step = scale.expand(weight.shape[0]).reshape(groups, -1, 1)
    nearest = (torch.clamp(torch.round(rows / step), lowest, highest) * step).reshape(weight.shape)
    if not bool(torch.isfinite(moments).all()):
        return nearest
    power = torch.diagonal(moments, dim1=1, dim2=2)
    order = power.argsort(dim=1, descending=True)  # what matters most is rounded while all others can still adapt
    rows = rows.gather(2, order[:, None].expand_as(rows))
    moments = moments.gather(1, order[:, :, None].expand_as(moments)).gather(2, order[:, None].expand_as(moments))
    noise = config.damping * torch.where(power.mean(1) > 0, power.mean(1), torch.ones_like(power[:, 0]))
    factor = _inverse_factor(moments, noise)
    if factor is None:
        return nearest
    rounded = _round_columns(rows.clone(), factor.to(rows.dtype), step, lowest, highest)
    back = torch.empty_like(rounded).scatter_(2, order[:, None].expand_as(rounded), rounded)
    return back.reshape(weight.shape)


def _inverse_factor(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor | None:
    """Upper Cholesky factor of (moments + noise)^-1, with more noise if it takes more; None if none is enough.

    moments (groups, k, k), is changed; noise (groups,).
    """
    import torch

    for _ in range(_TRIES):
        moments.diagonal(dim1=1, dim2=2).add_(noise[:, None])
        lower, failed = torch.linalg.cholesky_ex(moments)
        if not failed.any():
            inverse = torch.cholesky_inverse(lower)
            del lower  # of a large layer, each is hundreds of megabytes
            factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed.any():
                return factor  # type: ignore[no-any-return]
        noise = 10 * noise
    return None


def _round_columns(
    rows: torch.Tensor, factor: torch.Tensor, step: torch.Tensor, lowest: int, highest: int
) -> torch.Tensor:
    """Round column by column; each error moves the columns to its right. Changes `rows` and returns it.

    Weights at the end of the range stay there.

    rows (groups, out, k); factor: upper Cholesky factor of the inverse moments, (groups, k, k); step (groups, out, 1).
    """
    import torch

    k = rows.shape[2]
    start_steps = torch.round(rows / step)
    pinned = start_steps.abs() >= highest  # a quantizer that reads its scale from these weights shall find the same
    for start in range(0, k, _BLOCK):
        stop = min(start + _BLOCK, k)
        errors = torch.empty_like(rows[:, :, start:stop])
        for i in range(start, stop):
            exact = rows[:, :, i : i + 1].clone()
            steps = torch.where(pinned[:, :, i : i + 1], start_steps[:, :, i : i + 1], torch.round(exact / step))
            rows[:, :, i : i + 1] = torch.clamp(steps, lowest, highest) * step
            error = (exact - rows[:, :, i : i + 1]) / factor[:, i, i][:, None, None]
            rows[:, :, i + 1 : stop] -= error * factor[:, i : i + 1, i + 1 : stop]
            errors[:, :, i - start : i - start + 1] = error
        rows[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return rows


def _columns(x: torch.Tensor, weight: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """What the filters meet at every position: (groups, k, positions)."""
    from torch.nn import functional

    if not settings:
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
    size = tuple(weight.shape[2:])
    stride, padding, dilation = (settings[name] for name in ("stride", "padding", "dilation"))
    if weight.ndim == 3:  # one-dimensional: an image of height 1
        x, size = x.unsqueeze(2), (1, *size)
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    patches = functional.unfold(x, size, tuple(dilation), tuple(padding), tuple(stride))
    return patches.transpose(0, 1).reshape(settings["groups"], weight[0].numel(), -1)
