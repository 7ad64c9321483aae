"""What a network takes: batches, token ids, 16 bits, several inputs; and what is assumed of its preprocessing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_lab import Model, ModelSpec, TensorSpec, zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import Preprocess
from edge_lab.core.errors import ExportError, InputError
from edge_lab.export import to
from edge_lab.flow import coverage, run

SHAPE = (1, 3, 32, 32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


class Fours(Net):
    """Reshapes to its batch, as frame stacks and stereo pairs do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).view(4, 5)


class Autocast(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


class Inside(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = Net().to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.to(self.dtype))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids).mean(1))


class Cast(Text):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.long())


class Masked(Text):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * mask


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Autocast(), SHAPE, r"its output is bfloat16(.|\n)*return y\.float\(\)"),
        (Inside(torch.float16), SHAPE, r"its output is float16(.|\n)*return y\.float\(\)"),
        (Net().half(), SHAPE, r"its weights are float16: network\.float\(\)"),
        (Net().double(), SHAPE, r"its weights are float64: network\.float\(\)"),
        (Text(), (1, 12), r"it takes integers(.|\n)*int64(.|\n)*golden="),
        (Masked(), (1, 12), r"it takes 2 inputs \(ids, mask\): wrap it"),
        (Net(), (1, 4, 32, 32), "pass the input shape it was written for"),
    ],
)
def test_the_cause_and_the_way_in_are_named(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.from_module(module, shape)


class AutocastInside(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


@pytest.mark.slow
def test_an_autocast_that_is_left_inside_can_not_become_integers(tmp_path: Path) -> None:
    data = list(np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32))
    model = zoo.from_module(AutocastInside(), SHAPE, task="tensor")
    with pytest.raises(ExportError, match="computes in bfloat16"):
        to(model, "linux-onnx-int8", calibration=data, out=tmp_path)


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 40, 32)])
def test_what_is_assumed_of_the_preprocessing_is_said(shape: tuple[int, ...]) -> None:
    spec = zoo.from_module(Net(), shape).spec
    assert spec.preprocess is not None
    assert "assumed to be ImageNet's (pixel/255, mean 0.485 0.456 0.406, std" in spec.assumed
    assert f"resize {spec.preprocess.resize} bilinear, crop {shape[2]}x{shape[3]}" in spec.assumed
    given = zoo.from_module(Net(), SHAPE, preprocess=Preprocess(32, (32, 32), (0.5,) * 3, (0.5,) * 3))
    assert (given.spec.assumed, zoo.from_module(nn.Linear(3, 2), (1, 3)).spec.assumed) == ("", "")


def test_a_picture_is_a_batch_of_one() -> None:
    assert zoo.from_module(Net(), (4, 3, 32, 32)).spec.preprocess is None
    with pytest.raises(InputError, match="takes a batch of 4"):
        zoo.from_module(Net(), (4, 3, 32, 32), preprocess=Preprocess(32, (32, 32), (0.5,) * 3, (0.5,) * 3))


@pytest.mark.slow
def test_batches_are_fed_and_every_row_is_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = zoo.from_module(Fours(), (4, 3, 32, 32))
    targets = ("linux-onnx-fp32", "linux-xnnpack-fp32")
    found = coverage(model, targets, out=tmp_path)
    assert all(cell.compared == "run" and (cell.sqnr_db or 0) > 100 for cell in found.cells)
    result = run(model, targets=targets, out=tmp_path, jobs=0, limit=3, progress=False)
    assert result.images == 12
    assert all(row.status == "ok" and row.p50_ms for row in result.rows)


@pytest.mark.slow
def test_an_assumption_reaches_the_bundle_the_table_and_the_run(tmp_path: Path) -> None:
    from edge_lab.report import table

    model = zoo.from_module(Net(), SHAPE)
    found = coverage(model, ["linux-torchscript-fp32"], out=tmp_path)
    assert f"preprocessing: {model.spec.assumed}" in str(found)
    assert Bundle.load(tmp_path / "net" / "torchscript-fp32").spec.assumed == model.spec.assumed
    result = run(model, targets=["linux-torchscript-fp32"], out=tmp_path, jobs=0, limit=2, progress=False)
    assert model.spec.assumed in table(result)


IDS = [np.random.default_rng(i).integers(0, 50, (1, 12)) for i in range(6)]


def _ids(dtype: str) -> Model:
    return Model(Text().eval(), ModelSpec("text", "tensor", TensorSpec("ids", (1, 12), dtype, "any")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "target"), itertools.product(["int64", "int32"], ["linux-onnx-fp32", "linux-xnnpack-fp32"])
)
def test_token_ids_go_through_when_they_are_given(dtype: str, target: str, tmp_path: Path) -> None:
    found = coverage(_ids(dtype), [target], inputs=[x.astype(dtype) for x in IDS], out=tmp_path)
    assert (found[target].sqnr_db or 0) > 100, found


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda out: to(_ids("int64"), "linux-pt2-fp32", out=out), r"takes int64, and no inputs were given"),
        (lambda out: coverage(_ids("int64"), ["linux-pt2-fp32"], out=out), r"golden=\[\.\.\.\]"),
        (lambda out: run(_ids("uint8"), targets=["linux-pt2-fp32"], out=out, progress=False), "takes uint8"),
        (
            lambda out: to(_ids("int64"), "linux-pt2-fp32", golden=[x + 45 for x in IDS], out=out),
            "IndexError: index out",
        ),
        (lambda out: to(zoo.from_module(Cast(), (1, 12)), "linux-pt2-fp32", out=out), "does not take these inputs"),
        (
            lambda out: coverage(zoo.from_module(Cast(), (1, 12)), ["linux-pt2-fp32"], out=out),
            "seeded noise is none for",
        ),
    ],
)
def test_noise_is_no_token_id(use: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        use(tmp_path)
