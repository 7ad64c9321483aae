"""Modules that leave PyTorch or return what is no tensor: NumPy, print, dataclasses, None."""

# ruff: noqa: D102  (forward is what the class is about; its docstring says it)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edge_lab.clinic.case import Case


class Numpy(nn.Module):
    """One step is written with NumPy."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.clip(x.numpy(), -1, 1)) * 2


class NumpyFixed(nn.Module):
    """torch has it, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1) * 2


class Print(nn.Module):
    """Somebody was debugging."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.softmax(1)
        print(f"most certain: {y.max():.2f}")
        return y


class PrintFixed(nn.Module):
    """Looking at values is the caller's business."""

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


@dataclass
class Boxes:
    """A tidy result."""

    corners: Tensor
    scores: Tensor


class Dataclass(nn.Module):
    """Returns a class of its own."""

    def forward(self, x: Tensor) -> Boxes:
        return Boxes(corners=x[:, :4], scores=x[:, 4].sigmoid())


class DataclassFixed(nn.Module):
    """A dict (or tuple) of tensors; the app builds its class from it."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"corners": x[:, :4], "scores": x[:, 4].sigmoid()}


class Absent(nn.Module):
    """Its second head exists in training only."""

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        return {"out": x * 2, "aux": x.mean(1) if self.training else None}


class AbsentFixed(nn.Module):
    """An output that is not there is not returned."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": x * 2} | ({"aux": x.mean(1)} if self.training else {})


def cases() -> tuple[Case, ...]:
    """The cases of this file."""
    torch.manual_seed(0)
    inputs = (torch.randn(4, 8), torch.zeros(4, 8), torch.randn(4, 8) * 10)
    return (
        Case(
            "numpy",
            "torch.export",
            "While a graph is recorded, tensors hold no numbers that NumPy could compute with.",
            "Use the torch function of the same name.",
            Numpy,
            NumpyFixed,
            inputs,
        ),
        Case(
            "print",
            "torch.export",
            "A formatted print needs the value of a tensor, which does not exist while the graph is recorded.",
            "Take prints and logging out of forward; look at the outputs instead.",
            Print,
            PrintFixed,
            inputs,
        ),
        Case(
            "dataclass-output",
            "torch.export",
            "torch.export can take apart tuples, lists and dicts, but not a class that it has never heard of.",
            "Return a dict or a tuple of tensors.",
            Dataclass,
            DataclassFixed,
            inputs,
        ),
        Case(
            "none-in-the-outputs",
            "coreml",
            "Every output of a Core ML program is a tensor; None, numbers and strings are not.",
            "Return tensors only.",
            Absent,
            AbsentFixed,
            inputs,
        ),
    )
