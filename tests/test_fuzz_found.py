"""Faults that tools/fuzz.py found: each a small network, with the cause in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edge_lab
from edge_lab.measure.mil import run_or_interpret

pytestmark = pytest.mark.slow


class After(nn.Module):
    """A convolution, and what is done with its maps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def decibels(net: nn.Module, shape: tuple[int, ...], target: str, out: Path) -> float:
    """SQNR of the program against PyTorch, on inputs that the export did not get."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(12)]
    model = edge_lab.from_module(net.eval(), shape, name="net", task="tensor")
    bundle = edge_lab.to(model, target, golden=inputs[:5], out=out)
    session = run_or_interpret(bundle) if target.startswith("ios") else edge_lab.load(bundle)
    with torch.no_grad():
        wanted = np.stack([_first(net(torch.from_numpy(x))).numpy() for x in inputs[5:]]).astype(np.float64)
    noise = wanted - np.stack([session.run(x)[0] for x in inputs[5:]])
    return float(10 * np.log10(np.square(wanted).sum() / max(np.square(noise).sum(), 1e-30)))


def _first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


@pytest.mark.parametrize("target", ["linux-xnnpack-fp32", "ios-coreml-fp32"])
def test_gelu_by_tanh_is_not_the_exact_one(target: str, tmp_path: Path) -> None:
    """ExecuTorch and coremltools overlook `approximate`: 74 dB, which no gate for fp32 refuses."""
    torch.manual_seed(0)
    assert decibels(nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh")), (1, 8), target, tmp_path) > 110


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(-1, keepdim=True)[0],
        lambda x: x.max(1)[0],
        lambda x: x.max(1, keepdim=True)[0],
        lambda x: x.max(3, keepdim=True)[0],
    ],
    ids=["last", "channels", "channels kept", "columns"],
)
def test_largest_along_any_axis_goes_to_xnnpack(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """XNNPACK knows it over rows and columns only; the partitioner took every axis and then failed without a cause."""
    torch.manual_seed(0)
    assert decibels(After(function), (1, 4, 12, 10), "linux-xnnpack-fp32", tmp_path) > 110


def test_a_slice_that_takes_all_goes_to_core_ml(tmp_path: Path) -> None:
    """PyTorch records x[:, :] as an alias; coremltools has no conversion for that."""
    net = nn.Sequential(nn.Conv1d(6, 8, 3), Whole())
    assert decibels(net, (1, 6, 12), "ios-coreml-fp32", tmp_path) > 110


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y[:]


def test_the_same_value_twice_goes_to_core_ml(tmp_path: Path) -> None:
    assert decibels(Twice(), (1, 6, 12), "ios-coreml-fp32", tmp_path) > 110
