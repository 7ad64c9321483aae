"""Second-order rounding, observers, and what static int8 refuses: on a small trained network and held-out pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import data, zoo
from edge_lab.compress import (
    Histogram,
    MinMax,
    MovingAverage,
    Nearest,
    Percentile,
    SecondOrder,
    StaticInt8,
    quantize,
    quantize_onnx,
    quantized_layers,
)
from edge_lab.compress.static.quantize import corrected, observed
from edge_lab.compress.static.rounding import round_second_order, second_moments
from edge_lab.core.errors import InputError
from edge_lab.export import target

CHECKPOINT = Path(__file__).parents[1] / "labs" / "checkpoints" / "tinynet-digits.safetensors"


@pytest.fixture(scope="module")
def tiny() -> zoo.Model:
    return zoo.create("tinynet", weights=str(CHECKPOINT))


def pixels(model: zoo.Model, split: str, count: int) -> list[np.ndarray]:
    return [edge_lab.preprocess(image, model.spec) for image in data.load("digits", split).take(count)]


@pytest.fixture(scope="module")
def calibration(tiny: zoo.Model) -> list[np.ndarray]:
    return pixels(tiny, "train", 24)


def error(model: zoo.Model, module: nn.Module, inputs: list[np.ndarray]) -> float:
    with torch.no_grad():
        pairs = [(model.module(torch.from_numpy(x)), module(torch.from_numpy(x))) for x in inputs]
    return sum(float((a - b).square().sum()) for a, b in pairs)


@pytest.mark.parametrize("per_channel", [True, False])
def test_rounding_for_the_output_beats_rounding_to_nearest(
    tiny: zoo.Model, calibration: list[np.ndarray], per_channel: bool
) -> None:
    held_out = pixels(tiny, "test", 60)
    recipe = StaticInt8(per_channel=per_channel)
    nearest, better = (  # activations in float: what is left is the error of the weights
        error(tiny, corrected(tiny.module, calibration[0], calibration, replace(recipe, rounding=r)), held_out)
        for r in (Nearest(), SecondOrder())
    )
    assert better < 0.75 * nearest


def conv_case(groups: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correlated inputs, a weight, and its steps of 4 bits (-7 to 7)."""
    torch.manual_seed(0)
    x = torch.randn(8, 12, 9, 9).cumsum(2).cumsum(3) + torch.randn(8, 1, 9, 9)
    weight = torch.randn(6 if groups == 1 else 12, 12 // groups, 3, 3)
    return x, weight, weight.abs().amax((1, 2, 3)) / 7


SETTINGS = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2]}


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_a_convolution_keeps_its_output_and_its_grid(groups: int) -> None:
    x, weight, scale = conv_case(groups)
    settings = SETTINGS | {"groups": groups}
    moments = second_moments([x[i : i + 1] for i in range(8)], weight, settings)
    assert moments.shape == (groups, 9 * 12 // groups, 9 * 12 // groups)
    rounded = round_second_order(weight, moments, scale, -7, 7, SecondOrder())
    steps = rounded / scale[:, None, None, None]
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert steps.abs().amax((1, 2, 3)).round().eq(7).all()  # the largest weight still spans the range
    nearest = (weight / scale[:, None, None, None]).round() * scale[:, None, None, None]

    def off(w: torch.Tensor) -> float:
        return float((torch.conv2d(x, w - weight, None, **settings)).square().mean())

    assert off(rounded) < 0.5 * off(nearest)


def test_moments_are_those_of_what_the_filters_meet() -> None:
    x, weight, _ = conv_case()
    moments = second_moments([x[:1]], weight, SETTINGS | {"groups": 1})[0]
    outputs = torch.conv2d(x[:1], weight, None, **SETTINGS)[0].flatten(1).double()
    rows = weight.flatten(1).double()
    assert torch.allclose((rows @ moments @ rows.T).diagonal(), outputs.square().mean(1), rtol=1e-4)
    line, kernel = torch.randn(2, 4, 20), torch.randn(5, 4, 3)
    settings = {"stride": [2], "padding": [1], "dilation": [1], "groups": 1}
    moments = second_moments([line[:1], line[1:]], kernel, settings)[0]
    outputs = torch.conv1d(line, kernel, None, 2, 1).transpose(0, 1).flatten(1).double()
    rows = kernel.flatten(1).double()
    assert torch.allclose((rows @ moments @ rows.T).diagonal(), outputs.square().mean(1), rtol=1e-4)


def test_much_damping_ends_at_the_nearest_step() -> None:
    x, weight, scale = conv_case()
    moments = second_moments([x], weight, SETTINGS | {"groups": 1})
    rounded = round_second_order(weight, moments, scale, -7, 7, SecondOrder(damping=1e9))
    wide = scale[:, None, None, None]
    assert torch.allclose(rounded, (weight / wide).round() * wide)


def scales(observer: MinMax | MovingAverage | Histogram, inputs: list[np.ndarray]) -> list[float]:
    prepared = observed(nets.good().module, inputs[0], inputs, StaticInt8(observer=observer))
    found = [m for m in prepared.modules() if hasattr(m, "min_val") and m.min_val.numel() == 1]
    return [float(m.calculate_qparams()[0]) for m in found]


def test_observers_answer_an_outlier_differently() -> None:
    inputs = nets.noise(count=12)
    inputs[5] = inputs[5].copy()
    inputs[5][0, 0, 0, 0] = 60
    widest, average, histogram = (scales(o, inputs) for o in (MinMax(), MovingAverage(), Histogram()))
    assert average[0] < 0.7 * widest[0]
    assert histogram != widest
    assert all(h <= w * 1.001 for h, w in zip(histogram, widest, strict=True))


@pytest.mark.parametrize("observer", [MinMax(), MovingAverage(), Percentile(99)])
def test_the_onnx_route_has_its_own_observers(observer: MinMax | MovingAverage | Percentile, tmp_path: Path) -> None:
    recipe = replace(target("linux-onnx-int8"), quantize=StaticInt8(observer=observer))
    inputs = nets.noise(count=12)
    inputs[5] = inputs[5] * 10
    bundle = edge_lab.to(nets.good(), recipe, calibration=inputs, out=tmp_path)
    first = next(n for n in onnx.load(bundle.program_path).graph.node if n.op_type == "QuantizeLinear")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(bundle.program_path).graph.initializer}
    step = float(values[first.input[1]])
    widest = (max(x.max() for x in inputs) - min(x.min() for x in inputs)) / 255
    assert step == pytest.approx(widest, rel=1e-3) if observer == MinMax() else step < 0.7 * widest


def test_the_scores_of_an_onnx_program_are_floats(tmp_path: Path) -> None:
    bundle = edge_lab.to(nets.good(), "linux-onnx-int8", calibration=nets.noise(), out=tmp_path)
    graph = onnx.load(bundle.program_path).graph
    last = next(n for n in graph.node if graph.output[0].name in n.output)
    assert last.op_type in ("Gemm", "MatMul", "Add")


def test_an_observer_that_a_route_lacks_is_refused(tmp_path: Path) -> None:
    inputs = nets.noise()
    with pytest.raises(InputError, match=r"PT2E.*no Percentile"):
        quantize(nets.good().module, inputs[0], inputs, StaticInt8(observer=Percentile()))
    with pytest.raises(InputError, match="ONNX Runtime has no Histogram"):
        quantize_onnx(tmp_path / "a", tmp_path / "b", inputs, StaticInt8(observer=Histogram()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SecondOrder(damping=0),
        lambda: MovingAverage(0),
        lambda: MovingAverage(1.5),
        lambda: Histogram(bins=16),
        lambda: Percentile(100.5),
        lambda: Percentile(float("nan")),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises(InputError, match="can't be used"):
        make()  # type: ignore[operator]


class Root(nn.Module):
    """NaN inside for negative sums, and finite again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(self.second(self.first(x).log()))


@pytest.mark.parametrize("observer", [MinMax(), MovingAverage(), Histogram()])
def test_nan_is_refused_with_the_place(observer: MinMax) -> None:
    inputs = nets.noise()
    with pytest.raises(InputError, match="NaN or infinity came out of"):
        quantize(Root(), inputs[0], inputs, StaticInt8(observer=observer))
    broken = nets.good().module
    with torch.no_grad():
        broken.head[3].weight[2, 3] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match=r"NaN or infinity in head\.3\.weight"):
        quantize(broken, inputs[0], inputs)


def test_layers_that_stay_in_float_are_counted() -> None:
    inputs = nets.noise()
    report = quantized_layers(quantize(nets.good().module, inputs[0], inputs, StaticInt8(keep_float=("head",))))
    assert [(layer.name, layer.bits, layer.compute) for layer in report.layers] == [
        ("body.0", 8, "int8"),
        ("body.3", 8, "int8"),
        ("head.3", 32, "float32"),
    ]
    assert str(report).startswith("2 of 3 layers quantized")
    all_done = quantized_layers(quantize(nets.good().module, inputs[0], inputs))
    assert [layer.bits for layer in all_done.layers] == [8, 8, 8]
    assert all_done.after < 0.4 * all_done.before
