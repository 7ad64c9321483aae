"""Small networks that tests export: good ones, and ones that some format must refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edge_lab
from edge_lab.zoo import Model, from_module

SHAPE = (1, 3, 32, 32)


class Good(nn.Module):
    """Conv, batch norm, ReLU6, pool, linear: what a mobile net is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 16, 3, 2, 1))
        self.head = nn.Sequential(nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Branch(nn.Module):
    """Its result depends on the sign of a mean: tracing would record one side only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if y.mean() > 0:
            return y * 2
        return y - 1


class Item(nn.Module):
    """The number of repetitions is read out of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(int(x.abs().max().item())):
            x = self.linear(x)
        return x


class Numpy(Item):
    """The same through NumPy, which the TorchScript compiler does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(int(x.detach().abs().max().numpy())):
            x = self.linear(x)
        return x


class Detector(nn.Module):
    """A dict with a list inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = self.conv(x)
        return {"boxes": y[:, :4].flatten(2), "scores": [y[:, 4].flatten(1), y[:, 5].flatten(1)]}


class InPlace(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return self.conv(x)


class Special(nn.Module):
    """Uses an operator that no mobile format has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(self.linear(x))


class Nan(nn.Module):
    """Divides by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) / 0


class NoWeights(nn.Module):
    """Nothing in it can be quantized."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def good() -> Model:
    """The good network with seeded weights and statistics, and image preprocessing."""
    torch.manual_seed(0)
    module = Good().train()
    with torch.no_grad():
        for _ in range(4):
            module(torch.randn(16, 3, 32, 32))
    return from_module(module, SHAPE, name="good", labels=[f"class {i}" for i in range(10)])


def tensor_model(module: nn.Module, shape: tuple[int, ...] = SHAPE) -> Model:
    """A model that takes a ready tensor, with seeded weights."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return from_module(module, shape, task="tensor")


def noise(shape: tuple[int, ...] = SHAPE, count: int = 8) -> list[np.ndarray]:
    """Seeded float32 inputs."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]


def build() -> nn.Module:
    """For `tests/nets.py:build` on the command line."""
    return good().module


class Of(nn.Module):
    """A function of the input alone."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def decibels(net: nn.Module, shape: tuple[int, ...], target: str, out: Path) -> float:
    """SQNR of the program against PyTorch, on inputs that the export did not get."""
    from edge_lab.formats.coreml.mil.run import run_or_interpret

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(12)]
    model = edge_lab.from_module(net.eval(), shape, name="net", task="tensor")
    bundle = edge_lab.to(model, target, golden=inputs[:5], calibration=inputs[:5], out=out, force=True)
    session = run_or_interpret(bundle) if target.startswith("ios") else edge_lab.load(bundle)
    with torch.no_grad():
        wanted = np.stack([_first(net(torch.from_numpy(x))).numpy() for x in inputs[5:]]).astype(np.float64)
    noise = wanted - np.stack([session.run(x)[0] for x in inputs[5:]])
    return float(10 * np.log10(np.square(wanted).sum() / max(np.square(noise).sum(), 1e-30)))


def _first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]
