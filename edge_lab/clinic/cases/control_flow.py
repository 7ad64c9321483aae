"""Python that asks a tensor for its value: branches, loops, slices, assertions."""

# ruff: noqa: D102  (forward is what the class is about; its docstring says it)

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_lab.clinic.case import Case


class Branch(nn.Module):
    """What it does depends on the sign of the mean."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x * 2
        return x - 1


class BranchFixed(nn.Module):
    """Both sides are computed; the condition chooses."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.mean() > 0, x * 2, x - 1)


class Loop(nn.Module):
    """Halves its input until it fits."""

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return x


class LoopFixed(nn.Module):
    """A fixed number of steps, each of which may do nothing."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(8):  # enough for values up to 256
            x = torch.where(x.abs().max() > 1, x / 2, x)
        return x


class Item(nn.Module):
    """The first column says how many columns count."""

    def forward(self, x: Tensor) -> Tensor:
        count = int(x[0, 0].abs().item())
        return x[:, 1 : 1 + count].sum(1)


class ItemFixed(nn.Module):
    """The number stays a tensor; a mask takes the place of the slice."""

    def forward(self, x: Tensor) -> Tensor:
        count = x[0, 0].abs().floor()
        counts = torch.arange(x.shape[1] - 1) < count
        return (x[:, 1:] * counts).sum(1)


class Range(nn.Module):
    """Adds up as many rows as are active."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.shape[1])
        for row in range((x[:, 0] > 0).sum()):
            total = total + x[row]
        return total


class RangeFixed(nn.Module):
    """All rows, the inactive ones times zero."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[0]) < (x[:, 0] > 0).sum()
        return (x * rows[:, None]).sum(0)


class Assert(nn.Module):
    """Checks its input before it works."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.abs().max() < 100, "not normalised"
        return x.tanh()


class AssertFixed(nn.Module):
    """The check moved to where the input is made: the app's preprocessing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


def cases() -> tuple[Case, ...]:
    """The cases of this file."""
    torch.manual_seed(0)
    small, steps = torch.rand(4, 8), torch.linspace(0, 1, 8)
    counted = torch.randn(4, 8).index_fill(1, torch.tensor([0]), 3.5)
    return (
        Case(
            "branch",
            "torch.export",
            "An `if` on a tensor's value has two outcomes; a graph has one.",
            "Compute both sides and choose with torch.where (or torch.cond, if a side is expensive).",
            Branch,
            BranchFixed,
            (small, small - 2, small - 0.4),
        ),
        Case(
            "while-loop",
            "torch.export",
            "How often a `while` runs depends on the data; a graph has a fixed length.",
            "Loop a fixed number of times and let torch.where skip the steps that are not needed.",
            Loop,
            LoopFixed,
            (small, small * 3, small * 200, -small * 50),
        ),
        Case(
            "item",
            "torch.export",
            "`.item()` and `int()` turn a tensor into a Python number, which the graph can't carry on as a size.",
            "Keep the number in a tensor and replace the slice by a mask.",
            Item,
            ItemFixed,
            (counted, -counted / 3, counted * 0.1),
        ),
        Case(
            "loop-over-tensor",
            "torch.export",
            "`range()` needs the value of a tensor while the graph is being recorded, and there is none yet.",
            "Do all rows at once and multiply the others by zero.",
            Range,
            RangeFixed,
            (torch.randn(4, 8), small + 1, small - 2),
        ),
        Case(
            "assertion",
            "torch.export",
            "An `assert` on a tensor's value is a branch, too.",
            "Check inputs where they are made, not in forward.",
            Assert,
            AssertFixed,
            (small, -9 * small, steps.repeat(4, 1)),
        ),
    )
