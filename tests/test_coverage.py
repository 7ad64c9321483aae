"""Coverage: a dozen architectures in CI (all of them: `make coverage`), and what a cell says if something is wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import flow
from edge_lab.cli import main as cli
from edge_lab.core.errors import InputError, MissingTool
from edge_lab.flow.coverage import Cell, Coverage, coverage

ROOT = Path(__file__).resolve().parent.parent


def _tool(name: str) -> ModuleType:
    """A script of tools/. By path: `import coverage` would find another package of that name."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


tool, coverage_page = _tool("coverage"), _tool("coverage_page")


class Picks(nn.Module):
    """Has an operator that no delegate takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).flatten(2).topk(8).values.mean(2)


class Loops(Picks):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(int(x.abs().max().item())):
            x = x + 1
        return super().forward(x)


class SoftmaxBetween(nn.Module):
    """Softmax over the width of a feature map that XNNPACK keeps as NHWC."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.softmax(self.first(x), -1))


def wrapped(net: nn.Module, shape: tuple[int, ...] = (1, 3, 32, 32)) -> edge_lab.Model:
    torch.manual_seed(0)
    return edge_lab.from_module(net, shape, name=type(net).__name__.lower(), task="tensor")


@pytest.mark.parametrize("net", [*tool.SMALL, *tool.CHEAP], ids=lambda net: net.name)
def test_a_dozen_architectures_compute_the_same_as_pt2(net: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = edge_lab.create(net.name, weights="random", input_shape=(1, 3, net.size, net.size))
    inputs = [rng.standard_normal(model.spec.input.shape).astype(np.float32) for _ in range(2)]
    cell = coverage(model, ["linux-pt2-fp32"], inputs=inputs, out=tmp_path, jobs=0)["linux-pt2-fp32"]
    assert cell.exported
    assert cell.compared == "run"
    assert cell.sqnr_db is not None
    assert cell.sqnr_db > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:resnet10t"])
def test_architectures_on_real_pictures_in_every_format(name: str, tmp_path: Path) -> None:
    model = tool.build(next(net for net in tool.ARCHITECTURES if net.name == name))
    targets = ["linux-onnx-fp32", "ios-coreml-fp16"] + (["linux-xnnpack-fp32"] if "squeeze" in name else [])
    found = coverage(model, targets, out=tmp_path)
    assert found.inputs == 8
    for cell in found.cells:
        assert cell.exported, cell.why
        assert cell.compared in ("run", "interpreted")
        assert cell.sqnr_db is not None
        assert cell.sqnr_db > (35 if "coreml" in cell.target else 60)


def test_the_list_names_at_least_thirty_architectures_of_every_kind() -> None:
    names = [net.name for net in tool.ARCHITECTURES]
    assert len(names) == len(set(names)) >= 30
    kinds = {net.kind for net in tool.ARCHITECTURES}
    assert {"classifier", "mobile classifier", "transformer", "segmentation", "detector before its filter"} <= kinds


def test_waking_a_network_up_brings_every_branch_into_use() -> None:
    class Asleep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gamma = nn.Conv2d(3, 8, 3), nn.Parameter(torch.full((8, 1, 1), 1e-6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.gamma * self.conv(x)).mean((2, 3))

    awake = tool.awake(wrapped(Asleep()))
    assert float(awake.module.gamma.detach().mean()) == 0.5
    assert awake.origin is None


def test_what_stays_outside_is_named_and_a_refusal_is_a_cell(tmp_path: Path) -> None:
    found = coverage(wrapped(Picks()), ["linux-xnnpack-fp32"], out=tmp_path)
    cell = found["linux-xnnpack-fp32"]
    assert cell.delegated is not None
    assert cell.delegated < 1
    assert any("topk" in name for name in cell.left)
    assert "outside the delegate" in str(found)
    refused = coverage(wrapped(Loops()), ["linux-pt2-fp32"], out=tmp_path)
    assert not refused.cells[0].exported
    assert "a fixed graph cannot record" in refused.cells[0].why
    assert "fix:" in str(refused)


def test_softmax_of_a_feature_map_is_right_in_xnnpack(tmp_path: Path) -> None:
    cell = coverage(wrapped(SoftmaxBetween(), (1, 4, 9, 9)), ["linux-xnnpack-fp32"], out=tmp_path).cells[0]
    assert cell.sqnr_db is not None
    assert cell.sqnr_db > 60
    assert cell.left == ()


def test_a_program_for_another_machine_is_written_but_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(bundle: object) -> None:
        raise MissingTool("it can't run here.", "no such chip.", "take a phone.")

    monkeypatch.setattr("edge_lab.formats.coreml.mil.run.load", elsewhere)
    cell = coverage(wrapped(Picks()), ["linux-pt2-fp32"], out=tmp_path).cells[0]
    assert cell.exported
    assert cell.compared == "no"
    assert cell.why == "it can't run here. no such chip."
    assert "----" in str(Coverage("m", "user", 1, (cell,)))


def test_bad_input_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no target"):
        coverage(wrapped(Picks()), ["linux-nonsense-fp32"], out=tmp_path)
    with pytest.raises(InputError, match="no inputs"):
        coverage(wrapped(Picks()), ["linux-pt2-fp32"], inputs=[], out=tmp_path)
    assert cli.main(["coverage", "eficientnet_lite0"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_command_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("linux-pt2-fp32", False, why="it branches.", fix="use torch.where.")
    monkeypatch.setattr(flow, "coverage", lambda model, goals, **more: Coverage(model.spec.name, "random", 8, (cell,)))
    assert cli.main(["coverage", "torchvision:squeezenet1_1", "--weights", "random", "--targets", "linux-pt2-*"]) == 0
    shown = capsys.readouterr().out
    assert "FAIL  linux-pt2-fp32" in shown
    assert "why: it branches." in shown


def test_a_process_that_dies_costs_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    line = {"network": "n", "kind": "k", "size": 1, "target": "a"}
    child.write_text(f"import os\nprint({json.dumps(line)!r}, flush=True)\nos.abort()\n")
    monkeypatch.setattr(tool, "__file__", str(child))
    lines = tool._child(tool.Architecture("n", "k"), ["a", "b", "c"], tmp_path)
    assert [line["target"] for line in lines] == ["a", "b"]
    assert "SIGABRT" in lines[1]["why"]


def test_the_page_says_what_the_results_say() -> None:
    cells = [
        asdict(Cell("linux-onnx-fp32", True, "run", sqnr_db=101.2, agreement=100.0)),
        asdict(Cell("linux-xnnpack-fp32", True, "run", sqnr_db=99.0, agreement=87.5, delegated=0.5, left=("aten_x",))),
        asdict(Cell("linux-pt2-fp32", False, why="it branches.", fix="use torch.where.")),
    ]
    about = {"network": "timm:n", "kind": "classifier", "size": 96, "spread": 0.5, "versions": {"torch": "2"}}
    text = coverage_page.page([about | cell for cell in cells])
    assert "| `timm:n` | 96 | 101 dB | 99 dB, 87.5 % of answers, 50 % inside | no (1) | – | – |" in text
    assert "it branches." in text
    assert "`aten_x`" in text
