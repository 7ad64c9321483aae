"""Options of common functions that coremltools overlooks, and functions that it has no conversion for."""

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
SHAPE = (1, 4, 6)
ROWS = torch.linspace(-1, 1, 24).reshape(4, 6)
BOUNDS = torch.tensor([-1.0, 0.0, 1.0])


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: torch.add(x, x.flip(1), alpha=0.5),
    "add a number": lambda x: torch.add(x, 2.0, alpha=0.5),
    "sub": lambda x: torch.sub(x, x.flip(1), alpha=0.5),
    "rsub": lambda x: torch.rsub(x, x.flip(1), alpha=0.5),
    "3 - x": lambda x: 3 - x,
    "addmv": lambda x: torch.addmv(x[0, :, 0], x[0], ROWS[0], beta=0.5, alpha=2.0),
    "addbmm": lambda x: torch.addbmm(ROWS[:, :4], x, x.transpose(1, 2), beta=0.5, alpha=2.0),
    "clamp by tensors": lambda x: torch.clamp(x, -ROWS.abs(), ROWS.abs()),
    "variance of all": lambda x: x.var().reshape(1, 1),
    "variance of two axes": lambda x: torch.var(x, (1, 2), correction=2),
    "standard deviation": lambda x: x.std(1, correction=0),
    "variance and mean": lambda x: torch.cat(torch.var_mean(x, 1, correction=0, keepdim=True), 1),
    "softplus": lambda x: F.softplus(x, beta=2, threshold=3),
    "product": lambda x: x.prod(1),
    "round": lambda x: torch.round(x * 10, decimals=1),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "kth": lambda x: x.kthvalue(2, 1)[0],
    "median": lambda x: x.median(1, keepdim=True)[0],
    "cosine": lambda x: F.cosine_similarity(x, x.flip(1), dim=1),
    "distances": lambda x: torch.cdist(x, x.flip(1)),
    "infinite": lambda x: torch.isinf(x).float() + x,
    "ldexp": lambda x: torch.ldexp(x, torch.tensor(2)),
    "diagonal above": lambda x: torch.diagonal(x, 1, 1, 2),
    "diagonal below": lambda x: torch.diagonal(x, -2, 2, 1),
    "windows": lambda x: x.unfold(2, 3, 2),
    "bucketize": lambda x: torch.bucketize(x, BOUNDS).float(),
    "bucketize right": lambda x: torch.bucketize(x.round(), BOUNDS, right=True).float(),
    "rms": lambda x: F.rms_norm(x, (6,)),
    "rms of two axes": lambda x: F.rms_norm(x, (4, 6), ROWS, 0.1),
    "gather": lambda x: x.gather(1, torch.zeros(1, 2, 6, dtype=torch.long)),
    "affine grid": lambda x: F.grid_sample(
        x.reshape(1, 1, 4, 6),
        F.affine_grid(torch.tensor([[[1.0, 0.1, 0], [0, 1, 0.2]]]), [1, 1, 4, 6], align_corners=False),
        align_corners=False,
    ),
}


class All(nn.Module):
    """Every function is an output: one export instead of thirty."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: function(x) for name, function in FUNCTIONS.items()}


def test_core_ml_computes_what_pytorch_does(tmp_path: Path) -> None:
    net, rng = All().eval(), np.random.default_rng(0)
    x, y = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    model = edge_lab.from_module(net, SHAPE, name="net", task="tensor")
    session = run_or_interpret(edge_lab.to(model, "ios-coreml-fp32", golden=[x], out=tmp_path))
    with torch.no_grad():
        wanted = net(torch.from_numpy(y))
    for (name, value), found in zip(wanted.items(), session.run(y), strict=True):
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("target", ["linux-xnnpack-fp32", "linux-portable-fp32", "ios-coreml-fp32"])
def test_both_factors_of_addmm(target: str, tmp_path: Path) -> None:
    """ExecuTorch forgets them: 6 dB, refused by the gate."""
    net = Of(lambda x: torch.addmm(x[0, :, :4], x[0], ROWS.T, beta=0.5, alpha=2.0))
    assert decibels(net, SHAPE, target, tmp_path) > 110


def test_a_refusal_names_the_operator_that_coremltools_was_at(tmp_path: Path) -> None:
    """Its own words: "If there existed any whole slice (e.g. : in x[:, 0]), only ... handled yet"."""
    net = Of(lambda x: torch.zeros(1, 4, 6).index_add(1, torch.tensor([0, 1, 1, 2]), x))
    with pytest.raises(ExportError, match="can't convert index_put as it is used here"):
        decibels(net, SHAPE, "ios-coreml-fp32", tmp_path)


def test_six_axes_are_named(tmp_path: Path) -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.before(x).view(1, 8, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(16, 4, 8)
            return self.after((y * 2).view(1, 4, 4, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 8, 8))

    data = list(np.random.default_rng(0).standard_normal((4, 1, 3, 8, 8)).astype(np.float32))
    model = edge_lab.from_module(Windows().eval(), (1, 3, 8, 8), name="net", task="tensor")
    with pytest.raises(ExportError, match="a tensor of 6 axes, and Core ML's have five"):
        edge_lab.to(model, "ios-coreml-int8", calibration=data, out=tmp_path)


@pytest.mark.parametrize("target", ["linux-onnx-fp32", "linux-xnnpack-fp32", "linux-xnnpack-int8", "ios-coreml-fp32"])
def test_a_generator_in_forward_is_named(target: str, tmp_path: Path) -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + torch.rand(6, generator=torch.Generator().manual_seed(0))

    data = list(np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32))
    model = edge_lab.from_module(Draws().eval(), SHAPE, name="net", task="tensor")
    with pytest.raises(ExportError, match=r"torch\.Generator(.|\n)*register_buffer"):
        edge_lab.to(model, target, golden=data[:2], calibration=data, out=tmp_path)
