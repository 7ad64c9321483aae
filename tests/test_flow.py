"""The flow on a small model: rows that add up, failures beside successes, faults that leave nothing half-done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nets
import pytest

from edge_lab import flow
from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import DataError, InputError
from edge_lab.core.numbers import EQUAL_DB
from edge_lab.data import load as load_data
from edge_lab.measure import Measurements
from edge_lab.results.result import RunResult

HERE = Path(__file__).parent
TARGETS = ["linux-onnx-fp32", "linux-torchscript-fp32", "linux-onnx-int8"]


@pytest.fixture(scope="module")
def result(artifacts: Path) -> RunResult:
    return flow.run(f"{HERE}/nets.py:good", targets=TARGETS, limit=6, out=artifacts / "flow", progress=False)


def test_a_name_that_is_a_data_set_and_a_folder_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    load_data("digits", limit=1)[0].save(tmp_path / "photos" / "a.png")
    with pytest.raises(InputError, match=r"photos is a shipped data set, and a folder here(.|\n)*write \./photos"):
        flow.image_set("photos")
    assert flow.image_set("./photos").names == flow.image_set(tmp_path / "photos").names == ("a.png",)
    (tmp_path / "photos").rename("mine")
    assert (len(flow.image_set("mine")), len(flow.image_set("photos"))) == (1, 12)


def test_pictures_for_a_model_that_hears_are_refused_as_such() -> None:
    with pytest.raises(InputError, match="speechnet takes recordings, so pictures are no use to it"):
        flow.run("speechnet", targets=["linux-onnx-fp32"], images="photos", progress=False)


def test_one_row_per_target_eager_first(result: RunResult) -> None:
    assert [row.target for row in result.rows] == ["eager", *TARGETS]
    assert all(row.status == "ok" for row in result.rows)
    eager = result.rows[0]
    assert (eager.agreement, eager.sqnr_db) == (100.0, EQUAL_DB)


def test_numbers_are_measured_and_add_up(result: RunResult) -> None:
    for row in result.rows[1:]:
        assert row.bundle is not None
        bundle = Bundle.load(row.bundle)
        assert row.size_mb == bundle.program_bytes / 1e6
        assert bundle.metrics["sqnr_db"] == row.sqnr_db
        assert row.p50_ms > 0
        assert row.p90_ms >= row.p50_ms
        assert len(row.samples_ms) == 30
        assert row.load_ms > 0
        assert row.peak_mb > row.delta_mb
        assert row.verdicts
    fp32, _, int8 = result.rows[1:]
    assert fp32.sqnr_db > 60 > int8.sqnr_db > 10
    assert fp32.agreement == 100.0


def test_the_timings_are_kept_in_the_form_of_every_measurement(result: RunResult, artifacts: Path) -> None:
    found = Measurements.load(artifacts / "flow" / "measurements.json")
    assert [item.target for item in found] == [None, *TARGETS]
    for row, item in zip(result.rows, found, strict=True):
        assert item.latency.samples_ms == pytest.approx(row.samples_ms)
        assert len(item.latency.samples_s) == len(item.latency.cpu_s)
        assert item.quality is not None
        assert (item.quality.agreement, item.quality.images) == (row.agreement, 6)
        assert (item.start.load_ms if item.start else None) == row.load_ms


def test_results_survive_a_round_trip(result: RunResult, tmp_path: Path) -> None:
    result.save(tmp_path / "run.json")
    assert RunResult.load(tmp_path / "run.json") == result


def test_pictures_show_what_each_target_answered(result: RunResult) -> None:
    assert len(result.examples) == 6
    assert set(result.examples[0].answers) == {"eager", *TARGETS}
    assert len(result.examples[0].answers["eager"]) == 3


@pytest.mark.parametrize("limit", [1, 6, 100])
def test_a_limit_is_the_number_of_pictures(limit: int) -> None:
    assert len(flow.inputs._default_images(False, limit)) == limit


def test_a_second_run_reuses_the_bundles(result: RunResult, artifacts: Path) -> None:
    again = flow.run(f"{HERE}/nets.py:good", targets=TARGETS, limit=6, out=artifacts / "flow", progress=False, jobs=0)
    assert [row.reused for row in again.rows[1:]] == [True] * len(TARGETS)
    assert again.rows[1].sqnr_db == result.rows[1].sqnr_db


def test_what_can_not_be_exported_stands_beside_what_can(tmp_path: Path) -> None:
    model = nets.tensor_model(nets.Branch())
    found = flow.run(model, targets=["linux-onnx-fp32", "linux-torchscript-fp32"], out=tmp_path, progress=False, jobs=0)
    onnx, torchscript = found.rows[1:]
    assert onnx.status == "failed"
    assert "torch.where" in onnx.failure.fix
    assert onnx.verdicts == ()
    assert torchscript.status == "ok"
    assert torchscript.sqnr_db > 60


def test_segmentation_and_detection_go_through(tmp_path: Path) -> None:
    found = flow.run(
        nets.tensor_model(nets.Detector()), targets=["linux-onnx-fp32"], out=tmp_path, progress=False, jobs=0
    )
    assert found.rows[1].sqnr_db > 60


def test_unusable_arguments_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no target"):
        flow.run("tinynet", targets=["toaster-int8"], out=tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"empty|no image"):
        flow.run("tinynet?weights=random", images=str(tmp_path / "photos"), out=tmp_path, progress=False)
    with pytest.raises(InputError, match="ready tensor"):
        flow.run(nets.tensor_model(nets.Branch()), images="photos", out=tmp_path, progress=False)
    assert not list(tmp_path.rglob("bundle.json"))


def test_an_unreadable_image_is_skipped_and_counted(tmp_path: Path) -> None:
    photos = load_data("photos")
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(3):
        photos[i].save(folder / f"{i}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not really")
    found = flow.run(nets.good(), targets=["linux-pt2-fp32"], images=str(folder), out=tmp_path, progress=False, jobs=0)
    assert (found.images, found.skipped_images) == (3, 1)


def command(out: Path) -> list[str]:
    code = (
        "from edge_lab import flow\n"
        "if __name__ == '__main__':\n"
        f"    flow.run({str(HERE / 'nets.py:good')!r}, targets=['android-xnnpack-fp32'], limit=2, out={str(out)!r})\n"
    )
    script = out.parent / "run_flow.py"
    script.write_text(code)
    return [sys.executable, str(script)]


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob(pattern)):
        assert process.poll() is None, "the run ended before the fault could be made"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_in_an_export_leaves_no_half_bundle(kill: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "artifacts"
    process = subprocess.Popen(
        command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(out, "good/.xnnpack-fp32.part-*/golden/*", process)
    os.killpg(process.pid, kill) if kill == signal.SIGKILL else process.send_signal(kill)
    assert process.wait(300) != 0
    assert not (out / "good" / "xnnpack-fp32").exists()
    subprocess.run(command(out), check=True, capture_output=True, timeout=900)
    assert Bundle.load(out / "good" / "xnnpack-fp32").golden
    assert not list(out.glob("good/.*part-*"))


def test_two_runs_at_once_share_one_export(tmp_path: Path) -> None:
    out = tmp_path / "artifacts"
    pair = [subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=900)[1].decode() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert sorted("bundle reused" in text for text in said) == [False, True], said
    Bundle.load(out / "good" / "xnnpack-fp32")
