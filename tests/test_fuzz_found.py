"""Faults that tools/fuzz.py found: each a small network, with the cause in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Of, decibels
from torch import Tensor, nn
from torch.nn import functional as F

import edge_lab
from edge_lab.core.errors import ExportError
from edge_lab.formats.coreml.mil.run import run_or_interpret

pytestmark = pytest.mark.slow


class After(nn.Module):
    """A convolution, and what is done with its maps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize("target", ["linux-xnnpack-fp32", "ios-coreml-fp32"])
def test_gelu_by_tanh_is_not_the_exact_one(target: str, tmp_path: Path) -> None:
    """ExecuTorch and coremltools overlook `approximate`: 74 dB, which no gate for fp32 refuses."""
    torch.manual_seed(0)
    assert decibels(nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh")), (1, 8), target, tmp_path) > 110


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(-1, keepdim=True)[0],
        lambda x: x.max(1)[0],
        lambda x: x.max(1, keepdim=True)[0],
        lambda x: x.max(3, keepdim=True)[0],
    ],
    ids=["last", "channels", "channels kept", "columns"],
)
def test_largest_along_any_axis_goes_to_xnnpack(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """XNNPACK knows it over rows and columns only; the partitioner took every axis and then failed without a cause."""
    torch.manual_seed(0)
    assert decibels(After(function), (1, 4, 12, 10), "linux-xnnpack-fp32", tmp_path) > 110


def test_a_slice_that_takes_all_goes_to_core_ml(tmp_path: Path) -> None:
    """PyTorch records x[:, :] as an alias; coremltools has no conversion for that."""
    net = nn.Sequential(nn.Conv1d(6, 8, 3), Whole())
    assert decibels(net, (1, 6, 12), "ios-coreml-fp32", tmp_path) > 110


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y[:]


def test_the_same_value_twice_goes_to_core_ml(tmp_path: Path) -> None:
    assert decibels(Twice(), (1, 6, 12), "ios-coreml-fp32", tmp_path) > 110


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: 2 * F.pad(x, (1, 2), mode="circular"), (1, 3, 5)),
        (lambda x: 2 * F.pad(x, (0, 2, 3, 1), mode="circular"), (1, 3, 5, 6)),
        (lambda x: 2 * F.pad(x, (1, 1, 2, 0, 1, 1), mode="circular"), (1, 2, 4, 5, 6)),
        (lambda x: 2 * F.pad(x, (-1, 2, 0, 1), mode="circular"), (1, 3, 5, 6)),
        (lambda x: F.log_softmax(100 * x, 1), (1, 8)),
        (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", antialias=True), (1, 2, 6, 8)),
    ],
)
def test_functions_that_core_ml_has_no_operator_for(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], tmp_path: Path
) -> None:
    """coremltools refuses circular padding, and takes the logarithm of a softmax that is 0."""
    assert decibels(Of(function), shape, "ios-coreml-fp32", tmp_path) > 110


@pytest.mark.parametrize(("padding", "output_padding", "stride", "groups"), [(0, 1, 2, 1), (1, 2, 3, 2), (1, 1, 2, 2)])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_output_padding_goes_to_core_ml(
    padding: int, output_padding: int, stride: int, groups: int, axes: int, tmp_path: Path
) -> None:
    """coremltools fails where it is more than the padding, and on volumes."""
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    net = kind(4, 4, 3, stride, padding, output_padding=output_padding, groups=groups)
    assert decibels(net, (1, 4, *(5, 6, 7)[:axes]), "ios-coreml-fp32", tmp_path) > 110


@pytest.mark.parametrize("target", ["linux-onnx-fp32", "linux-onnx-int8", "ios-coreml-fp32"])
@pytest.mark.parametrize("dims", [1, (0, 1)])
def test_a_squeeze_of_an_axis_that_is_not_one(dims: int | tuple[int, ...], target: str, tmp_path: Path) -> None:
    """PyTorch leaves the axis; torch.onnx writes an invalid Squeeze, and Core ML's program gives its input away."""
    net = nn.Sequential(nn.Linear(6, 6), Of(lambda x: x.squeeze(dims)))
    assert decibels(net, (1, 4, 6), target, tmp_path) > 15
    if not target.endswith("int8"):
        assert decibels(Of(lambda x: x.squeeze(dims)), (1, 4, 6), target, tmp_path) > 110


@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.cat([y.narrow(3, 1, 2) * 2.0, y.narrow(3, 0, 1)], 3),
        lambda y: y / torch.mean(y**2),
    ],
)
def test_one_dequantized_tensor_for_readers_of_two_layouts(
    function: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    """ExecuTorch turned it to NCHW for both: the program stopped with error 0x10."""
    assert decibels(After(function), (1, 4, 6, 3), "linux-xnnpack-int8", tmp_path) > 25


def test_a_float_convolution_of_a_line_among_int8_layers(tmp_path: Path) -> None:
    """ExecuTorch took its input for int8: "Weight and Input should both be quantized"."""
    net = nn.Sequential(nn.Linear(8, 8), Of(lambda y: y.transpose(1, 2)), nn.ConvTranspose1d(8, 8, 3, groups=8))
    assert decibels(net, (1, 6, 8), "linux-xnnpack-int8", tmp_path) > 25


def test_a_layer_norm_over_several_axes_stays_float_in_onnx(tmp_path: Path) -> None:
    """ONNX Runtime's quantizer: "The truth value of an array with more than one element is ambiguous"."""
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.LayerNorm([8, 6, 6]))
    assert decibels(net, (1, 4, 6, 6), "linux-onnx-int8", tmp_path) > 25


def test_a_bicubic_resize_between_int8_layers_in_onnx(tmp_path: Path) -> None:
    """ONNX Runtime has no such kernel for int8, and the program stopped when it ran."""
    enlarged = Of(lambda y: F.interpolate(y, size=(9, 9), mode="bicubic"))
    net = nn.Sequential(nn.Conv2d(4, 8, 3), enlarged, nn.Conv2d(8, 4, 3))
    assert decibels(net, (1, 4, 8, 8), "linux-onnx-int8", tmp_path) > 25


@pytest.mark.parametrize(("size", "factor"), [(4, 0.02), (12, 0.1), (64, 0.1)])
def test_a_softmax_of_scores_that_are_nearly_alike_in_onnx(size: int, factor: float, tmp_path: Path) -> None:
    """ONNX Runtime's int8 softmax overflows there: 0 dB, and 39 without that kernel."""
    net = nn.Sequential(nn.Linear(8, size), Of(lambda y: (y * factor).softmax(-1) * size), nn.Linear(size, 8))
    assert decibels(net, (1, 5, 8), "linux-onnx-int8", tmp_path) > 25


def test_attention_to_a_single_token_in_onnx(tmp_path: Path) -> None:
    """ONNX Runtime's int8 softmax over one score is 0."""
    net = nn.TransformerEncoderLayer(40, 2, 8, batch_first=True, norm_first=True)
    assert decibels(net, (1, 1, 40), "linux-onnx-int8", tmp_path) > 12  # 7 with that kernel


@pytest.mark.parametrize(
    "target",
    [
        "linux-onnx-fp32",
        "linux-xnnpack-fp32",
        "linux-inductor-fp32",
        "linux-pt2-fp32",
        "linux-torchscript-fp32",
        "ios-coreml-fp32",
    ],
)
def test_a_model_that_writes_to_its_input(target: str, tmp_path: Path) -> None:
    """A first ReLU(inplace=True) is common. Its program works on a copy; the caller's array stays as it is."""
    net = nn.Sequential(nn.ReLU(inplace=True))
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    model = edge_lab.from_module(net, (1, 8), name="net", task="tensor")
    bundle = edge_lab.to(model, target, golden=[x, 2 * x], out=tmp_path)
    session, given = run_or_interpret(bundle) if target.startswith("ios") else edge_lab.load(bundle), x.copy()
    np.testing.assert_allclose(session.run(given)[0], np.maximum(x, 0), atol=1e-6)
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize("target", ["linux-onnx-fp32", "linux-xnnpack-fp32", "linux-portable-fp32"])
@pytest.mark.parametrize("axes", [1, 2])
def test_output_padding_of_the_stride_or_more_is_refused(axes: int, target: str, tmp_path: Path) -> None:
    """Both runtimes take the program and stop when it runs."""
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
    net = kind(4, 4, 2, output_padding=1, dilation=2)
    with pytest.raises(ExportError, match=r"output_padding.*stride"):
        decibels(net, (1, 4, *(5, 6)[:axes]), target, tmp_path)


def test_a_program_that_stops_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edge_lab.formats.runtime

    class Stops:
        def run(self, x: np.ndarray) -> None:
            raise RuntimeError("Failed to execute method forward, error: 0x1")

    monkeypatch.setattr(edge_lab.runtime, "load", lambda bundle: Stops())
    with pytest.raises(ExportError, match="executorch stops at the first input: Failed to execute"):
        decibels(nn.Linear(4, 4), (1, 4), "linux-xnnpack-fp32", tmp_path)
    assert not list(tmp_path.rglob("bundle.json"))


@pytest.mark.parametrize(
    "target",
    [
        "linux-onnx-fp32",
        "linux-onnx-int8",
        "linux-xnnpack-fp32",
        "linux-xnnpack-int8",
        "linux-portable-fp32",
        "linux-inductor-fp32",
        "linux-pt2-fp32",
        "linux-torchscript-fp32",
        "ios-coreml-fp32",
        "ios-coreml-fp16",
        "ios-coreml-pte-fp16",
    ],
)
def test_an_export_leaves_the_model_as_it_is(target: str, tmp_path: Path) -> None:
    """coremltools turned the sign of a batch norm's mean in place: every later program of the model was wrong."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 4, 1))
    torch.nn.init.normal_(net[1].running_mean)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = [np.ones((1, 3, 8, 8), np.float32)]
    model = edge_lab.from_module(net.eval(), (1, 3, 8, 8), name="net", task="tensor")
    edge_lab.to(model, target, golden=data, calibration=data, out=tmp_path, allow_divergence=True)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_stored_statistics_of_an_instance_norm_go_to_core_ml(axes: int, tmp_path: Path) -> None:
    """coremltools measures the input all the same: -5 dB, refused by the gate."""
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 1]
    net = kind(4, affine=True, track_running_stats=True)
    torch.nn.init.normal_(net.running_mean)
    assert decibels(net, (1, 4, *(5, 6, 7)[:axes]), "ios-coreml-fp32", tmp_path) > 110


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialias_in_onnx_and_core_ml(mode: str, tmp_path: Path) -> None:
    """torch.onnx writes the kernel of the plain bicubic resize (38 dB); Core ML has no such filter."""
    net = Of(lambda x: F.interpolate(x, scale_factor=0.5, mode=mode, antialias=True))
    assert decibels(net, (1, 2, 12, 14), "linux-onnx-fp32", tmp_path) > 110
    with pytest.raises(ExportError, match="antialias"):
        decibels(net, (1, 2, 12, 14), "ios-coreml-fp32", tmp_path)


def test_two_float32_readers_of_one_value_in_float16(tmp_path: Path) -> None:
    """The converter wrote one cast for each, under one name: "Graph must be in single static assignment form"."""

    def large(x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        return torch.tanh(y * 1e5 - 5e4) + torch.relu(y * 2e5) * 1e-5

    assert decibels(Of(large), (1, 8), "linux-onnx-fp16", tmp_path) > 30  # ARM adds in float16


@pytest.mark.parametrize("target", ["linux-onnx-fp32", "linux-onnx-int8", "linux-xnnpack-fp32", "linux-xnnpack-int8"])
def test_attention_that_is_flattened_behind_a_pool_with_ceil_mode(target: str, tmp_path: Path) -> None:
    """ONNX Runtime counts a window that begins outside; ExecuTorch: "Cannot view a tensor with shape"."""

    def attend(y: Tensor) -> Tensor:
        y = F.avg_pool2d(y, 1, stride=2, ceil_mode=True)
        mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).tril() == 0, -torch.inf)
        y = F.scaled_dot_product_attention(y, y * 0.5, y.flip(-2), attn_mask=mask)
        return y.flatten(2).transpose(1, 2)

    assert decibels(After(attend), (1, 4, 6, 5), target, tmp_path) > 15


@pytest.mark.parametrize("size", [(6, 5), (7, 9)])
@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 2, 0), (2, 3, 0), (1, 3, 0), (3, 2, 1), (2, 2, 1)])
def test_ceil_mode_in_onnx(
    pool: type[nn.Module], kernel: int, stride: int, padding: int, size: tuple[int, int], tmp_path: Path
) -> None:
    net = After(lambda y: torch.sigmoid(pool(kernel, stride, padding, ceil_mode=True)(y)) * 2)
    assert decibels(net, (1, 4, *size), "linux-onnx-fp32", tmp_path) > 90


class Unbatched(nn.Module):
    """Takes the batch off before it convolves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[0])


@pytest.mark.parametrize("target", ["linux-onnx-int8", "linux-xnnpack-int8", "ios-coreml-int8", "ios-coreml-fp32"])
def test_a_convolution_of_a_picture_without_a_batch(target: str, tmp_path: Path) -> None:
    assert decibels(Unbatched(), (1, 3, 9, 8), target, tmp_path) > 15


def test_a_shape_that_onnx_runtime_reads_otherwise_is_named(tmp_path: Path) -> None:
    """In one axis PyTorch counts the last window, in the other not: no file says that to ONNX Runtime."""
    first = nn.Conv2d(1, 2, 2, padding=1, dilation=2, padding_mode="circular", bias=False)
    net = nn.Sequential(first, Of(lambda y: F.softsign(F.avg_pool2d(y, 3, padding=1, ceil_mode=True))))
    with pytest.raises(ExportError, match=r"finds another shape in front of Div(.|\n)*leave ceil_mode out"):
        decibels(net, (1, 1, 9, 14), "linux-onnx-fp32", tmp_path)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_norm_behind_a_transposed_convolution_in_core_ml(axes: int, groups: int, tmp_path: Path) -> None:
    """coremltools puts it into the wrong weights where there are groups (28 dB), and fails on volumes."""
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1](4, 4, 3, groups=groups)
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1](4, affine=False)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    assert decibels(nn.Sequential(layer, norm), (1, 4, *(5, 6, 7)[:axes]), "ios-coreml-fp32", tmp_path) > 110


class Named(nn.Module):
    """Outputs that are called like values inside: what a Split makes, an operator, a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"first": F.glu(x, dim=-1), "second": torch.relu(x), "relu": x * self.out, "out": x + 1}


@pytest.mark.parametrize("target", ["linux-onnx-fp32", "linux-onnx-fp16", "ios-coreml-fp32", "linux-xnnpack-fp32"])
def test_outputs_that_are_called_like_values_inside(target: str, tmp_path: Path) -> None:
    """torch.onnx gave two values one name: "Graph must be in single static assignment form"."""
    x = np.random.default_rng(0).standard_normal((1, 6)).astype(np.float32)
    model = edge_lab.from_module(Named().eval(), (1, 6), name="net", task="tensor")
    bundle = edge_lab.to(model, target, golden=[x], out=tmp_path)
    assert [out.name for out in bundle.outputs] == ["first", "second", "relu", "out"]
    session = run_or_interpret(bundle) if target.startswith("ios") else edge_lab.load(bundle)
    with torch.no_grad():
        wanted = Named()(torch.from_numpy(x))
    for name, found in zip(wanted, session.run(x), strict=True):
        np.testing.assert_allclose(found, wanted[name].numpy(), atol=2e-3, err_msg=name)
