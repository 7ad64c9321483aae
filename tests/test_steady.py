"""A module that answers differently every time is refused with the place; one that settles on its first call is not."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edge_lab import zoo
from edge_lab.core.errors import InputError
from edge_lab.export import to
from edge_lab.zoo.steady import same, settle


class Part(nn.Module):
    """A part of a network whose answer is made by a function; it may count its calls."""

    def __init__(self, answer: Callable[[Part, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.answer, self.calls, self.kept = answer, 0, None
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.answer(self, x)


def _net(part: nn.Module) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 1), part)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            return {"scores": (self.body(x), None), "nothing": x * float("nan")}

    return Net()


def _running(part: Part, x: torch.Tensor) -> torch.Tensor:
    part.mean += x.mean()
    return x - part.mean


def _attention(part: Part, x: torch.Tensor) -> torch.Tensor:
    q = x.flatten(2)
    return F.scaled_dot_product_attention(q, q, q, dropout_p=0.1 if part.calls else 0.0)


class Stays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.drop.train()
        return self.drop(x)


@pytest.mark.parametrize(
    ("part", "why", "fix"),
    [
        (
            Part(lambda m, x: F.dropout(x, 0.5)),
            r"body.1 \(Part\) draws .*: F.dropout\(x, 0.5\) \(test_steady",
            "training",
        ),
        (Part(lambda m, x: F.dropout(x.mean((1, 2, 3)), 0.1)), "F.dropout", "training=self.training"),
        (Part(lambda m, x: x + torch.randn_like(x)), r"torch.randn_like\(x\)", "draw only `if self.training:`"),
        (Part(lambda m, x: torch.distributions.Normal(x, 1.0).rsample()), r"Normal\(x, 1.0\).rsample\(\)", "draw only"),
        (Part(_attention), "F.scaled_dot_product_attention", "dropout_p=p if self.training else 0.0"),
        (Stays(), r"body.1.drop \(Dropout\) .* is in training mode", r"remove the .train\(\) call"),
        (Part(lambda m, x: x * m.calls), r"changes itself in every call \(body.1.calls\)", "part of the input"),
        (Part(_running), r"body.1.calls, body.1.mean.*, and body.1 \(Part\) answers by that", "return it as an output"),
        (Part(lambda m, x: x * random.random()), r"body.1.calls", "self.training"),
    ],
)
def test_a_module_that_never_settles_is_refused_with_the_place(part: nn.Module, why: str, fix: str) -> None:
    with pytest.raises(InputError, match="the same input differently every time") as caught:
        zoo.from_module(_net(part), (1, 3, 8, 8))
    assert re.search(why, caught.value.why), caught.value.why
    assert re.search(fix, caught.value.fix), caught.value.fix


def test_numbers_from_elsewhere_are_found_by_where_they_begin() -> None:
    class Python(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * random.random()

    with pytest.raises(InputError, match=r"begins in body.1 \(Python\): equal inputs, other outputs"):
        settle(_net(Python()).eval(), torch.rand(1, 3, 8, 8))


class Fixed(nn.Module):
    """What the fixes say, followed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = F.dropout(x, 0.5, training=self.training).flatten(2)
        y = F.scaled_dot_product_attention(q, q, q, dropout_p=0.1 if self.training else 0.0)
        if self.training:
            y = y + torch.randn_like(y)
        return y


@pytest.mark.parametrize(
    "part",
    [
        Fixed(),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.LazyConv2d(2, 1),
        Part(lambda m, x: x if m.calls == 1 else x + 1),
        Part(lambda m, x: x + 0 * torch.randn_like(x)),
        Part(lambda m, x: x.mul_(2)),
    ],
)
def test_a_module_that_settles_is_taken(part: nn.Module) -> None:
    model = zoo.from_module(_net(part), (1, 3, 8, 8))
    assert model.spec.task == "tensor"


def test_answers_are_the_same_but_for_rounding() -> None:
    a = torch.tensor([1.0, float("nan"), float("-inf")])
    assert same({"a": (a, None)}, {"a": (a.clone(), None)})
    assert same(a, a * (1 + 1e-6))
    for other in (a * 1.001, a[:2], a.double(), a.nan_to_num(), None):
        assert not same(a, other)


def test_torchs_random_state_is_left_alone_and_what_is_made_is_the_same_in_every_process() -> None:
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        nets.append(zoo.from_module(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), (1, 3, 4, 4)).module)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nets[0][1].weight, nets[1][1].weight)


class Grid(nn.Module):
    """A detection head that makes its grid when it first sees a map, and multiplies it by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale, self.grid = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.tensor([2.0])), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.grid is None:
            self.grid = torch.stack(torch.meshgrid(*map(torch.arange, y.shape[2:]), indexing="ij"))[None].float()
        return torch.cat([y[:, :2].sigmoid() * self.scale + self.grid * self.scale, y[:, 2:]], 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "name"),
    itertools.product(
        [Grid, lambda: nn.Sequential(nn.LazyConv2d(8, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))],
        ["linux-onnx-fp32", "linux-xnnpack-fp32"],
    ),
)
def test_what_a_module_makes_on_its_first_call_can_be_exported(
    build: Callable[[], nn.Module], name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    bundle = to(zoo.from_module(build(), (1, 3, 16, 16), task="tensor"), name, out=tmp_path)
    assert bundle.metrics["sqnr_db"] > 100
