"""The doctor tries things, says how to mend them, and survives a runtime that crashes."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from edge_lab.clinic import doctor


def test_a_missing_and_a_wrong_package_fail_with_the_command_that_mends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["no-such-package>=1", "numpy==0.0.1", "packaging>=1", "pytest==0; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    missing, wrong, good = doctor._packages()
    assert (missing.ok, wrong.ok, good.ok) == (False, False, True)
    assert missing.fix.endswith("-m pip install 'no-such-package>=1'")
    assert "needs numpy==0.0.1" in wrong.detail
    assert not doctor.healthy((missing, good))


def test_every_package_of_the_project_is_looked_at() -> None:
    names = [c.name for c in doctor._packages()]
    assert {"torch", "executorch", "onnxruntime", "coremltools", "numpy"} <= set(names)
    assert "nbval" not in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "crashed with signal 6"),
        ("raise RuntimeError('XNNPACK is off')", "RuntimeError: XNNPACK is off"),
        ("print('something else')", "something else"),
        ("", "it printed nothing"),
    ],
)
def test_a_probe_that_dies_is_a_failed_check(code: str, detail: str) -> None:
    check = doctor._probe("engine", code, "works", "reinstall it")
    assert check.ok is False
    assert check.detail == detail
    text = "\n".join(doctor.lines((check,)))
    assert text.startswith("FAIL")
    assert "fix: reinstall it" in text


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.5)
    assert "no answer" in doctor._probe("engine", "import time; time.sleep(60)", "x", "y").detail


def test_onnx_runtime_really_runs_a_model() -> None:
    check = doctor._onnxruntime()
    assert check.ok, check.detail


def test_onnx_runtime_that_computes_wrongly_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ONNX", doctor._ONNX.replace("[0, 0, 2]", "[9, 9, 9]"))
    assert doctor._onnxruntime().ok is False


def test_real_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGE_LAB_DATA", raising=False)
    assert doctor._real_data().ok is None
    monkeypatch.setenv("EDGE_LAB_DATA", str(tmp_path / "nowhere"))
    assert doctor._real_data().mark == "FAIL"
    monkeypatch.setenv("EDGE_LAB_DATA", str(tmp_path))
    assert doctor._real_data().mark == "WARN"
    (tmp_path / "cifar10.zip").touch()
    assert doctor._real_data().detail == "cifar10.zip"


def test_a_cache_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    assert doctor._cache().ok
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "file"))
    assert doctor._cache().ok is False
    assert "EDGE_LAB_CACHE" in doctor._cache().fix


def test_too_little_disk_fails_and_too_little_memory_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_MIN_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "_MIN_MEMORY_GB", 1e9)
    disk, memory = doctor._disk(), doctor._memory()
    assert (disk.mark, memory.mark) == ("FAIL", "WARN")
    assert not doctor.healthy((disk,))
    assert doctor.healthy((memory,))
