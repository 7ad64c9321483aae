"""Cross-layer equalisation: the same float outputs, one scale for all filters, and a list of what can not be done."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

from edge_lab import zoo
from edge_lab.compress import StaticInt8, equalizable, equalize, quantize
from edge_lab.core.errors import InputError
from edge_lab.zoo import Model, from_module

CHECKPOINT = Path(__file__).parents[1] / "labs" / "checkpoints" / "tinynet-digits.safetensors"
CALIBRATION = nets.noise(count=8)
PER_TENSOR = StaticInt8(per_channel=False)


class Separable(nn.Module):
    """Pointwise, depthwise and grouped convolutions with batch norm, a zero pad, a pool, and two linear layers."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 16, 3, groups=8), nn.BatchNorm2d(16, affine=False)
        self.c, self.d = nn.Conv2d(16, 8, 3, groups=4), nn.Conv2d(8, 8, 1)
        self.pad, self.pool, self.active = nn.ZeroPad2d(1), nn.MaxPool2d(2), activation()
        self.e, self.f = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pad(self.active(self.norm_a(self.a(x))))
        x = self.pool(self.active(self.norm_b(self.b(x))))
        x = self.d(self.c(x)).mean((2, 3))
        return self.f(self.active(self.e(x)))


def model(activation: type[nn.Module] = nn.ReLU) -> Model:
    """Trained statistics, and channels whose ranges differ a thousandfold without changing what is computed."""
    torch.manual_seed(0)
    module = Separable(activation).train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(16, 3, 32, 32))
        factor = torch.logspace(-1.5, 1.5, 8)
        module.c.weight *= factor.view(-1, 1, 1, 1)
        module.c.bias *= factor
        module.d.weight /= factor.view(1, -1, 1, 1)
    return from_module(module.eval(), nets.SHAPE, task="tensor", name="separable")


def outputs(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([module(torch.from_numpy(x)) for x in nets.noise(count=4)])


def sqnr(net: Model, config: StaticInt8) -> float:
    exact, rounded = outputs(net.module), outputs(quantize(net.module, CALIBRATION[0], CALIBRATION, config))
    return float(10 * torch.log10(exact.square().sum() / (exact - rounded).square().sum()))


def test_the_float_outputs_stay_the_same_and_the_input_is_not_changed() -> None:
    net = model()
    before = {k: v.clone() for k, v in net.module.state_dict().items()}
    equal = equalize(net)
    exact = outputs(net.module)
    assert float((outputs(equal.module) - exact).abs().max() / exact.abs().max()) < 1e-4
    assert all(torch.equal(v, before[k]) for k, v in net.module.state_dict().items())
    assert equal.spec.name == "separable-equalized"


def test_every_pair_has_equal_ranges_afterwards() -> None:
    report, module = equalizable(model()), equalize(model()).module
    assert {(p.first, p.second) for p in report.possible} == {("a", "b"), ("b", "c"), ("c", "d"), ("e", "f")}
    writing = module.c.weight.abs().flatten(1).amax(1)
    reading = module.d.weight.abs().amax((0, 2, 3))
    assert torch.allclose(writing, reading, rtol=0.01)
    assert float((writing.max() / writing.min()).detach()) < 40  # it was a thousand


def test_int8_with_one_scale_a_layer_gets_better() -> None:
    assert sqnr(equalize(model()), PER_TENSOR) > sqnr(model(), PER_TENSOR) + 3


def test_relu6_is_skipped_and_said() -> None:
    report = equalizable(model(nn.ReLU6))
    assert {(p.first, p.second) for p in report.possible} == {("c", "d")}
    assert "3 not: a clamp (ReLU6) stands between" in str(report)
    exact = outputs(model(nn.ReLU6).module)
    assert float((outputs(equalize(model(nn.ReLU6)).module) - exact).abs().max() / exact.abs().max()) < 1e-4


def test_a_trained_residual_network_computes_the_same() -> None:
    tiny = zoo.create("tinynet", weights=str(CHECKPOINT))
    exact = outputs(tiny.module)
    assert float((outputs(equalize(tiny).module) - exact).abs().max() / exact.abs().max()) < 1e-4
    assert {p.second for p in equalizable(tiny).possible} == {f"blocks.{i}.conv2" for i in range(3)}


def test_what_can_not_be_equalised() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(torch.relu(self.norm(self.conv(x))))

    with pytest.raises(InputError, match="used more than once"):
        equalize(nets.tensor_model(Twice()))
    with pytest.raises(InputError, match="no two layers"):
        equalize(nets.tensor_model(nn.Conv2d(3, 4, 3)))
    with pytest.raises(InputError, match="quantized"):
        equalize(Model(quantize(model().module, CALIBRATION[0], CALIBRATION), model().spec))
    broken = model()
    with torch.no_grad():
        broken.module.d.weight[0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        equalize(broken)
