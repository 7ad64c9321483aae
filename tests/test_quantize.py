"""Static int8: what the recipe fuses and corrects, and that each part earns its place."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import SqueezeExcitation

from edge_lab.compress import StaticInt8, quantize
from edge_lab.compress.graphs.quantized import method_of, scheme_of
from edge_lab.compress.static.quantize import corrected
from edge_lab.compress.static.rounding import Nearest

CALIBRATION = nets.noise(count=16)
HELD_OUT = nets.noise(count=48)[16:]


class SamePad(nn.Module):
    """A pad of its own before a strided conv, as TensorFlow's SAME padding needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(functional.pad(x, (0, 1, 0, 1))))
        return self.second(functional.pad(x, (0, 1, 0, 1)))


class Deep(nn.Module):
    """Twelve conv + ReLU6 layers with weights that round badly: errors of the mean add up."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(12):
            conv = nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1)
            with torch.no_grad():
                conv.weight[:, 0, 0, 0] = 4.0  # one large weight a filter takes most of the 255 steps
            layers += [conv, nn.ReLU6()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def seeded(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def sqnr(module: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        pairs = [(module(torch.from_numpy(x)), other(torch.from_numpy(x))) for x in HELD_OUT]
    signal = sum(float(a.square().sum()) for a, _ in pairs)
    return float(10 * np.log10(signal / sum(float((a - b).square().sum()) for a, b in pairs)))


def operators(module: nn.Module) -> list[str]:
    return [str(n.target) for n in module.graph.nodes if n.op == "call_function"]  # type: ignore[union-attr]


def test_relu6_is_one_unit_with_its_conv() -> None:
    net = nets.good().module
    with torch.no_grad():
        net.body[1].weight.mul_(100)  # type: ignore[index, union-attr, operator]  # most values now leave 0 to 6
    fused, stock = (quantize(net, CALIBRATION[0], CALIBRATION, StaticInt8(fuse_relu6=f)) for f in (True, False))
    for module, between in ((fused, False), (stock, True)):
        clamps = [n for n in module.graph.nodes if "hardtanh" in str(n.target)]  # type: ignore[union-attr]
        assert clamps
        assert all(("dequantize" in str(c.args[0].target)) == between for c in clamps)
    assert sqnr(net, fused) > sqnr(net, stock) + 1  # dB


def test_pads_stay_in_int8() -> None:
    fused, stock = (quantize(seeded(SamePad), CALIBRATION[0], CALIBRATION, StaticInt8(fuse_pad=f)) for f in (1, 0))
    assert sum("quantize_per_tensor" in o for o in operators(fused)) < sum(
        "quantize_per_tensor" in o for o in operators(stock)
    )
    for module in (fused, stock):
        assert sqnr(seeded(SamePad), module) > 25


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_other_pads_are_left_alone(mode: str) -> None:
    class Mirror(SamePad):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(functional.pad(x, (1, 1, 1, 1), mode=mode))

    assert sqnr(seeded(Mirror), quantize(seeded(Mirror), CALIBRATION[0], CALIBRATION)) > 25


def test_bias_correction_takes_back_the_shift_of_the_mean() -> None:
    plain, better = (
        quantize(seeded(Deep), CALIBRATION[0], CALIBRATION, StaticInt8(correct_bias=c, rounding=Nearest()))
        for c in (False, True)
    )
    assert sqnr(seeded(Deep), better) > sqnr(seeded(Deep), plain) + 3  # dB


def test_the_float_version_for_other_quantizers_has_weights_on_the_grid() -> None:
    module = corrected(seeded(Deep), CALIBRATION[0], CALIBRATION)
    assert not [n for n in module.graph.nodes if n.op == "call_module"]  # type: ignore[union-attr]
    weights = [p for p in module.parameters() if p.ndim == 4]
    assert len(weights) == 12
    for weight in weights:
        step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        assert torch.allclose((weight / step).round() * step, weight, atol=1e-6)


class Faint(nn.Module):
    """A squeeze-and-excite block between convs whose outputs are so small that no range has 256 steps of 2**-12."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 10)
        self.squeeze = SqueezeExcitation(16, 8, scale_activation=nn.Hardsigmoid)
        for layer in (self.first, self.second, self.head, self.squeeze.fc1):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(functional.hardswish(self.first(x * 1e-3)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def test_the_float_version_takes_back_no_error_that_only_xnnpack_makes() -> None:
    net = seeded(Faint)
    assert sqnr(net, corrected(net, CALIBRATION[0], CALIBRATION)) > 25  # dB; ONNX Runtime's steps have no lower bound


def test_the_module_given_is_not_changed() -> None:
    module = seeded(Deep)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    quantized = quantize(module, CALIBRATION[0], CALIBRATION)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert (scheme_of(quantized), method_of(quantized)) == ("int8-static", "ptq")


def test_the_last_linear_layer_writes_floats_and_the_rest_stays_static() -> None:
    net = nets.good().module
    module, rounded = (
        quantize(net, CALIBRATION[0], CALIBRATION, StaticInt8(float_scores=f, correct_bias=False))
        for f in (True, False)
    )
    assert sum("choose_qparams" in name for name in operators(module)) == 1
    assert not any("choose_qparams" in name for name in operators(rounded))
    assert "linear" in operators(module)[-1]
    assert "dequantize" in operators(rounded)[-1]
    assert scheme_of(module) == scheme_of(rounded) == "int8-static"
    assert sqnr(net, module) > sqnr(net, rounded)


@pytest.mark.parametrize(
    ("net", "recipe"),
    [(nn.Linear(32, 10), StaticInt8()), (nets.good().module, StaticInt8(per_channel=False))],
    ids=["a lone layer", "one scale per layer"],
)
def test_scores_stay_static_where_the_engine_could_not_run_them(net: nn.Module, recipe: StaticInt8) -> None:
    inputs = CALIBRATION if any(isinstance(m, nn.Conv2d) for m in net.modules()) else nets.noise((1, 32))
    module = quantize(net.eval(), inputs[0], inputs, recipe)
    assert not any("choose_qparams" in name for name in operators(module))
