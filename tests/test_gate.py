"""The gate of `to`: programs that answer differently from their model, made wrong on purpose, are not written."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import export, flow
from edge_lab.bundle.folder import Bundle
from edge_lab.capture.inputs import halves
from edge_lab.capture.target import Job, Program
from edge_lab.cli import commands
from edge_lab.cli.main import main
from edge_lab.core.errors import DivergenceError, InputError
from edge_lab.core.numbers import EQUAL_DB
from edge_lab.export import to
from edge_lab.export.gate import LIMITS, Limit, nearness
from edge_lab.flow import check as checks
from edge_lab.zoo import Model, from_module

RNG = np.random.default_rng(0)
SOME = [RNG.standard_normal((1, 4)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize(
    ("other", "decibels"),
    [
        (SOME, EQUAL_DB),
        ([0.9 * x for x in SOME], 20.0),
        ([x[:, :3] for x in SOME], -EQUAL_DB),
        ([x * np.nan for x in SOME], -EQUAL_DB),
        ([x * np.inf for x in SOME], -EQUAL_DB),
        ([0 * x for x in SOME], 0.0),
    ],
)
def test_nearness_is_the_signal_to_noise_ratio(other: list[np.ndarray], decibels: float) -> None:
    assert nearness(SOME, other) == pytest.approx(decibels, abs=1e-4)


def test_nearness_does_not_depend_on_how_large_the_numbers_are() -> None:
    tiny = [1e-20 * x for x in SOME]
    assert nearness(tiny, [0.9 * x for x in tiny]) == pytest.approx(20, abs=1e-4)


def test_a_reference_of_zeros_is_met_by_zeros_only() -> None:
    zeros = [0 * x for x in SOME]
    assert nearness(zeros, zeros) == EQUAL_DB
    assert nearness(zeros, SOME) == -EQUAL_DB


def test_the_same_infinity_is_equal_and_whole_numbers_are_counted() -> None:
    masked = [np.where(x > 0, x, -np.inf) for x in SOME]
    assert nearness(masked, masked) == EQUAL_DB
    assert nearness(masked, SOME) == -EQUAL_DB
    places = [np.arange(100)]
    assert nearness(places, [np.where(np.arange(100) == 7, 0, places[0])]) == pytest.approx(20)


class Two(nn.Module):
    """Boxes of hundreds of pixels, and scores from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2)
        self.boxes, self.scores = nn.Linear(8, 4), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.body(x).relu().mean((2, 3))
        return {"boxes": 600 * self.boxes(y).sigmoid(), "scores": (20 * self.scores(y)).softmax(1)}


@pytest.fixture(scope="module")
def two() -> Model:
    torch.manual_seed(0)
    return from_module(Two(), (1, 3, 32, 32), name="two")


class Wrong(nn.Module):
    """What a converter with a fault makes of a module: the last output is another one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> object:
        out = self.module(x)
        if isinstance(out, torch.Tensor):
            return out.flip(-1)
        return (*tuple(out)[:-1], tuple(out)[-1].flip(-1))


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every exporter writes another program than it was asked for."""
    honest = export.exporter_of

    def dishonest(target: object) -> object:
        def write(job: Job) -> Program:
            return honest(target)(replace(job, module=Wrong(job.module).eval()))  # type: ignore[arg-type]

        return write

    monkeypatch.setattr(export, "exporter_of", dishonest)
    return


@pytest.mark.parametrize("target", ["linux-onnx-fp32", "linux-pt2-fp32", "linux-onnx-int8", "linux-torchscript-fp32"])
@pytest.mark.usefixtures("faulty")
def test_a_wrong_program_is_not_written(target: str, two: Model, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="output 'scores'") as caught:
        to(two, target, out=tmp_path)
    assert caught.value.sqnr_db < LIMITS["int8-static"].db
    assert not list(tmp_path.rglob("bundle.json"))
    assert "--allow-divergence" in caught.value.fix


@pytest.mark.usefixtures("faulty")
def test_it_is_written_if_that_is_asked_for_and_says_so_for_ever(
    two: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = to(two, "linux-onnx-fp32", out=tmp_path, allow_divergence=True)
    assert bundle.parity is not None
    assert bundle.parity.allowed
    assert [output.ok for output in bundle.parity.outputs] == [True, False]
    assert to(two, "linux-onnx-fp32", out=tmp_path, allow_divergence=True).made_by == bundle.made_by  # reused
    with pytest.raises(DivergenceError):  # but not by who did not ask for it
        to(two, "linux-onnx-fp32", out=tmp_path)
    monkeypatch.chdir(tmp_path)  # there are no budgets here
    assert main(["check", str(bundle.path)]) == 1
    assert "FAIL  as PyTorch" in capsys.readouterr().out
    assert main(["check", str(bundle.path), "--allow-divergence"]) == 0


def test_the_layer_where_it_starts_is_named(two: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = export.exporter_of

    class Bent(nn.Module):  # a fault inside: another slope behind the first layer
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> object:
            return self.inner(x)

    def bend(target: object) -> object:
        def write(job: Job) -> Program:
            import copy

            inner = copy.deepcopy(job.module)
            with torch.no_grad():
                next(m for m in inner.modules() if isinstance(m, nn.Conv2d)).weight.mul_(0.5)
            return honest(target)(replace(job, module=inner))  # type: ignore[arg-type]

        return write

    monkeypatch.setattr(export, "exporter_of", bend)
    for target in ("linux-onnx-fp32", "linux-xnnpack-fp32"):  # of the second, by the graph that the delegate got
        with pytest.raises(DivergenceError, match=r"it starts at body \(Conv2d\)"):
            to(two, target, out=tmp_path)


def test_the_error_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(DivergenceError("a", "b", "c", -3.0)))
    assert (str(error), error.sqnr_db) == ("a\n  why: b\n  fix: c", -3.0)


@pytest.mark.usefixtures("faulty")
def test_run_and_coverage_fail_the_target_and_say_by_how_much(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = from_module(nets.Good(), nets.SHAPE, name="good")
    result = flow.run(model, targets=["linux-onnx-fp32"], limit=4, out=tmp_path, jobs=0, progress=False)
    row = result.rows[1]
    assert row.status == "failed"
    assert row.failure is not None
    assert "answers differently from PyTorch" in row.failure.what
    cell = flow.coverage(model, ["linux-onnx-fp32"], out=tmp_path, jobs=0)["linux-onnx-fp32"]
    assert cell.diverges
    assert not cell.exported
    assert cell.sqnr_db < 60
    allowed = flow.coverage(model, ["linux-onnx-fp32"], out=tmp_path, jobs=0, allow_divergence=True)["linux-onnx-fp32"]
    assert (allowed.exported, allowed.diverges) == (True, True)


@pytest.mark.usefixtures("faulty")
def test_coverage_of_a_wrong_program_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets_py = Path(nets.__file__)
    command = ["coverage", f"{nets_py}:good", "--targets", "linux-onnx-fp32", "--jobs", "0", "--out", str(tmp_path)]
    assert main(command) == 1
    assert "FAIL  linux-onnx-fp32" in capsys.readouterr().out
    assert main([*command, "--allow-divergence"]) == 0


class Kind(nn.Module):
    """Right on pictures that are dark, as an int8 program that was calibrated on such would be; else not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * 10


def test_run_holds_a_program_to_all_inputs_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden inputs may be kinder than the reader's own pictures."""
    from edge_lab.flow import jobs

    model = from_module(Kind(), (1, 3, 32, 32), name="kind")
    honest = jobs.every_output

    def worse(session: object, inputs: object) -> tuple[np.ndarray, ...]:
        found = honest(session, inputs)  # type: ignore[arg-type]
        return found if getattr(session, "name", "") == "eager" else tuple(np.roll(out, 1, -1) for out in found)

    monkeypatch.setattr(jobs, "every_output", worse)
    row = flow.run(model, targets=["linux-onnx-fp32"], limit=4, out=tmp_path, jobs=0, progress=False).rows[1]
    assert row.status == "failed"
    assert row.sqnr_db < 60
    found = checks.check(tmp_path / "kind" / "onnx-fp32")  # and the bundle has it in writing
    assert not found.ok
    monkeypatch.setattr(jobs, "every_output", honest)
    row = flow.run(model, targets=["linux-onnx-fp32"], limit=4, out=tmp_path, jobs=0, progress=False).rows[1]
    assert row.status == "ok"
    assert checks.check(tmp_path / "kind" / "onnx-fp32").ok


def test_a_wrong_program_cannot_pass_the_check_by_repeating_itself(two: Model, tmp_path: Path) -> None:
    right = to(two, "linux-onnx-int8", out=tmp_path / "right")
    torch.manual_seed(1)
    other = to(from_module(Two(), (1, 3, 32, 32), name="two"), "linux-onnx-int8", out=tmp_path / "other")
    for case, stranger in zip(right.golden, other.golden, strict=True):  # its program, and what that answers
        for mine, theirs in zip(case.outputs, stranger.outputs, strict=True):
            (right.path / mine).write_bytes((other.path / theirs).read_bytes())
    right.program_path.write_bytes(other.program_path.read_bytes())
    right.save()
    lines = {line.name: line for line in checks.check(right.path).lines}
    assert lines["golden"].ok
    assert lines["as PyTorch"].ok is False


def test_every_output_has_a_tolerance_of_its_own(two: Model, tmp_path: Path) -> None:
    bundle = to(two, "linux-onnx-int8", out=tmp_path)
    for case in bundle.golden:
        assert case.atols is not None
        boxes, scores = case.atols
        assert case.atol == boxes > 1 > 0.05 > scores
    case = bundle.golden[0]
    file = bundle.path / case.outputs[1]
    rng = np.random.default_rng(0)
    file.write_bytes(rng.random(5, np.float32).tobytes())  # scores that nobody computed
    bundle.save()
    line = next(line for line in checks.check(bundle.path).lines if line.name == "golden")
    assert line.ok is False
    assert "of scores" in line.detail


def test_golden_outputs_are_the_models_and_what_rounds_keeps_its_own_beside_them(two: Model, tmp_path: Path) -> None:
    exact, rounded = (to(two, f"linux-onnx-{kind}", out=tmp_path) for kind in ("fp32", "int8"))
    assert {case.reference for case in exact.golden} == {"eager"}
    assert {case.reference for case in rounded.golden} == {"self"}
    session = edge_lab.eager(two)
    for bundle in (exact, rounded):
        for x, outputs in bundle.eager_cases():
            for output, wanted in zip(outputs, session.run(x), strict=True):
                np.testing.assert_array_equal(output, wanted)


def test_every_precision_has_a_limit_and_a_floor_below_it() -> None:
    from typing import get_args

    from edge_lab.bundle.folder import Scheme

    assert set(LIMITS) == set(get_args(Scheme))
    assert all(0 <= limit.floor <= limit.db for limit in LIMITS.values())
    assert isinstance(LIMITS["fp32"], Limit)


class Table(nn.Module):
    """A network for ready numbers fifty times larger than noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_int8_of_ready_tensors_is_judged_on_given_inputs_that_did_not_calibrate_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = from_module(Table(), (1, 12), name="table")
    rng = np.random.default_rng(1)
    given = [(50 * rng.standard_normal((1, 12))).astype(np.float32) for _ in range(16)]
    bundle = to(model, "linux-onnx-int8", calibration=given, out=tmp_path)
    assert bundle.quantization.samples == 8
    assert bundle.parity is not None
    assert "held out" in bundle.parity.inputs
    recorded = [x for _, x, _ in bundle.golden_cases()]
    held_out = halves(given, model.spec)[1]
    assert all(any(np.array_equal(x, other) for other in held_out) for x in recorded)
    assert bundle.metrics["sqnr_db"] > 25
    result = flow.run(model, targets=["linux-onnx-int8"], calibration=given, out=tmp_path, jobs=0, progress=False)
    assert "held out" in result.dataset
    assert result.images == 8
    assert result.rows[1].sqnr_db > 20


def test_a_model_that_answers_differently_every_time_is_refused(two: Model, tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x, 0.5).mean((2, 3))

    model = replace(two, module=Random().eval())
    with pytest.raises(InputError, match="dropout"):
        to(model, "linux-onnx-fp32", out=tmp_path)


def test_metrics_are_recorded_without_blessing_damage(two: Model, tmp_path: Path) -> None:
    bundle = to(two, "linux-onnx-fp32", out=tmp_path)
    content = bytearray(bundle.program_path.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.program_path.write_bytes(content)
    Bundle.load(bundle.path, verify=False).record(top1=50.0)
    assert Bundle.load(bundle.path, verify=False).metrics["top1"] == 50.0
    with pytest.raises(edge_lab.errors.BundleError, match="damaged"):
        Bundle.load(bundle.path)


def test_check_of_a_model_that_hears_says_that_pictures_are_no_use(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = to(edge_lab.create("speechnet"), "linux-onnx-fp32", out=artifacts)
    with pytest.raises(InputError, match="takes recordings"):
        checks.check(bundle.path, images="photos")
    assert commands  # the command turns it into three lines
    assert main(["check", str(bundle.path), "--images", "photos"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_page_of_the_promise_shows_the_limits() -> None:
    lines = (Path(__file__).parents[1] / "docs" / "promise.md").read_text(encoding="utf-8").splitlines()
    for scheme, limit in LIMITS.items():
        margin = f"{limit.margin:g}" if limit.margin else "–"
        assert f"| {scheme} | {limit.db:g} | {limit.floor:g} | {margin} |" in lines


def test_nothing_is_held_out_where_golden_inputs_are_given(tmp_path: Path) -> None:
    model = from_module(Table(), (1, 12), name="table")
    given = [np.random.default_rng(i).standard_normal((1, 12)).astype(np.float32) for i in range(8)]
    assert to(model, "linux-onnx-int8", calibration=given, golden=given[:2], out=tmp_path).quantization.samples == 8


def test_a_map_from_c_code_has_the_layout_that_its_spec_says(tmp_path: Path) -> None:
    """C code keeps the channels of a pixel together; golden files and sessions are NCHW."""
    torch.manual_seed(0)
    model = from_module(nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU()), (1, 1, 12, 12), name="map")
    given = [np.random.default_rng(i).standard_normal((1, 1, 12, 12)).astype(np.float32) for i in range(8)]
    bundle = to(model, "mcu-cortex-m4-int8", calibration=given, out=tmp_path)
    if bundle.parity is not None and bundle.parity.compared == "no":
        pytest.skip("no C compiler here")
    assert bundle.metrics["sqnr_db"] > 25
    assert edge_lab.load(bundle)(given[0]).shape == (1, 6, 6, 6)
