"""Jobs in child processes: answers, errors, crashes, and children that don't outlive their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from edge_lab.core.errors import InputError
from edge_lab.flow import workers
from edge_lab.flow.workers import run_isolated


def job(request: str) -> object:
    if request == "crash":
        os.abort()
    if request == "exit":
        os._exit(3)
    if request == "bad":
        raise InputError("it is bad.", "it was asked to be.", "ask for something else.")
    if request == "bug":
        raise KeyError("a bug")
    print("noise that belongs in the log")
    return os.getpid() if request == "pid" else request.upper()


def results(requests: list[str], workers: int, tmp_path: Path) -> dict[str, object]:
    done = run_isolated(job, requests, workers=workers, log=tmp_path / "log.txt")
    return {requests[d.index]: d.error or d.value for d in done}


def test_a_crash_costs_one_job(tmp_path: Path, capfd) -> None:
    found = results(["a", "crash", "b", "exit", "bad", "bug", "c"], 2, tmp_path)
    assert [found[k] for k in "abc"] == ["A", "B", "C"]
    assert "SIGABRT" in str(found["crash"])
    assert "exit status 3" in str(found["exit"])
    assert isinstance(found["bad"], InputError)
    assert "KeyError" in str(found["bug"])
    assert "noise" in (tmp_path / "log.txt").read_text()
    assert "noise" not in capfd.readouterr().out


def test_a_process_is_reused(tmp_path: Path) -> None:
    done = list(run_isolated(job, ["pid", "pid", "pid"], workers=1, log=tmp_path / "log.txt"))
    assert len({d.value for d in done}) == 1
    assert done[0].value != os.getpid()


def test_objects_that_can_not_travel_are_one_error(tmp_path: Path) -> None:
    done = list(run_isolated(job, [lambda: None], workers=1, log=tmp_path / "log.txt"))  # type: ignore[list-item]
    assert "can't be sent to a worker" in str(done[0].error)


def test_leaving_early_kills_the_children(tmp_path: Path) -> None:
    steps = run_isolated(time.sleep, [0.0, 600.0, 600.0], workers=2, log=tmp_path / "log.txt")
    next(steps)
    steps.close()  # as Ctrl-C does
    deadline = time.monotonic() + 120
    while children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not children()


def test_no_child_starts_after_the_consumer_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that was about to start its process when the consumer left must not start it."""
    start, slots, left = workers._Slot._start, [], threading.Event()

    def late(slot: workers._Slot) -> None:
        slots.append(slot)
        if len(slots) > 1:
            left.wait(60)
        start(slot)

    monkeypatch.setattr(workers._Slot, "_start", late)
    steps = run_isolated(time.sleep, [0.0, 600.0, 600.0], workers=2, log=tmp_path / "log.txt")
    next(steps)
    while len(slots) < 2:
        time.sleep(0.01)
    steps.close()
    left.set()
    for slot in slots:
        slot.thread.join(60)
    processes = [slot.process for slot in slots if slot.process is not None]
    for process in processes:
        process.join(120)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive


def children() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [c for c in mine if c.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(c.cmdline())]


def test_children_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from edge_lab.flow.workers import run_isolated\n"
        "if __name__ == '__main__':\n"
        "    import test_workers\n"
        "    done = run_isolated(test_workers.job, ['pid', 'pid'], workers=1, log=Path('log.txt'))\n"
        "    print(next(done).value, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
    child = int(out.stdout)
    deadline = time.monotonic() + 120
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(child)
