"""The sensitivity report points at the layer that int8 hurts, and mixed precision keeps that layer in float."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab.compress import Sensitivity, StaticInt8, quantize, sensitivity
from edge_lab.compress.search.auto import STOCK
from edge_lab.core.errors import ExportError, InputError
from edge_lab.export import target
from edge_lab.zoo import Model, from_module

CALIBRATION = nets.noise(count=8)
HELD_OUT = nets.noise(count=12)[8:]


class Body(nn.Module):
    """Four layers, an addition and a head; one layer's weights have a range that int8 can't hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.last = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + nn.functional.relu6(self.wide(x))
        x = nn.functional.relu6(self.last(torch.relu(self.depth(x))))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def model() -> Model:
    torch.manual_seed(0)
    module = Body().eval()
    with torch.no_grad():
        module.wide.weight[:, 0, 0, 0] = 30.0  # one weight takes all steps; the others round to 0
    return from_module(module, nets.SHAPE, task="tensor", name="body")


@pytest.fixture(scope="module")
def stock() -> Sensitivity:
    return sensitivity(model(), HELD_OUT, STOCK, calibration=CALIBRATION)


@pytest.fixture(scope="module")
def fused() -> Sensitivity:
    return sensitivity(model(), HELD_OUT, calibration=CALIBRATION)


def sqnr(module: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        pairs = [(module(torch.from_numpy(x)), other(torch.from_numpy(x))) for x in HELD_OUT]
    noise = sum(float((a - b).square().sum()) for a, b in pairs)
    return float(10 * np.log10(sum(float(a.square().sum()) for a, _ in pairs) / noise))


def test_the_damaged_layer_comes_first_and_every_layer_has_its_name(stock: Sensitivity) -> None:
    net, report = model(), stock
    assert report.worst(1) == ("wide",)
    modules = dict(net.module.named_modules())
    assert {x.name for x in report.layers} - {"input"} <= set(modules)
    kinds = {x.name: x.kind for x in report.layers if x.has_weights}
    assert kinds == {"stem": "conv", "wide": "conv", "depth": "depthwise conv", "last": "conv", "head": "linear"}
    assert [x.name for x in report.in_order if x.has_weights] == ["stem", "wide", "depth", "last", "head"]
    assert [x.own_db for x in report.layers] == sorted(x.own_db for x in report.layers)


def test_the_total_is_that_of_the_quantized_network(stock: Sensitivity, fused: Sensitivity) -> None:
    net = model()
    for report in (stock, fused):
        converted = quantize(net.module, HELD_OUT[0], CALIBRATION, report.config)
        assert report.output_db == pytest.approx(sqnr(net.module, converted), abs=0.2)
        assert report.in_order[-1].output_db == pytest.approx(report.output_db, abs=1e-6)


def test_a_clamp_behind_the_rounding_is_reported_and_the_fused_recipe_has_none(
    stock: Sensitivity, fused: Sensitivity
) -> None:
    cut = {x.name: x.cut for x in stock.layers}
    assert cut["wide"] > 0.5  # values far above 6 and below 0 are rounded, then clamped away
    assert cut["stem"] == cut["head"] == 0  # conv + ReLU is one unit in the stock recipe as well
    assert not any(x.cut for x in fused.layers)
    assert "before a clamp" in stock.table()
    assert "before a clamp" not in fused.table()


def test_a_layer_in_float_does_no_damage_and_the_network_is_better(stock: Sensitivity) -> None:
    net = model()
    config = replace(STOCK, keep_float=stock.worst(1))
    report = sensitivity(net, HELD_OUT, config, calibration=CALIBRATION)
    own = {x.name: x.own_db for x in report.layers}
    assert own["wide"] > 40  # its output is still rounded for the next layer
    assert sqnr(net.module, quantize(net.module, HELD_OUT[0], CALIBRATION, config)) > stock.output_db + 3


def test_the_report_is_text_markdown_and_a_picture(stock: Sensitivity, fused: Sensitivity) -> None:
    report = stock
    assert str(report) == report.table()
    assert report.table(2).count("\n") == 3  # head, two rows, summary
    assert report.markdown(None).count("\n| ") == len(report.layers) + 1
    figure = report.plot(against=fused)
    assert len(figure.axes) == 2
    assert len(figure.axes[1].patches) == len(report.layers)
    with pytest.raises(FrozenInstanceError):
        report.images = 1  # type: ignore[misc]


def test_images_are_preprocessed_and_at_most_four_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    report = sensitivity(
        nets.good(), edge_lab.data.load("digits").take(9), calibration=edge_lab.data.load("crops").take(2)
    )
    assert report.images == 4
    assert report.layers[0].name
    assert capsys.readouterr().err == ""


def test_unusable_arguments() -> None:
    with pytest.raises(InputError, match="no evaluation inputs"):
        sensitivity(model(), [], calibration=CALIBRATION)
    with pytest.raises(InputError, match="evaluation input 0 is float32"):
        sensitivity(model(), [np.zeros((1, 3, 8, 8), np.float32)], calibration=CALIBRATION)
    with pytest.raises(InputError, match="NaN"):
        sensitivity(model(), [np.full(nets.SHAPE, np.nan, np.float32)], calibration=CALIBRATION)
    with pytest.raises(InputError, match="no preprocessing"):
        sensitivity(model(), HELD_OUT)
    with pytest.raises(ExportError, match="nothing in this model"):
        sensitivity(nets.tensor_model(nets.NoWeights()), HELD_OUT, calibration=CALIBRATION)
    with pytest.raises(InputError, match="quantized"):
        quantized = quantize(nets.good().module, HELD_OUT[0], CALIBRATION, STOCK)
        sensitivity(replace(model(), module=quantized), HELD_OUT, calibration=CALIBRATION)


@pytest.mark.parametrize(
    ("patterns", "why"), [(("nothing*",), "fits no layer"), ("wide", "no tuple"), (("",), "no tuple")]
)
def test_a_pattern_that_fits_nothing_is_refused(patterns: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        quantize(model().module, HELD_OUT[0], CALIBRATION, StaticInt8(keep_float=patterns))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["android-xnnpack-int8", "linux-onnx-int8"])
def test_mixed_programs_are_better_and_larger_by_the_weights_in_float(name: str, tmp_path: Path) -> None:
    net, sizes, quality = model(), [], []
    for keep in ((), ("wide",), ("wide", "l?st")):
        goal = replace(target(name), quantize=replace(STOCK, keep_float=keep))
        bundle = edge_lab.to(net, goal, calibration=CALIBRATION, out=tmp_path / str(len(keep)))
        session = edge_lab.load(bundle)
        with torch.no_grad():
            pairs = [(net.module(torch.from_numpy(x)).numpy(), session(x)) for x in HELD_OUT]
        sizes.append(bundle.program_bytes)
        quality.append(sum(np.square(a).sum() for a, _ in pairs) / sum(np.square(a - b).sum() for a, b in pairs))
        assert bundle.runtime.delegated in (None, 1.0)
    assert quality[1] > 2 * quality[0]
    weights = 8 * 8 * 9  # of each of the two layers: three more bytes a weight, and their scales less
    for more in (sizes[1] - sizes[0], sizes[2] - sizes[1]):
        assert 0 < more < 2 * 3 * weights
