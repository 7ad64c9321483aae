"""Sizes that depend on the data, and sizes that were to be dynamic and are not."""

# ruff: noqa: D102  (forward is what the class is about; its docstring says it)
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edge_lab.clinic.case import Case, Tensors


class Mask(nn.Module):
    """The mean of the positive values, if there are any."""

    def forward(self, x: Tensor) -> Tensor:
        positive = x[x > 0]
        if positive.numel() == 0:
            return torch.zeros(())
        return positive.mean()


class MaskFixed(nn.Module):
    """Every value stays in its place; the others count as zero."""

    def forward(self, x: Tensor) -> Tensor:
        positive = x > 0
        return (x * positive).sum() / positive.sum().clamp(min=1)


class Threshold(nn.Module):
    """The first two rows whose score passes."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x[:, 0] > 0][:2]


class ThresholdFixed(nn.Module):
    """Always two rows, and how many of them count."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        passed = x[:, 0] > 0
        order = torch.arange(0, -len(x), -1) + len(x) * passed  # those that pass first, in their own order
        rows = x[order.float().topk(2).indices]
        return rows, passed.sum().clamp(max=2)


class Outputs(nn.Module):
    """One output for each active row."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        active = int((x[:, 0] > 0).sum())
        return tuple(x[row].softmax(0) for row in range(active))


class OutputsFixed(nn.Module):
    """All rows in one tensor, and how many of them count."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.softmax(1), (x[:, 0] > 0).sum()


class Baked(nn.Module):
    """Goes through the batch one by one, which fixes how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row / row.norm() for row in x])


class BakedFixed(nn.Module):
    """All at once; the size stays a symbol."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True)


def _cut(program: Callable[..., Tensors], inputs: Sequence[Tensor]) -> list[Tensors]:
    """The app's side of a padded output: rows up to the count."""
    return [(rows[: int(count)],) for rows, count in map(program, inputs)]


def _cut_apart(program: Callable[..., Tensors], inputs: Sequence[Tensor]) -> list[Tensors]:
    return [tuple(rows) for (rows,) in _cut(program, inputs)]


def cases() -> tuple[Case, ...]:
    """The cases of this file."""
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    signs = (x, x.abs(), -x.abs(), x * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    batch = {0: torch.export.Dim("batch", min=2, max=16)}
    return (
        Case(
            "boolean-mask",
            "torch.export",
            "How many values a mask keeps is known only when the data is there, so nothing can be decided by it.",
            "Keep the shape and multiply by the mask.",
            Mask,
            MaskFixed,
            signs,
        ),
        Case(
            "data-dependent-size",
            "executorch",
            "Memory is planned before the data is there, so ExecuTorch has to know how many rows a mask leaves.",
            "Return a fixed number of rows (top-k) with a count; the app cuts.",
            Threshold,
            ThresholdFixed,
            signs,
            app=_cut,
        ),
        Case(
            "number-of-outputs",
            "torch.export",
            "A program has a fixed list of outputs; here the data says how long it is.",
            "Return one padded tensor and a count.",
            Outputs,
            OutputsFixed,
            signs,
            app=_cut_apart,
        ),
        Case(
            "baked-in-size",
            "torch.export",
            "A dynamic batch was asked for, but a Python loop over the batch (or a literal number) fixes its size.",
            "Write it for the whole batch at once; take sizes from x.shape.",
            Baked,
            BakedFixed,
            (x, torch.randn(7, 8), torch.randn(2, 8)),
            dims=batch,
        ),
    )
