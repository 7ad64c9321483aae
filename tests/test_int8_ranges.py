"""Static int8 where ranges are odd: numbers far below 1, masks of minus infinity; and layers quantizers overlook."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import edge_lab
from edge_lab.compress import SecondOrder, StaticInt8, quantize
from edge_lab.compress.graphs.masks import is_spoiled
from edge_lab.compress.static.rounding import parts, round_second_order
from edge_lab.core.numbers import sqnr_between
from edge_lab.formats.runtime import load
from edge_lab.zoo import from_module

PICTURE, LINE = (1, 3, 32, 32), (1, 3, 64)


def calibrated(module: nn.Module) -> nn.Module:
    """With batch norms that have seen something."""
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.3, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return module.eval()


def decibels(module: nn.Module, target: str, folder: Path, shape: tuple[int, ...] = PICTURE) -> float:
    """SQNR of a program on inputs that didn't calibrate it."""
    inputs = nets.noise(shape, count=24)
    model = from_module(calibrated(module), shape, task="tensor")
    bundle = edge_lab.to(model, target, calibration=inputs[:16], golden=inputs[16:], out=folder)
    session = load(bundle)
    with torch.no_grad():
        expected = np.concatenate([module(torch.from_numpy(x)).numpy().ravel() for x in inputs[16:]])
    return sqnr_between(expected, np.concatenate([session.run(x)[0].ravel() for x in inputs[16:]]))


class Map(nn.Module):
    """Convolutions whose output is a map of numbers of a given size, by its weights or by a factor."""

    def __init__(self, size: float, *, factor: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 4, 3, 1, 1)
        self.factor = size if factor else 1.0
        with torch.no_grad():
            self.second.weight.mul_(1 if factor else size)
            self.second.bias.mul_(1 if factor else size)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu()) * self.factor


class Shortcut(nn.Module):
    """Small maps that are added, joined and pooled."""

    def __init__(self, size: float, other: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.size, self.other = size, other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x * self.size).relu()
        z = y * self.other + self.second(y)
        return torch.cat([torch.max_pool2d(z, 2), torch.nn.functional.avg_pool2d(y, 2)], 1)


SMALL: dict[str, Callable[[], nn.Module]] = {
    "map": lambda: Map(1e-4),
    "tiny map": lambda: Map(1e-8),
    "factor": lambda: Map(1e-4, factor=True),
    "add, cat, pool": lambda: Shortcut(1e-5),
    "unlike addends": lambda: Shortcut(1.0, 1e-5),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_small_numbers_keep_their_steps(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert decibels(make(), "linux-xnnpack-int8", tmp_path) > 25


@pytest.mark.slow
def test_places_that_are_always_zero_can_still_be_computed(tmp_path: Path) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.dead, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
            with torch.no_grad():
                self.dead.bias.fill_(-50)  # type: ignore[union-attr]
                self.first.weight[3] = 0  # a channel that only has a bias
                self.last.weight[2] = 1e-12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.last(y + self.dead(y).relu() * y)

    torch.manual_seed(0)
    assert decibels(Dead(), "linux-xnnpack-int8", tmp_path) > 25


def line_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 16, 5, padding="same", dilation=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 5, 2, 2, groups=4),
        nn.ReLU6(),
        nn.Conv1d(16, 16, 4, padding="same"),
        nn.ReLU(),
        nn.Conv1d(16, 8, 3, padding="valid"),
    )


def line_back() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 16, 5, 2), nn.ReLU(), nn.ConvTranspose1d(16, 8, 4, 2, 1), nn.BatchNorm1d(8), nn.ReLU(),
        nn.ConvTranspose1d(8, 3, 3, padding=1, dilation=2), nn.ReLU(), nn.Conv1d(3, 4, 1),
    )  # fmt: skip


def picture_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, padding="same"),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, (3, 5), padding="same", dilation=(2, 1), groups=16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=4),
        nn.ReLU6(),
        nn.ConvTranspose2d(8, 3, 3, 2, 1, 1),
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["linux-xnnpack-int8", "linux-onnx-int8"])
@pytest.mark.parametrize(
    ("make", "shape"), [(line_net, LINE), (line_back, LINE), (picture_net, PICTURE)], ids=["line", "line back", "same"]
)
def test_every_kind_of_convolution(
    make: Callable[[], nn.Module], shape: tuple[int, ...], target: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    assert decibels(make(), target, tmp_path, shape) > 25


def computed_weights() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 4, 3),
        nn.Flatten(), nn.Linear(100, 5),
    )  # fmt: skip
    prune.ln_structured(net[0], "weight", 0.25, 2, 0)
    prune.l1_unstructured(net[3], "weight", 0.5)
    prune.random_unstructured(net[3], "bias", 0.3)
    parametrizations.weight_norm(net[5])
    parametrizations.spectral_norm(net[7])
    return net


def test_computed_weights_are_computed_once() -> None:
    torch.manual_seed(0)
    net, inputs = calibrated(computed_weights()), nets.noise()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph: Any = quantize(net, inputs[0], inputs)
    assert not [
        n for n in graph.graph.nodes if str(n.target) in ("aten.mul.Tensor", "aten._weight_norm_interface.default")
    ]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        pairs = [(net(torch.from_numpy(x)), graph(torch.from_numpy(x))) for x in inputs]
    assert sqnr_between(*(np.concatenate([p[i].numpy() for p in pairs]) for i in (0, 1))) > 25


def test_a_module_that_keeps_a_python_module_is_quantized() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.kinds = nn.Conv2d(3, 8, 3), types

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).relu()

    inputs = nets.noise()
    quantize(Keeps().eval(), inputs[0], inputs)


def test_long_filters_are_rounded_in_parts_and_a_warning_says_so() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 5)).eval()
    inputs = nets.noise(count=16)
    with pytest.warns(UserWarning, match=r"3 \(1800 inputs\) were rounded in parts"):
        quantize(net, inputs[0], inputs, StaticInt8(rounding=SecondOrder(largest=1000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(net, inputs[0], inputs)
    assert parts(1800, SecondOrder()) == [slice(0, 1800)]
    assert max(p.stop - p.start for p in parts(25088, SecondOrder())) <= 1024
    assert sum(p.stop - p.start for p in parts(25088, SecondOrder())) == 25088


def test_moments_that_cannot_be_inverted_end_at_the_nearest_step() -> None:
    torch.manual_seed(0)
    weight, scale = torch.randn(4, 6), torch.full((1,), 0.1)
    nearest = (weight / scale).round().clamp(-7, 7) * scale
    for moments in (torch.full((1, 6, 6), torch.nan), -torch.eye(6)[None] * 1e9, torch.zeros(1, 6, 6)):
        assert torch.allclose(round_second_order(weight, moments.double(), scale, -7, 7, SecondOrder()), nearest)


class Attention(nn.Module):
    """Causal attention over patches; `how` the future is hidden."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.patch, self.qkv, self.head = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 96), nn.Linear(32, 10)
        self.how = how
        past = torch.ones(16, 16, dtype=torch.bool).tril()
        value = {"inf": -torch.inf, "fill": -torch.inf, "where": -1e9, "add": -1e9, "hundred": -100.0}[how]
        self.register_buffer("past", past)
        self.register_buffer("mask", torch.full((16, 16), value).masked_fill(past, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 32**0.5
        if self.how == "fill":
            scores = scores.masked_fill(~self.past, -torch.inf)
        elif self.how == "where":
            scores = torch.where(self.past, scores, -1e9)
        else:
            scores = scores + self.mask
        return self.head((tokens + scores.softmax(-1) @ v).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["linux-xnnpack-int8", "linux-onnx-int8"])
@pytest.mark.parametrize("how", ["inf", "fill", "where", "hundred"])
def test_masked_scores_stay_in_float(how: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert decibels(Attention(how), target, tmp_path) > (25 if "xnnpack" in target else 12)  # ONNX's has int8 products


@pytest.mark.slow
def test_a_masked_map_without_softmax(tmp_path: Path) -> None:
    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 5)
            self.register_buffer("inside", torch.arange(16)[:, None] + torch.arange(16) > 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.where(self.inside, self.conv(x), -1e30).amax((2, 3)))

    torch.manual_seed(0)
    for target in ("linux-xnnpack-int8", "linux-onnx-int8"):
        assert decibels(Best(), target, tmp_path) > 25


def test_only_masks_count_as_spoiled() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((4, 16, 16)).astype(np.float32)
    future = ~np.tril(np.ones((16, 16), bool))
    for value in (-np.inf, np.finfo(np.float32).min, -1e9, -1e4):
        assert is_spoiled(np.where(future, np.float32(value), scores))
    assert not is_spoiled(scores * 1e6)
    assert not is_spoiled(np.exp(4 * scores) * 1e3)  # a long tail is no mask
    assert not is_spoiled(np.where(future, np.float32(-1e9), np.float32(0)))  # the mask itself loses nothing
    assert not is_spoiled(np.where(future, np.float32(np.nan), scores))  # a fault: refused elsewhere


class Large(nn.Module):
    """Numbers of some hundred thousands inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x * 1e5).relu()).relu().mean((2, 3)) * 1e-5)


@pytest.mark.slow
def test_float16_holds_masks_and_leaves_large_numbers_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for how in ("inf", "add"):
        assert decibels(Attention(how), "linux-onnx-fp16", tmp_path) > 30  # the gate's: ARM adds in float16
    assert decibels(Large(), "linux-onnx-fp16", tmp_path) > 30
