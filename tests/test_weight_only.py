"""Weight-only, dynamic and 16-bit: what is stored, what is computed, and that no label lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nets import SHAPE, Good
from torch import nn

import edge_lab
from edge_lab.bundle.folder import Quantization
from edge_lab.compress import (
    DynamicInt8,
    Half,
    WeightOnly,
    expand_weights,
    load_weights,
    quantize_dynamic,
    quantize_weights,
    quantized_layers,
    save_weights,
    to_half,
)
from edge_lab.core.errors import BundleError, ExportError, InputError
from edge_lab.zoo import Model, from_module


class Wide(nn.Module):
    """Every kind of layer that can be stored in integers, with odd sizes, groups and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3, padding=1)
        self.depthwise = nn.Conv2d(9, 9, 5, groups=9, padding=2)
        self.up = nn.ConvTranspose2d(9, 6, 2, stride=2)
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.up(self.depthwise(torch.relu(self.conv(x)))))
        return self.head(x.mean((2, 3)))


class Speech(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Big(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 3), nn.Linear(128, 500)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


def _wrap(module: nn.Module, shape: tuple[int, ...] = SHAPE) -> Model:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.uniform_(p, -0.5, 0.5)
    return from_module(module, shape, name="net")


def _input(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _run(model: Model, x: np.ndarray) -> np.ndarray:
    return edge_lab.eager(model)(x)


RECIPES = [WeightOnly(b, g) for b in (8, 4) for g in ("channel", "tensor", 7, 32)]


@pytest.mark.parametrize("recipe", RECIPES, ids=[r.label for r in RECIPES])
def test_no_weight_moves_by_more_than_half_a_step(recipe: WeightOnly) -> None:
    model = _wrap(Wide())
    quantized = quantize_weights(model, recipe)
    top = 2 ** (recipe.bits - 1) - 1
    for name in ("conv", "depthwise", "up", "head"):
        before, after = model.module.get_submodule(name).weight, quantized.module.get_submodule(name).weight
        assert after.shape == before.shape
        assert (after - before).abs().max() <= before.abs().max() / top / 2 * 1.001
        assert (after != before).any()


def test_each_channel_has_its_own_steps() -> None:
    linear = nn.Linear(32, 2, bias=False)
    model = from_module(linear, (1, 32), task="tensor")
    with torch.no_grad():
        linear.weight[0] *= 1000
    fine = quantize_weights(model).module.weight[1] - linear.weight[1]
    coarse = quantize_weights(model, WeightOnly(granularity="tensor")).module.weight[1] - linear.weight[1]
    assert fine.abs().max() < 0.02 * coarse.abs().max()


def test_the_input_model_is_not_changed_and_the_name_says_what_was_done() -> None:
    model = _wrap(Wide())
    before, y = {k: v.clone() for k, v in model.module.state_dict().items()}, _run(model, _input())
    for recipe, name in ((WeightOnly(), "net-w8"), (WeightOnly(4, 32), "net-w4-group32")):
        quantized = quantize_weights(model, recipe)
        assert quantized.spec.name == name
        expand_weights(quantized)
        _run(quantized, _input())  # expanding a copy must not take the weight from this one
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    np.testing.assert_array_equal(_run(model, _input()), y)


def test_expanded_weights_compute_the_same() -> None:
    quantized = quantize_weights(_wrap(Wide()), WeightOnly(4, 7))
    expanded = expand_weights(quantized)
    assert not quantized_layers(expanded.module).quantized
    assert set(expanded.module.state_dict()) == set(Wide().state_dict())
    np.testing.assert_array_equal(_run(expanded, _input()), _run(quantized, _input()))


def test_layers_can_be_kept_in_float() -> None:
    report = quantized_layers(quantize_weights(_wrap(Wide()), WeightOnly(4, keep=("head", "*wise"))).module)
    assert [layer.name for layer in report.untouched] == ["depthwise", "head"]
    assert str(report).startswith("2 of 4 layers quantized")


@pytest.mark.parametrize(("recipe", "least"), [(WeightOnly(8), 3.6), (WeightOnly(4), 6.5)])
def test_the_saved_file_is_smaller_and_comes_back_exactly(recipe: WeightOnly, least: float, tmp_path: Path) -> None:
    from safetensors.torch import save

    quantized = quantize_weights(_wrap(Big()), recipe)
    file = save_weights(quantized, tmp_path / "net.safetensors")
    assert len(save(Big().state_dict())) / file.stat().st_size > least
    loaded = load_weights(_wrap(Big()), file)
    assert loaded.spec.name == quantized.spec.name
    np.testing.assert_array_equal(_run(loaded, _input()), _run(quantized, _input()))


class Narrow(nn.Module):
    """Rows of one value: a weight and its scale for each channel, with no group to speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)
        self.fc = nn.Linear(1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((1, 2, 3)).unsqueeze(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("recipe", [WeightOnly(8), WeightOnly(4), WeightOnly(8, "tensor"), WeightOnly(8, 32)])
def test_layers_with_one_weight_a_channel_come_back(recipe: WeightOnly, tmp_path: Path) -> None:
    def wrapped() -> Model:
        return from_module(Narrow(), (1, 1, 4, 4), name="narrow", task="tensor")

    quantized = quantize_weights(wrapped(), recipe)
    loaded = load_weights(wrapped(), save_weights(quantized, tmp_path / "net.safetensors"))
    x = np.random.default_rng(0).random((1, 1, 4, 4), np.float32)
    np.testing.assert_array_equal(_run(loaded, x), _run(quantized, x))


def test_a_weight_file_for_another_network_is_refused(tmp_path: Path) -> None:
    file = save_weights(quantize_weights(_wrap(Big())), tmp_path / "net.safetensors")
    with pytest.raises(BundleError, match="does not fit"):
        load_weights(_wrap(Wide()), file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BundleError, match="not a file of packed weights"):
        load_weights(_wrap(Big()), file)


@pytest.mark.parametrize("recipe", [WeightOnly(8), WeightOnly(4, 32)], ids=["w8", "w4"])
def test_onnx_keeps_the_integers(recipe: WeightOnly, tmp_path: Path) -> None:
    """The file shrinks, and ONNX Runtime computes what PyTorch computes."""
    model = _wrap(Big())
    quantized = quantize_weights(model, recipe)
    full = edge_lab.to(model, "linux-onnx-fp32", out=tmp_path, golden=[_input()])
    small = edge_lab.to(quantized, f"linux-onnx-int{recipe.bits}-weights", out=tmp_path, golden=[_input()])
    assert full.path != small.path
    assert small.quantization == Quantization(f"int{recipe.bits}-weights", method="ptq", quantized=3, layers=3)
    assert full.program_bytes / small.program_bytes > 0.4 * 32 / recipe.bits
    np.testing.assert_allclose(edge_lab.load(small)(_input()), _run(quantized, _input()), rtol=1e-3, atol=1e-4)


def test_bad_weights_are_refused_by_name() -> None:
    model = _wrap(Wide())
    model.module.depthwise.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="'depthwise' hold 1 values"):
        quantize_weights(model)
    with pytest.raises(InputError, match="supported"):
        WeightOnly(bits=3)  # type: ignore[arg-type]


def test_nothing_is_quantized_twice() -> None:
    quantized = quantize_weights(_wrap(Good()))
    for verb in (quantize_weights, quantize_dynamic, to_half):
        with pytest.raises(InputError, match="already quantized"):
            verb(quantized)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ExportError, match="0 of 0 layers"):
        quantize_weights(_wrap(nn.Sequential(nn.ReLU())))


@pytest.mark.parametrize("runtime", ["eager", "inductor", "executorch"])
def test_dynamic_int8_refuses_a_conv_net(runtime: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
    with pytest.raises(ExportError, match="0 of 2 layers quantized"):
        quantize_dynamic(_wrap(net), DynamicInt8(runtime))  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["eager", "inductor", "executorch"])
def test_dynamic_int8_says_how_little_it_did(runtime: str) -> None:
    model = _wrap(Good())
    quantized = quantize_dynamic(model, DynamicInt8(runtime))  # type: ignore[arg-type]
    assert quantized.spec.name == "net-dynamic-int8-1of3"
    (done,) = quantized_layers(quantized.module).quantized
    assert (done.kind, done.bits, done.compute) == ("Linear", 8, "int8")
    assert not quantized_layers(model.module).quantized


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_dynamic_int8_quantizes_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    shape = (1, 20, 16)
    model = _wrap(Speech(kind), shape)
    quantized = quantize_dynamic(model)
    report = quantized_layers(quantized.module)
    assert quantized.spec.name == "net-dynamic-int8"
    assert [layer.name for layer in report.quantized] == ["cells", "head"]
    assert 3.5 < report.before / report.after <= 4
    x, y = _input(shape), _run(model, _input(shape))
    assert 0 < np.abs(_run(quantized, x) - y).max() < 0.1 * np.abs(y).max()


@pytest.mark.parametrize("config", [DynamicInt8("inductor"), DynamicInt8("executorch")], ids=lambda c: c.runtime)
def test_the_torchao_routes_are_close_to_float(config: DynamicInt8) -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model, x = _wrap(net, (1, 64)), _input((1, 64))
    error = np.abs(_run(quantize_dynamic(model, config), x) - _run(model, x)).max()
    assert 0 < error < 0.05 * np.abs(_run(model, x)).max()


def test_four_bit_dynamic_leaves_layers_that_do_not_divide() -> None:
    net = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 64))
    quantized = quantize_dynamic(_wrap(net, (1, 64)), DynamicInt8("executorch", weight_bits=4))
    assert quantized.spec.name == "net-dynamic-8da4w-1of2"
    assert [layer.bits for layer in quantized_layers(quantized.module).layers] == [4, 32]


def _lowered(module: nn.Module, x: np.ndarray) -> tuple[bytes, list[str]]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, (torch.from_numpy(x),), strict=False)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    calls = [str(n.target) for n in edge.exported_program().graph.nodes if n.op == "call_function"]
    return edge.to_executorch().buffer, [c for c in calls if "delegate" not in c and "getitem" not in c]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "smaller"), [(8, 3.3), (4, 5)])
def test_dynamic_linear_layers_reach_xnnpack(bits: int, smaller: float) -> None:
    """All of them are delegated, the program is smaller, and it computes what the quantized model computes."""
    from edge_lab.formats.runtime import executorch_bindings

    model = _wrap(nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64)), (1, 256))
    quantized = quantize_dynamic(model, DynamicInt8("executorch", weight_bits=bits))  # type: ignore[arg-type]
    x = _input((1, 256))
    (full, _), (small, outside) = _lowered(model.module, x), _lowered(quantized.module, x)
    assert outside == []
    assert len(full) / len(small) > smaller
    (got,) = executorch_bindings()._load_for_executorch_from_buffer(small).forward((torch.from_numpy(x),))
    want = _run(quantized, x)
    assert np.abs(got.numpy() - want).max() < 0.03 * np.abs(want).max()


@pytest.mark.parametrize(("dtype", "error"), [("float16", 0.005), ("bfloat16", 0.05)])
def test_half_takes_and_returns_float32(dtype: str, error: float) -> None:
    model = _wrap(Good())
    half = to_half(model, Half(dtype))  # type: ignore[arg-type]
    y, want = _run(half, _input()), _run(model, _input())
    assert y.dtype == np.float32
    assert 0 < np.abs(y - want).max() < error * np.abs(want).max()
    report = quantized_layers(half.module)
    assert {(layer.bits, layer.compute) for layer in report.layers} == {(16, dtype)}
    assert report.before == 2 * report.after
    assert half.spec.name == f"net-{dtype}"


def test_bfloat16_can_be_exported(tmp_path: Path) -> None:
    model = _wrap(Big())
    full, half = (
        edge_lab.to(m, f"linux-pt2-{precision}", out=tmp_path, golden=[_input()])
        for m, precision in ((model, "fp32"), (to_half(model, Half("bfloat16")), "bf16"))
    )
    assert full.program_bytes / half.program_bytes > 1.5
    assert float(half.metrics["sqnr_db"] or 0) > 20


def test_float16_refuses_a_weight_that_would_overflow() -> None:
    model = _wrap(Good())
    model.module.body[0].bias.data[0] = 1e6
    with pytest.raises(InputError, match=r"'body.0.bias' of net does not fit float16"):
        to_half(model)
    assert np.isfinite(_run(to_half(model, Half("bfloat16")), _input())).all()


@pytest.mark.real_data
def test_efficientnet_on_imagenet_photos() -> None:
    """Round to nearest per channel: 8 bits keep the answers, 4 bits break a mobile net. 40 photos."""
    from edge_lab import data, measure

    model = edge_lab.create("efficientnet_lite0")
    inputs = measure.prepare(data.load("imagenet-sample", limit=40), model.spec)
    reference = measure.outputs_of(edge_lab.eager(model), inputs)
    agreement = {}
    for bits in (8, 4):
        rounded = expand_weights(quantize_weights(model, WeightOnly(bits)))  # type: ignore[arg-type]
        agreement[bits] = measure.parity(reference, measure.outputs_of(edge_lab.eager(rounded), inputs)).agreement
    assert agreement[8] is not None
    assert agreement[4] is not None
    assert agreement[8] >= 92
    assert agreement[4] < 40
