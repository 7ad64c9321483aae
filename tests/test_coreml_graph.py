"""What the Core ML export writes otherwise: pooling, and functions that coremltools does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_lab.core.numbers import sqnr_db
from edge_lab.formats.coreml.graph import core_ml_graph
from edge_lab.formats.coreml.mil.run import MilProgram, load_mil

Function = Callable[[Tensor], Tensor]


class _All(nn.Module):
    """All functions of a group of one input: one conversion for all of them."""

    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x) for function in self.functions.values())


def _converted(program: torch.export.ExportedProgram, shape: tuple[int, ...], folder: Path) -> MilProgram:
    import coremltools as ct

    saved = ct.convert(
        program,
        inputs=[ct.TensorType(name="x", shape=shape)],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    saved.save(str(folder / "m.mlpackage"))
    return load_mil(folder / "m.mlpackage")


def _compare(functions: dict[str, Function], x: Tensor, folder: Path) -> None:
    module = _All(functions).eval()
    program = core_ml_graph(torch.export.export(module, (x,), strict=False))
    found = _converted(program, tuple(x.shape), folder).run(x=x.numpy())
    for name, wanted, got in zip(functions, module(x), found, strict=True):
        want = wanted.detach().numpy().astype(np.float64)
        assert got.shape == want.shape, name
        decibels = sqnr_db(float(np.square(want).sum()), float(np.square(want - got).sum()))
        assert decibels > 100, f"{name}: {decibels:.1f} dB"


AVERAGES: dict[str, Function] = {
    "no stride": lambda x: F.avg_pool2d(x, 2),
    "padding that counts": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "padding that does not": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "ceil": lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
    "ceil that adds nothing": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "ceil, stride above the kernel": lambda x: F.avg_pool2d(x, 2, 3, ceil_mode=True),
    "ceil along one axis": lambda x: F.avg_pool2d(x, (2, 4), (3, 2), ceil_mode=True),
    "ceil, padding that counts": lambda x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True),
    "ceil, padding that does not": lambda x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True, count_include_pad=False),
    "large padding": lambda x: F.avg_pool2d(x, 7, 4, 3),
    "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "divisor, ceil, padding": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=2),
    "1-D": lambda x: F.avg_pool1d(x[0], 2),
    "1-D, ceil, padding": lambda x: F.avg_pool1d(x[0], 3, 2, 1, ceil_mode=True),
    "3-D": lambda x: F.avg_pool3d(x[None], 2, ceil_mode=True),
    "3-D, divisor": lambda x: F.avg_pool3d(x[None], 2, divisor_override=3),
    "of squares": lambda x: F.lp_pool2d(x, 2, 3, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (7, 5)),
}
LARGEST: dict[str, Function] = {
    "no stride": lambda x: F.max_pool2d(x, 2),
    "no stride, indices thrown away": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "ceil, padding": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "ceil, stride above the kernel": lambda x: F.max_pool2d(x, 2, 3, ceil_mode=True),
    "ceil along one axis": lambda x: F.max_pool2d(x, (2, 4), (3, 2), ceil_mode=True),
    "dilated": lambda x: F.max_pool2d(x, 3, 2, dilation=2),
    "dilated, padding": lambda x: F.max_pool2d(x, (3, 2), 1, 1, dilation=2),
    "1-D": lambda x: F.max_pool1d(x[0], 2),
    "3-D": lambda x: F.max_pool3d(x[None], 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_max_pool2d(x, (7, 5)),
}


@pytest.mark.parametrize("functions", [AVERAGES, LARGEST], ids=["average", "largest"])
@pytest.mark.parametrize("size", [(15, 13), (12, 16)])
def test_pools_are_what_pytorch_computes(functions: dict[str, Function], size: tuple[int, int], tmp_path: Path) -> None:
    _compare(functions, torch.randn(1, 4, *size, generator=torch.manual_seed(0)), tmp_path)


def test_ceil_mode_means_what_devices_do(tmp_path: Path) -> None:
    """The measurement of apple/coremltools#2844: as the converter alone writes it, the last windows are too small."""
    x = torch.arange(49.0).reshape(1, 1, 7, 7)
    module = nn.AvgPool2d(2, stride=3, ceil_mode=True)
    program = torch.export.export(module, (x,))
    (raw,) = _converted(program.run_decompositions({}), (1, 1, 7, 7), tmp_path).run(x=x.numpy())
    assert raw[0, 0].tolist() == [[4, 7, 4.75], [25, 28, 15.25], [21.25, 22.75, 12]]
    (right,) = _converted(core_ml_graph(program), (1, 1, 7, 7), tmp_path).run(x=x.numpy())
    assert right[0, 0].tolist() == module(x)[0, 0].tolist() == [[4, 7, 9.5], [25, 28, 30.5], [42.5, 45.5, 48]]


FUNCTIONS: dict[str, Function] = {
    "trunc": torch.trunc,
    "fmod": lambda x: torch.fmod(5 * x, 2 * x.flip(-1) + 5),
    "erfc": torch.erfc,
    "asinh": torch.asinh,
    "acosh": lambda x: torch.acosh(x.abs() + 1.1),
    "hypot": lambda x: torch.hypot(x, x.flip(-1)),
    "copysign": lambda x: torch.copysign(x, x.flip(-1)),
    "largest": lambda x: torch.fmax(x, x.flip(-1)),
    "logsigmoid": F.logsigmoid,
    "hardshrink": F.hardshrink,
    "celu": F.celu,
    "logit": lambda x: torch.logit(torch.sigmoid(x)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(-1)),
    "where, numbers": lambda x: torch.where(x > 0, x, 0),
    "and, or, xor": lambda x: (((x > 0) & (x < 1)) | ((x > 0) ^ (x > 0.5))).float(),
    "any of floats": lambda x: torch.where(x.abs() > 1.5, x, torch.zeros_like(x)).any(1).float(),
    "argmax of all": lambda x: x.argmax().float().reshape(1),
}


def test_functions_that_coremltools_lacks_or_translates_wrongly(tmp_path: Path) -> None:
    _compare(FUNCTIONS, torch.randn(1, 4, 7, 5, generator=torch.manual_seed(0)), tmp_path)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_taken_apart_step_by_step(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = kind(6, 4, num_layers=2, batch_first=True, bidirectional=True).eval()
    module = _All({"sequence": lambda x: net(x)[0]})
    module.net = net
    module.net = net
    x = torch.randn(1, 5, 6)
    program = core_ml_graph(torch.export.export(module, (x,), strict=False))
    (found,) = _converted(program, (1, 5, 6), tmp_path).run(x=x.numpy())
    np.testing.assert_allclose(found, net(x)[0].detach(), atol=1e-5)
