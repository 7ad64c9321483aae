"""MobileNetV3 on a phone: its blocks stay inside the delegate, and int8 keeps what the flagship table promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import data, measure, zoo
from edge_lab.capture.expand import expand_hardsigmoid
from edge_lab.quality.agreement import outputs_of

ROOT = Path(__file__).resolve().parent.parent


class SqueezeExcite(nn.Module):
    """A convolution whose channels are scaled by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * nn.functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class Overwrites(nn.Module):
    """Reads a tensor again that hardsigmoid has overwritten."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 4
        nn.functional.hardsigmoid(y, inplace=True)
        return y + y * 2


@pytest.mark.parametrize("network", [SqueezeExcite, Overwrites])
def test_expanding_hardsigmoid_changes_no_number(network: type[nn.Module]) -> None:
    net = network().eval()
    x = 4 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    program = expand_hardsigmoid(torch.export.export(net, (x,)))
    assert torch.equal(program.module()(x), net(x))


@pytest.mark.slow
def test_a_squeeze_and_excite_block_stays_inside_the_delegate(artifacts: Path) -> None:
    model = zoo.from_module(SqueezeExcite().eval(), (1, 3, 8, 8), name="squeeze", task="tensor")
    bundle = edge_lab.to(model, "linux-xnnpack-fp32", out=artifacts)
    assert bundle.runtime.operators == ()
    assert bundle.runtime.delegated == 1


@pytest.mark.slow
def test_mobilenet_in_int8_is_a_third_of_the_size_and_loses_less_than_a_point(artifacts: Path) -> None:
    """What docs/results/flagship.md says, on 500 of the 2000 test images."""
    images, test = data.load("digits", "val").take(32), data.load("digits", "test").take(500)
    weights = ROOT / "labs" / "checkpoints" / "mobilenet_digits.safetensors"
    file = ROOT / "tools" / "make_mobilenet_digits.py"
    model = zoo.create(f"{file}:build", weights=str(weights), labels=test.labels)
    inputs = measure.prepare(test, model.spec)
    with torch.inference_mode():
        reference = model.module(torch.tensor(np.asarray(inputs.x))).numpy()
    bundle = edge_lab.to(model, "android-xnnpack-int8", calibration=images, golden=test.take(5), out=artifacts)
    outputs = outputs_of(edge_lab.load(bundle), inputs)
    close = measure.parity(reference, outputs)
    loss = measure.score(reference, inputs.targets).top1 - measure.score(outputs, inputs.targets).top1
    assert bundle.program_bytes < 0.3 * sum(p.numel() * p.element_size() for p in model.module.parameters())
    assert bundle.runtime.operators == ()
    assert loss < 1
    assert close.agreement is not None
    assert close.agreement >= 99
    assert close.sqnr_db > 28
