"""The table of peers with engines that crash, hang, lie and chatter, and workers that are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_engines import FAKES, fakes
from nets import SHAPE, Good

from edge_lab.bundle.spec import Preprocess
from edge_lab.measure import Measurements
from edge_lab.peers import Peaks
from edge_lab.peers.client import WORKER, WorkerFailed
from edge_lab.peers.rounds import CALLS, Limits
from edge_lab.zoo import Model, from_module


@pytest.fixture(scope="module")
def model() -> Model:
    import torch

    torch.manual_seed(0)
    preprocess = Preprocess(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    return from_module(Good(), SHAPE, name="good", preprocess=preprocess)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks that are not measured."""
    monkeypatch.setattr("edge_lab.peers.peaks", lambda threads: Peaks(threads, 100.0, None, 400.0, 20.0))


def test_turns_are_interleaved_and_shuffled(model: Model, tmp_path: Path) -> None:
    log = tmp_path / "diary.txt"
    rounds = 5
    made = fakes(model, tmp_path, ["diary"] * 3, log, rounds=rounds, threads=(1, 2))
    lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    for threads in (1, 2):
        calls = [pid for pid, count in lines if count == threads]
        workers = sorted(set(calls))
        assert len(workers) == 3, "each engine has a process of its own"
        turn = 1 + CALLS
        of_rounds = calls[len(calls) - 3 * 3 - 3 * rounds * turn :] if threads == 1 else calls[-3 * rounds * turn :]
        of_rounds = of_rounds[: 3 * rounds * turn]  # on one thread, the answers to all inputs follow
        turns = [of_rounds[i : i + turn] for i in range(0, len(of_rounds), turn)]
        assert all(len(set(calls)) == 1 for calls in turns), "a turn belongs to one engine"
        order = [calls[0] for calls in turns]
        each_round = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
        assert len(each_round) == rounds
        assert all(sorted(one) == workers for one in each_round), "everyone has one turn a round"
        assert len(set(each_round)) > 1, "not always in the same order"
    assert all(set(row.p50_ms) == {1, 2} for row in made.rows)


def test_engines_that_fail_are_rows_and_the_rest_comes_out(model: Model, tmp_path: Path) -> None:
    names = ["good", "crash", "leave", "hang", "wrong", "nan", "refuse", "chatty"]
    made = fakes(model, tmp_path, names, limits=Limits(load=60, call=0.4))
    rows = {row.engine: row for row in made.rows}
    assert [rows[name].problem for name in ("good", "chatty", "nan")] == ["", "", ""]
    assert [rows[name].images for name in ("good", "chatty")] == [3, 3]
    assert rows["crash"].problem == "was ended by SIGSEGV during 'run': the pool is gone"
    assert rows["leave"].problem == "ended with exit code 7 during 'first': licence not found"
    assert rows["hang"].problem.startswith("gave no answer to 'first'")
    assert rows["refuse"].problem == "ValueError: no kernel for GatherElements"
    assert "(3, 3), not (3, 10)" in rows["wrong"].problem
    assert (rows["nan"].agreement, rows["nan"].sqnr_db) == (0, -200)
    for name in ("leave", "hang", "refuse"):
        assert not rows[name].p50_ms
        assert rows[name].agreement is None
    made.measured.save(tmp_path / "peers.json")  # JSON knows no NaN
    kept = [item.engine.name for item in Measurements.load(tmp_path / "peers.json")]
    assert kept == [name for name in names if name not in ("leave", "hang", "refuse", "crash")]
    for name in ("crash", "leave", "hang", "wrong", "refuse"):
        assert f"- {name}-fp32: {rows[name].problem}." in str(made)
    assert not [p for p in psutil.Process().children(recursive=True) if str(WORKER) in p.cmdline()]


def test_scores_that_tie_are_said(model: Model, tmp_path: Path) -> None:
    (row,) = fakes(model, tmp_path, ["coarse"]).rows
    assert any("for 3 of 3 inputs two classes share the best one" in note for note in row.notes)
    assert any("agreement would be 100.0 %" in note for note in row.notes)


def test_no_engine_at_all_is_a_table_too(model: Model, tmp_path: Path) -> None:
    made = fakes(model, tmp_path, ["refuse"])
    assert made.fastest() is None
    assert "no kernel" in str(made)
    made.plot()


def test_a_worker_that_was_never_told_to_load_says_so() -> None:
    from edge_lab.peers.client import Client

    with Client(Path(sys.executable), "onnxruntime") as client:
        with pytest.raises(WorkerFailed, match="nothing is loaded"):
            client.ask(60, do="run", count=1, ready_s=0)
        with pytest.raises(WorkerFailed, match="KeyError"):
            client.ask(60, do="dance")


def test_ctrl_c_ends_every_worker(tmp_path: Path) -> None:
    extra = tmp_path / "fakes.py"
    extra.write_text(FAKES, encoding="utf-8")
    code = f"""
from pathlib import Path
import sys
from edge_lab.peers.engines import Peer
from edge_lab.peers.prepare import Program
from edge_lab.peers.rounds import measure
import numpy as np
np.save({str(tmp_path / "one.npy")!r}, np.ones((1, 3), np.float32))
peer = lambda name: Program(Peer(name, name, name, "fp32", ""), Path("x"), Path(sys.executable))
measure([peer("good"), peer("hang")], 1, 1, folder=Path({str(tmp_path)!r}), outputs=False, extra=[Path({str(extra)!r})])
"""
    started = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    mother = psutil.Process(started.pid)
    end = time.monotonic() + 300
    while len(workers := [p for p in mother.children(recursive=True) if p.is_running()]) < 2:
        assert time.monotonic() < end, "the workers did not start"
        assert started.poll() is None
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGINT)
    assert started.wait(300) != 0
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert alive == []
