"""Names of outputs, and outputs that no operator computes: the same in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import zoo
from edge_lab.capture.wrap import flatten, names
from edge_lab.flow.check import check
from edge_lab.formats.coreml.mil.run import interpret


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (["head.1", "head_1"], ["head_1", "head_1_1"]),
        (["image", "Image"], ["image_1", "Image_2"]),
        (["HEAD", "head"], ["HEAD", "head_1"]),
        (["", "größe", "类别"], ["output", "gro_e", "output_1"]),
        (["0", "1x"], ["output_0", "output_1x"]),
        (["state", "True", "class"], ["output_state", "output_True", "class"]),
        (["a" * 200, "a" * 300], ["a" * 60, "a" * 60 + "_1"]),
        (["x", "x_1", "x"], ["x", "x_1", "x_2"]),
    ],
)
def test_names_are_identifiers_and_differ_in_more_than_case(wanted: list[str], given: list[str]) -> None:
    assert names(wanted, ["image"]) == given


class _Outputs(nn.Module):
    """What people return beside an answer: the input, a parameter, a buffer, a constant, the same tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)
        self.register_buffer("steps", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.fc(self.conv(x).relu().mean((2, 3)))
        rest = {"classes": torch.arange(5.0), "pixels": x.detach(), "head.1": y, "head_1": y}
        return {"input": x, "weight": self.fc.weight, "steps": self.steps, **rest}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ios-coreml-fp32", "linux-onnx-fp32", "linux-xnnpack-fp32", "linux-pt2-fp32"])
def test_outputs_that_nothing_computes_arrive_in_every_format(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = _Outputs().eval()
    bundle = edge_lab.to(zoo.from_module(net, input_shape=(1, 3, 16, 16)), target, out=tmp_path)
    assert [out.name for out in bundle.outputs] == [
        "input_1", "weight", "steps", "classes", "pixels", "head_1", "head_1_1",
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    session = interpret(bundle) if "coreml" in target else edge_lab.load(bundle)
    for wanted, found in zip(net(torch.from_numpy(x)).values(), session.run(x), strict=True):
        np.testing.assert_allclose(found, wanted.detach(), atol=1e-5)
    assert check(bundle.path).ok


def test_a_module_that_computes_one_tensor_is_not_wrapped() -> None:
    conv = nn.Conv2d(3, 4, 3)
    assert flatten(conv, np.zeros((1, 3, 8, 8), np.float32))[0] is conv
