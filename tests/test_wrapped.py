"""Networks in wrappers: what is around them for training is taken off; what can't be taken is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edge_lab import zoo
from edge_lab.capture.wrap import flatten
from edge_lab.core.errors import ExportError, InputError
from edge_lab.export import to
from edge_lab.zoo.steady import calling

SHAPE = (1, 3, 16, 16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


def _part(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def build(net: nn.Module) -> nn.Module:
        net.head = wrap(net.head)
        return net

    return build


def _in_place(net: nn.Module) -> nn.Module:
    net.compile()
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: torch.compile(nn.DataParallel(torch.optim.swa_utils.AveragedModel(net))),
    ],
)
def test_what_is_around_a_network_for_training_is_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = Net()
    model = zoo.from_module(wrap(net), SHAPE)
    assert type(model.module) is Net
    assert model.spec.name == "net"
    x = torch.rand(SHAPE)
    assert torch.equal(model.module(x), net(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.jit.script(Net()), r"the network is TorchScript \(of Net\)"),
        (torch.jit.trace(Net(), torch.rand(SHAPE)), "original nn.Module"),
        (_part(torch.jit.script)(Net()), "the part 'head' of Net is TorchScript"),
        (torch.export.export(Net().eval(), (torch.rand(SHAPE),)).module(), "pass the nn.Module that it was exported"),
    ],
)
def test_a_finished_program_is_no_network(module: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.from_module(module, SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [_part(torch.compile), _in_place])
def test_a_compiled_part_runs_as_written_and_is_named_where_it_is_in_the_way(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    net = Net()
    x = torch.rand(SHAPE)
    want = net(x)
    model = zoo.from_module(wrap(net), SHAPE)
    with calling():
        assert torch.equal(model.module(x), want)
    assert to(model, "linux-pt2-fp32", out=tmp_path).metrics["sqnr_db"] > 100
    with pytest.raises(ExportError, match=r"a part of it.* is wrapped in torch\.compile"):
        to(model, "linux-torchscript-fp32", out=tmp_path)


def _pruned(net: nn.Module) -> nn.Module:
    prune.l1_unstructured(net.body, "weight", 0.5)
    return prune.random_unstructured(net.head, "bias", 1) and net


COMPUTED = {
    "weight_norm": lambda net: nn.utils.parametrizations.weight_norm(net.body) and net,
    "spectral_norm": lambda net: nn.utils.parametrizations.spectral_norm(net.body) and net,
    "old weight_norm": lambda net: nn.utils.weight_norm(net.body) and net,
    "old spectral_norm": lambda net: nn.utils.spectral_norm(net.body) and net,
    "pruned": _pruned,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", COMPUTED)
def test_weights_that_are_computed_become_numbers_in_a_copy(name: str) -> None:
    net = COMPUTED[name](Net())
    model = zoo.from_module(net, SHAPE)
    names = sorted(net.state_dict())
    module, _ = flatten(model.module, np.ones(SHAPE, np.float32))
    assert sorted(module.state_dict()) == sorted(Net().state_dict())
    assert sorted(net.state_dict()) == names
    x = torch.rand(SHAPE)
    torch.testing.assert_close(module(x), net(x), rtol=1e-5, atol=1e-6)
    module(x).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["linux-xnnpack-int8", "linux-onnx-int8"])
def test_a_pruned_network_becomes_int8(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = [np.random.default_rng(i).standard_normal(SHAPE).astype(np.float32) for i in range(8)]
    model = zoo.from_module(_pruned(Net()), SHAPE, task="tensor")
    assert to(model, target, calibration=inputs, out=tmp_path).metrics["sqnr_db"] > 25
