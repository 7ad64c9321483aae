"""Operators and types that a converter does not have."""

# ruff: noqa: D102  (forward is what the class is about; its docstring says it)
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import torch
from torch import Tensor, library, nn

from edge_lab.clinic.case import Case


@library.custom_op("edge_lab::opaque_gelu", mutates_args=())
def opaque_gelu(x: Tensor) -> Tensor:
    """Stands for your C++ kernel. Nobody has said what shape it returns."""
    return x * torch.sigmoid(1.702 * x)


@library.custom_op("edge_lab::quick_gelu", mutates_args=())
def quick_gelu(x: Tensor) -> Tensor:
    """The same kernel."""
    return x * torch.sigmoid(1.702 * x)


@quick_gelu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Opaque(nn.Module):
    """Calls a custom operator."""

    def forward(self, x: Tensor) -> Tensor:
        return opaque_gelu(x) + 1


class OpaqueFixed(nn.Module):
    """The same, with `@quick_gelu.register_fake`: a function that returns an empty tensor of the right shape."""

    def forward(self, x: Tensor) -> Tensor:
        return quick_gelu(x) + 1


class NoKernel(nn.Module):
    """A custom operator again. It has been captured; now somebody has to run it."""

    def forward(self, x: Tensor) -> Tensor:
        return quick_gelu(x) + 1


class NoKernelFixed(nn.Module):
    """The operator, written out."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x) + 1


class Median(nn.Module):
    """The median of each row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.median(1).values


class MedianFixed(nn.Module):
    """The largest of the smaller half."""

    def forward(self, x: Tensor) -> Tensor:
        half = (x.shape[1] + 1) // 2
        return x.topk(half, dim=1, largest=False).values[:, -1]


class Distance(nn.Module):
    """Distances to the entries of a code book."""

    def __init__(self) -> None:
        super().__init__()
        self.book = nn.Parameter(torch.linspace(-1, 1, 24).reshape(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.book)


class DistanceFixed(Distance):
    """The same from operators that everybody has."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] - self.book).square().sum(-1).sqrt()


class Bins(nn.Module):
    """Sorts values into bins."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor([-1.0, 0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bucketize(x, self.edges)


class BinsFixed(Bins):
    """Counts the edges below each value."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None] > self.edges).sum(-1)


class Rotary(nn.Module):
    """Turns pairs of channels by an angle: position encoding as many transformers have it."""

    turn: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(4, 4, 2))
        return torch.view_as_real(pairs * self.turn).flatten(1)


class RotaryFixed(nn.Module):
    """A complex product, written out in real numbers."""

    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cos", torch.arange(4.0).cos())
        self.register_buffer("sin", torch.arange(4.0).sin())

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.reshape(4, 4, 2).unbind(-1)
        return torch.stack((a * self.cos - b * self.sin, a * self.sin + b * self.cos), -1).flatten(1)


class Depth(nn.Module):
    """Millimetres as a depth camera counts them."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() * 1000).to(torch.uint16).to(torch.float32) / 1000


class DepthFixed(nn.Module):
    """A type that every converter has."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() * 1000).to(torch.int32).to(torch.float32) / 1000


def cases() -> tuple[Case, ...]:
    """The cases of this file."""
    torch.manual_seed(0)
    inputs = (torch.randn(4, 8), torch.randn(4, 8) * 3, torch.zeros(4, 8))
    return (
        Case(
            "custom-operator",
            "torch.export",
            "Export runs the code on tensors without data, and nothing says what shape this operator returns.",
            "Register a fake: a function that returns an empty tensor of the right shape and type.",
            Opaque,
            OpaqueFixed,
            inputs,
        ),
        Case(
            "missing-out-variant",
            "executorch",
            "ExecuTorch writes results into planned memory, so it needs the operator in a form with `out=`.",
            "Write it with ordinary functions, or register an out variant and its C++ kernel.",
            NoKernel,
            NoKernelFixed,
            inputs,
        ),
        Case(
            "operator-outside-core-aten",
            "executorch",
            "ExecuTorch knows the operators of Core ATen; a median is not among them and is not taken apart.",
            "Build it from operators that are: a top-k here.",
            Median,
            MedianFixed,
            inputs,
        ),
        Case(
            "no-onnx-translation",
            "onnx",
            "The ONNX exporter has no translation for this operator.",
            "Build it from simpler ones, or pass custom_translation_table to torch.onnx.export.",
            Distance,
            DistanceFixed,
            inputs,
        ),
        Case(
            "no-coreml-translation",
            "coreml",
            "coremltools has no translation for this operator.",
            "Build it from simpler ones, or register a translation with @register_torch_op.",
            Bins,
            BinsFixed,
            inputs,
        ),
        Case(
            "complex-numbers",
            "executorch",
            "ExecuTorch's operators take real tensors.",
            "Write the complex arithmetic out in real numbers.",
            Rotary,
            RotaryFixed,
            inputs,
        ),
        Case(
            "missing-type",
            "coreml",
            "coremltools has no 16-bit unsigned integers.",
            "Use int32 (or float) in between.",
            Depth,
            DepthFixed,
            inputs,
        ),
    )
