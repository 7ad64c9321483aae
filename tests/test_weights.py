"""Checkpoints as training scripts save them: the wrapping is left out where the rest fits, else it is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edge_lab.core.errors import DataError
from edge_lab.zoo.weights import load_into, read_checkpoint

Tensors = dict[str, Any]


class Net(nn.Module):
    """Two convolutions with a norm; `seed` decides all numbers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Linear(8, 5)
            nn.init.normal_(self.body[1].running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def _named(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {f"{prefix}{key}": value for key, value in tensors.items()}


WRAPPERS: dict[str, Callable[[Tensors], Tensors]] = {
    "torch.compile": _named("_orig_mod."),
    "DataParallel": _named("module."),
    "AveragedModel": lambda tensors: {"n_averaged": torch.tensor(5), **_named("module.")(tensors)},
    "attribute": _named("net."),
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3, "hyper_parameters": {"width": 8}},
    "model": lambda tensors: {"model": tensors, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "model_ema": lambda tensors: {"model_ema": tensors, "args": {"model": "net"}},
    "params": lambda tensors: {"params": tensors, "step": torch.tensor(7)},
    "config": lambda tensors: {"model": {"width": 8}, "state_dict": tensors},
}


def _load(content: Any, folder: Path, net: nn.Module) -> nn.Module:
    torch.save(content, folder / "w.pt")
    load_into(net, read_checkpoint(folder / "w.pt"), str(folder / "w.pt"))
    return net


def _equal(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return all(torch.equal(x, y) for x, y in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize("outer", [None, *WRAPPERS])
@pytest.mark.parametrize("middle", [None, *WRAPPERS])
def test_every_wrapping_in_every_order_is_left_out(outer: str | None, middle: str | None, tmp_path: Path) -> None:
    for inner in WRAPPERS:
        content: Tensors = dict(Net(1).state_dict())
        for name in (inner, middle, outer):
            content = WRAPPERS[name](content) if name else content
        assert _equal(_load(content, tmp_path, Net()), Net(1)), inner


def test_real_wrappers_and_wrapped_parts(tmp_path: Path) -> None:
    trained = Net(1)
    averaged = torch.optim.swa_utils.AveragedModel(torch.compile(nn.DataParallel(trained)))
    assert _equal(_load(averaged.state_dict(), tmp_path, Net()), trained)
    part = Net(1)
    part.body = nn.DataParallel(torch.compile(part.body))
    assert _equal(_load(part.state_dict(), tmp_path, Net()), trained)
    assert _equal(_load(trained.state_dict(), tmp_path, torch.compile(nn.DataParallel(Net()))), trained)


def test_a_network_inside_a_module_of_yours(tmp_path: Path) -> None:
    inside = nn.Sequential()
    inside.net = Net()
    assert _equal(_load({"model": Net(1).state_dict()}, tmp_path, inside).net, Net(1))


def test_names_that_belong_to_the_network_stay(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.module, self.model, self.ema = Net(seed), Net(seed + 1), Net(seed + 2)

    content = {"state_dict": _named("module.")(Own(5).state_dict())}
    assert _equal(_load(content, tmp_path, Own(0)), Own(5))


def test_lazy_layers_take_the_shapes_of_the_checkpoint(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    trained = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    _load(_named("_orig_mod.")(trained.state_dict()), tmp_path, net)
    x = torch.rand(2, 3, 4)
    assert torch.equal(net(x), trained(x))


TWO = {"model": Net(1).state_dict(), "model_ema": _named("module.")(Net(2).state_dict())}
MORE = {"state_dict": {**_named("net.")(Net(1).state_dict()), "loss.weight": torch.ones(5)}}


@pytest.mark.parametrize(
    ("content", "message", "seed"),
    [
        (TWO, r"model and model_ema\.module have its names", 2),
        (
            {"ema." + k: v for k, v in Net(3).state_dict().items()} | _named("online.")(Net(2).state_dict()),
            "ema and",
            2,
        ),
        (MORE, r"under state_dict\.net fits; beside it there is loss\.weight\.", 1),
    ],
)
def test_nothing_is_guessed_and_the_fix_works(content: Tensors, message: str, seed: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _load(content, tmp_path, Net())
    line = caught.value.fix[caught.value.fix.index("torch.save(") :].removesuffix(".")
    exec(line.replace("weights.pt", str(tmp_path / "kept.pt")), {"torch": torch})
    load_into(net := Net(), read_checkpoint(tmp_path / "kept.pt"), "kept.pt")
    assert _equal(net, Net(seed))


def test_the_same_weights_twice_are_no_question(tmp_path: Path) -> None:
    content = {"model": Net(1).state_dict(), "model_ema": Net(1).state_dict()}
    assert _equal(_load(content, tmp_path, Net()), Net(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), r"missing: head\.bias \(compared with what is under state_dict\._orig_mod\)"),
        (lambda t: t.update({"neck.weight": torch.ones(3)}), r"unexpected: _orig_mod\.neck\.weight"),
        (
            lambda t: t.update({"head.weight": torch.ones(6, 8)}),
            r"another shape: head\.weight \(6, 8\) instead of \(5, 8\)",
        ),
    ],
)
def test_what_does_not_fit_is_named_without_its_wrapping(
    change: Callable[[Tensors], Any], message: str, tmp_path: Path
) -> None:
    tensors: Tensors = dict(Net(1).state_dict())
    change(tensors)
    with pytest.raises(DataError, match=message):
        _load({"state_dict": _named("_orig_mod.")(tensors)}, tmp_path, Net())


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    content: Tensors = {"model": Net(1).state_dict()}
    content["again"] = content
    assert _equal(_load(content, tmp_path, Net()), Net(1))
