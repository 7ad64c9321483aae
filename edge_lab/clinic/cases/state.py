"""Modules that remember or overwrite: lists, counters, buffers, their own input."""

# ruff: noqa: D102  (forward is what the class is about; its docstring says it)

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edge_lab.clinic.case import Case, Tensors


class Growing(nn.Module):
    """The mean of everything seen so far."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.stack(self.seen).mean(0)


class GrowingFixed(nn.Module):
    """What it remembers goes in and comes out; the app carries it along."""

    def forward(self, x: Tensor, total: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total, count = total + x, count + 1
        return total / count, total, count


class Counter(nn.Module):
    """Fades out with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x / self.calls


class CounterFixed(nn.Module):
    """The counter is a tensor that goes in and comes out."""

    def forward(self, x: Tensor, calls: Tensor) -> tuple[Tensor, Tensor]:
        calls = calls + 1
        return x / calls, calls


class Buffer(nn.Module):
    """Subtracts a running mean that it keeps in a buffer."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.mean


class BufferFixed(nn.Module):
    """The running mean goes in and comes out."""

    def forward(self, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        mean = 0.9 * mean + 0.1 * x.mean(0)
        return x - mean, mean


class InPlace(nn.Module):
    """Overwrites the caller's tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x.clamp_(0, 1)
        return (x - 0.5) * 2


class InPlaceFixed(nn.Module):
    """Makes a new one."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(0, 1)
        return (x - 0.5) * 2


def _carry(*start: Tensor) -> Callable[[Callable[..., Tensors], Sequence[Tensor]], list[Tensors]]:
    """The app's side of a state: hand the last one to the next call."""

    def app(program: Callable[..., Tensors], inputs: Sequence[Tensor]) -> list[Tensors]:
        answers: list[Tensors] = []
        state = start
        for x in inputs:
            answer, *rest = program(x, *state)
            answers.append((answer,))
            state = tuple(rest)
        return answers

    return app


def cases() -> tuple[Case, ...]:
    """The cases of this file."""
    torch.manual_seed(0)
    inputs = tuple(torch.randn(4, 8) for _ in range(4))
    zeros, none = torch.zeros(4, 8), torch.zeros(1)
    return (
        Case(
            "list-mutation",
            None,
            "The list was read once, while the graph was recorded; the program has a memory of one input for ever.",
            "Make the memory an input and an output, and let the app carry it from call to call.",
            Growing,
            GrowingFixed,
            inputs,
            state=(zeros, none),
            app=_carry(zeros, none),
        ),
        Case(
            "python-counter",
            None,
            "A Python number is written into the graph as the constant that it was during export.",
            "Make it a tensor that goes in and comes out.",
            Counter,
            CounterFixed,
            inputs,
            state=(none,),
            app=_carry(none),
        ),
        Case(
            "mutated-buffer",
            "coreml",
            "A buffer that forward updates is a state, which Core ML programs have from iOS 18 on only.",
            "Make it an input and an output (or require iOS 18).",
            Buffer,
            BufferFixed,
            inputs,
            state=(torch.zeros(8),),
            app=_carry(torch.zeros(8)),
        ),
        Case(
            "in-place-on-the-input",
            "coreml",
            "Inputs of a Core ML program are read-only, and this one is overwritten.",
            "Use the function without the underscore.",
            InPlace,
            InPlaceFixed,
            inputs,
        ),
    )
