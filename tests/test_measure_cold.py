"""Cold start and memory come from a process of their own, and a process that dies says how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_lab.bundle.folder import Bundle, Golden, Quantization, Runtime
from edge_lab.bundle.spec import ModelSpec, TensorSpec
from edge_lab.core.errors import EdgeLabError
from edge_lab.measure import cold_start, fresh


def _bundle(path: Path) -> Path:
    """A TorchScript bundle of x * 2 with 40 MB of weights that it adds once."""
    import torch

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.zeros(10_000_000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 + self.weights.sum()

    path.mkdir()
    x = torch.arange(4.0).reshape(1, 4)
    torch.jit.trace(Twice(), x).save(str(path / "model.pt"))
    x.numpy().tofile(path / "x.bin")
    (x * 2).numpy().tofile(path / "y.bin")
    version = torch.__version__.split("+")[0]
    Bundle(
        path=path,
        target="linux-torchscript-fp32",
        spec=ModelSpec("twice", "tensor", TensorSpec("x", (1, 4), layout="NC")),
        runtime=Runtime("torchscript", "cpu", "torch", version, version),
        quantization=Quantization("fp32"),
        program="model.pt",
        outputs=(TensorSpec("y", (1, 4), layout="NC"),),
        golden=(Golden(None, "x.bin", ("y.bin",), 1e-6, "self"),),
        made_by={"edge_lab": "test", "date": "2026-01-01T00:00:00Z", "git": None, "fingerprint": "0"},
    ).save()
    return path


def test_a_bundle_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    ballast = np.ones(100_000_000)  # 800 MB here must not show up as the child's memory
    result = fresh(_bundle(tmp_path / "b"))
    assert ballast[-1] == 1
    assert min(result.wall.import_ms, result.wall.load_ms, result.wall.steady_ms) > 0
    assert result.wall.total_ms > result.wall.import_ms
    memory = result.memory
    assert 20 < memory.delta_mb < 400
    assert memory.baseline_mb < memory.loaded_mb <= memory.peak_mb < 800


def test_a_crash_names_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _swap_child(monkeypatch, "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(EdgeLabError, match="SIGSEGV"):
        cold_start(tmp_path)


def test_a_hanging_engine_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _swap_child(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(EdgeLabError, match="did not finish in 1 s"):
        fresh(tmp_path, timeout=1)


def test_a_silent_engine_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _swap_child(monkeypatch, "print('hello')")
    with pytest.raises(EdgeLabError, match="hello"):
        fresh(tmp_path)


def test_a_missing_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(EdgeLabError, match="no bundle at"):
        fresh(tmp_path / "nowhere")


def _swap_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **kw: real([sys.executable, "-c", code], **kw))
