"""The reference interpreter of Core ML programs, operator by operator and layer by layer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_lab.formats.coreml.graph import core_ml_graph
from edge_lab.formats.coreml.mil.operators import known_operators
from edge_lab.formats.coreml.mil.run import load_mil
from edge_lab.formats.coreml.mil.table import OPERATORS

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(2, 4, 6)).astype(np.float32)
Y = _RNG.normal(size=(2, 4, 6)).astype(np.float32) + 3
_ONE = (
    "relu sigmoid tanh exp abs floor ceil round square sign erf sin cos atan sinh cosh exp2 identity shape softsign "
    "relu6 softplus tan"
)
_TWO = "add sub mul real_div maximum minimum floor_div mod equal not_equal greater greater_equal less less_equal"
_REDUCE = (
    "reduce_mean reduce_sum reduce_max reduce_min reduce_l1_norm reduce_l2_norm reduce_sum_square reduce_log_sum_exp"
)
_INDEX = _RNG.integers(0, 4, (2, 3, 6)).astype(np.int32)
# Operators that coremltools evaluates itself when all inputs are constants.
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"x": X}) for name in _ONE.split()],
    ("sqrt", {"x": np.abs(X)}),
    *[(name, {"x": np.abs(X) + 0.1, "epsilon": 0.01}) for name in ("rsqrt", "log", "inverse")],
    *[(name, {"x": X, "y": Y}) for name in _TWO.split()],
    *[(name, {"x": X > 0, "y": Y > 3}) for name in ("logical_and", "logical_or", "logical_xor")],
    ("logical_not", {"x": X > 0}),
    *[(name, {"x": np.tanh(X)}) for name in ("asin", "acos", "atanh")],
    ("pow", {"x": np.abs(X), "y": Y}),
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.5}),
    ("leaky_relu", {"x": X, "alpha": 0.1}),
    ("elu", {"x": X, "alpha": 0.5}),
    ("sigmoid_hard", {"x": X, "alpha": 0.2, "beta": 0.5}),
    ("linear_activation", {"x": X, "alpha": 0.2, "beta": 0.5}),
    ("prelu", {"x": X[None], "alpha": np.array([0.1, 0.2], np.float32)}),
    ("clamped_relu", {"x": X, "alpha": 0.1, "beta": 0.5}),
    ("scaled_tanh", {"x": X, "alpha": 0.3, "beta": 0.5}),
    ("threshold", {"x": X, "alpha": 0.1}),
    ("thresholded_relu", {"x": X, "alpha": 0.1}),
    ("softplus_parametric", {"x": X[None], "alpha": np.array([0.1, 0.2], np.float32), "beta": np.ones(2, np.float32)}),
    ("band_part", {"x": X, "lower": 1, "upper": 2}),
    ("flatten2d", {"x": X, "axis": 2}),
    ("fill_like", {"ref_tensor": X, "value": 2.5}),
    ("topk", {"x": X, "k": 2, "axis": 1}),
    ("topk", {"x": X, "k": 3, "axis": 2, "ascending": True}),
    ("argsort", {"x": X, "axis": 2}),
    ("reduce_argmin", {"x": X, "axis": 2, "keep_dims": True}),
    ("reduce_prod", {"x": X, "axes": [0, 2], "keep_dims": False}),
    ("reduce_log_sum", {"x": np.abs(X), "axes": [1], "keep_dims": True}),
    *[("gelu", {"x": X, "mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")],
    ("softmax", {"x": X, "axis": 1}),
    ("cast", {"x": X, "dtype": "int32"}),
    ("select", {"cond": X > 0, "a": X, "b": Y}),
    ("linear", {"x": X[0], "weight": Y[0], "bias": Y[0, :, 0]}),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}),
    ("matmul", {"x": X, "y": Y, "transpose_x": True}),
    ("reshape", {"x": X, "shape": [4, -1]}),
    ("transpose", {"x": X, "perm": [2, 0, 1]}),
    ("expand_dims", {"x": X, "axes": [0, -1]}),
    ("squeeze", {"x": X[:1], "axes": [0]}),
    ("concat", {"values": [X, Y], "axis": 1}),
    ("stack", {"values": [X, Y], "axis": 1}),
    ("tile", {"x": X, "reps": [1, 2, 3]}),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": [0, 1, -3],
            "end": [2, 3, 6],
            "stride": [1, 1, 2],
            "begin_mask": [True, False, False],
            "end_mask": [False, False, True],
            "squeeze_mask": [True, False, False],
        },
    ),
    (
        "slice_by_index",
        {"x": X, "begin": [0, 3, 5], "end": [2, 0, 0], "stride": [1, -1, -2], "end_mask": [False, False, True]},
    ),
    ("slice_by_size", {"x": X, "begin": [0, 1, 2], "size": [2, -1, 3]}),
    ("reverse", {"x": X, "axes": [1]}),
    ("pad", {"x": X, "pad": [0, 0, 1, 2, 2, 1], "mode": "constant", "constant_val": 1.5}),
    ("pad", {"x": X, "pad": [2, 1], "mode": "reflect"}),
    ("pad", {"x": X, "pad": [1, 1, 2, 1], "mode": "replicate"}),
    ("gather", {"x": X, "indices": np.array([1, 0, -1], np.int32), "axis": 1}),
    ("gather_along_axis", {"x": X, "indices": _INDEX, "axis": 1}),
    ("fill", {"shape": [2, 3], "value": 1.5}),
    ("range_1d", {"start": 0.0, "end": 5.0, "step": 1.0}),
    *[(name, {"x": X, "axes": [0, 2], "keep_dims": keep}) for keep in (True, False) for name in _REDUCE.split()],
    ("reduce_argmax", {"x": X, "axis": 1}),
    ("cumsum", {"x": X, "axis": 1}),
    ("split", {"x": X, "split_sizes": [1, 3], "axis": 1}),
    ("split", {"x": X, "num_splits": 2, "axis": 2}),
]


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, list) and isinstance(value[0], np.ndarray):
        return [_tensor(part) for part in value]
    return torch.tensor(value) if isinstance(value, list) else value  # as they come out of a file


@pytest.mark.parametrize(("name", "inputs"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_operator_equals_coremltools_own_value(name: str, inputs: dict[str, Any]) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function

    with Function({}, opset_version=ct.target.iOS17):
        made = getattr(Builder, name)(**copy.deepcopy(inputs))  # it changes some of them
    wanted = [var.val for var in (made if isinstance(made, (tuple, list)) else (made,))]
    assert all(value is not None for value in wanted), "coremltools has no value for this case: compare with PyTorch"
    known_operators()
    found = OPERATORS[name]({key: _tensor(value) for key, value in inputs.items()})
    for want, got in zip(wanted, found if isinstance(found, tuple) else (found,), strict=True):
        array = torch.as_tensor(got).numpy()
        assert np.shape(want) == array.shape
        np.testing.assert_allclose(array, want, atol=1e-5)


class _Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.function(x[:, 0] if isinstance(self.function, nn.LSTM) else x)
        return result if isinstance(result, torch.Tensor) else result[0]


def _functional(name: str, **options: Any) -> nn.Module:
    return _Calls(lambda x: getattr(nn.functional, name)(x, **options))


# What coremltools has no value for: compared with PyTorch, through a saved package.
LAYERS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "conv, groups and dilation": nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
    "conv, uneven padding": nn.Sequential(nn.ZeroPad2d((0, 1, 1, 2)), nn.Conv2d(4, 4, 3, groups=4)),
    "conv, no bias, 1x1": nn.Conv2d(4, 5, 1, bias=False),
    "transposed conv": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed conv, groups": nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
    "batch norm": nn.BatchNorm2d(4),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "layer norm": nn.LayerNorm([14, 14]),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pool": nn.AvgPool2d(3, 2, 1),
    "average pool, only what is there": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average pool, ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "nearest": nn.Upsample(scale_factor=2.0, mode="nearest"),
    "bilinear": _functional("interpolate", size=(28, 28), mode="bilinear", align_corners=False),
    "bilinear, aligned": _functional("interpolate", size=(27, 27), mode="bilinear", align_corners=True),
    "pixel shuffle": nn.PixelShuffle(2),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "local response norm": nn.LocalResponseNorm(3),
    "attention": _Calls(lambda x: nn.functional.scaled_dot_product_attention(x.flatten(2), x.flatten(2), x.flatten(2))),
    "einsum": _Calls(lambda x: torch.einsum("bchw,bchv->bcwv", x, x)),
    "reflect": nn.ReflectionPad2d(2),
    "chunks": _Calls(lambda x: torch.cat([part * (i + 1) for i, part in enumerate(x.chunk(2, 1))], 1)),
    "softmax of a mean": _Calls(lambda x: x.mean((2, 3)).softmax(1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_pytorch_through_a_saved_package(name: str, tmp_path: Path) -> None:
    import coremltools as ct

    torch.manual_seed(0)
    module = LAYERS[name].eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    x = torch.randn(1, 4, 14, 14)
    program = core_ml_graph(torch.export.export(module, (x,)))
    saved = ct.convert(
        program,
        inputs=[ct.TensorType(name="x", shape=x.shape)],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    saved.save(str(tmp_path / "m.mlpackage"))
    (found,) = load_mil(tmp_path / "m.mlpackage").run(x=x.numpy())
    np.testing.assert_allclose(found, module(x).detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("sequence", [True, False])
def test_lstm_equals_pytorch(sequence: bool, tmp_path: Path) -> None:
    import coremltools as ct

    torch.manual_seed(0)
    x, net = torch.randn(5, 1, 14), nn.LSTM(14, 8)
    module = _Calls(lambda x: net(x)[0] if sequence else net(x)[0][-1])
    module.net = net
    saved = ct.convert(
        torch.jit.trace(module, x),  # its torch.export route has no LSTM
        inputs=[ct.TensorType(name="x", shape=x.shape)],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    saved.save(str(tmp_path / "m.mlpackage"))
    program = load_mil(tmp_path / "m.mlpackage")
    assert "lstm" in program.operators
    np.testing.assert_allclose(program.run(x=x.numpy())[0], module(x).detach().numpy(), atol=1e-5)


def test_interleaved_concat_takes_channels_in_turn() -> None:
    """coremltools' own value ignores `interleave`; the definition is in its documentation of the operator."""
    known_operators()
    a, b = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    mixed = OPERATORS["concat"]({"values": [a, b], "axis": 1, "interleave": True})
    assert mixed[0, :, 0].tolist() == [0, 1, 0, 1]
