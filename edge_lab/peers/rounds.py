"""Time many engines in turn although each is in a process of its own, so that drift and noise hit all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab.measure.cold import ColdStart, Memory
from edge_lab.measure.pin import pinned
from edge_lab.measure.timing import Latency
from edge_lab.peers.client import Client, WorkerFailed
from edge_lab.peers.prepare import Program

WARMUP = 5
CALLS = 3  # timed calls of one turn
READY_S = 0.01  # and before them calls for this long, at least one: they bring the caches back from the other engines
_PAUSE_S = 0.01  # between turns: until threads of the last engine that wait in a loop have gone to sleep


@dataclass(frozen=True)
class Limits:
    """Seconds after which a worker counts as hung: loading a program, and anything else for each call it takes."""

    load: float = 300.0
    call: float = 60.0


PATIENT = Limits()


@dataclass
class Seen:
    """What one worker has shown so far; `problem` says how it ended, if it did."""

    program: Program
    version: str = ""
    start: ColdStart | None = None
    memory: Memory | None = None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    outputs: np.ndarray | None = None
    problem: str = ""
    pinned: tuple[int, ...] | None = None

    def latency(self, threads: int) -> Latency | None:
        """The samples so far; None if there are none."""
        if not self.wall:
            return None
        clock: Any = "cpu" if threads == 1 else "wall"
        return Latency(tuple(self.wall), tuple(self.cpu), WARMUP + 1, threads, clock=clock)


def measure(
    programs: Sequence[Program],
    threads: int,
    rounds: int,
    *,
    folder: Path,
    outputs: bool,
    extra: Sequence[Path] = (),
    limits: Limits = PATIENT,
    log: Callable[[str], None] = lambda _: None,
    seed: int = 0,
) -> list[Seen]:
    """Start a worker for each program, then time them turn by turn. One that fails is left out from there on.

    Args:
        programs: what to run; those with `missing` are passed over.
        threads: of each engine; on one thread all workers share the idlest core, which one at a time uses.
        rounds: turns of each worker; a turn is CALLS timed calls.
        folder: holds one.npy, an input, and all.npy, many of them.
        outputs: also run every input of all.npy.
        extra: files with further engines for worker.py.
        limits: when a worker counts as hung.
        log: gets a line for each stage.
        seed: of the order within a round.
    """
    seen = [Seen(program) for program in programs]
    with ExitStack() as stack:
        cores = stack.enter_context(pinned(threads))
        at_work: dict[int, Client] = {}
        log(f"{threads} thread(s): loading")
        for i, one in enumerate(seen):
            one.pinned = cores
            if one.program.path is not None:
                at_work[i] = stack.enter_context(_start(one.program, threads, extra))
                _obey(at_work, i, one, partial(_load, one=one, threads=threads, folder=folder, limits=limits))
        log(f"{threads} thread(s): {rounds} rounds of {len(at_work)} engines")
        order = random.Random(seed)
        for _ in range(rounds):
            for i in order.sample(sorted(at_work), len(at_work)):
                time.sleep(_PAUSE_S)
                _obey(at_work, i, seen[i], partial(_turn, one=seen[i], limits=limits))
        if outputs:
            log("running every input")
        for i in sorted(at_work) if outputs else ():
            _obey(at_work, i, seen[i], partial(_answers, one=seen[i], folder=folder, i=i, limits=limits))
    return seen


def _start(program: Program, threads: int, extra: Sequence[Path]) -> Client:
    assert program.python is not None
    count = str(threads)  # what OpenMP and others read before they are told
    environ = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return Client(program.python, program.peer.engine, extra=extra, environ=environ)


def _obey(at_work: dict[int, Client], i: int, one: Seen, orders: Callable[[Client], None]) -> None:
    try:
        orders(at_work[i])
    except WorkerFailed as error:
        one.problem = str(error)
        at_work.pop(i).close()


def _load(client: Client, one: Seen, threads: int, folder: Path, limits: Limits) -> None:
    path, options = str(one.program.path), dict(one.program.peer.options)
    found = client.ask(limits.load, do="load", program=path, threads=threads, options=options)
    first = client.ask(limits.call * (WARMUP + 1), do="first", input=str(folder / "one.npy"), warmup=WARMUP)
    one.version = found["version"]
    cpu_ms = (found["import_ms"][1], found["load_ms"][1], first["first_ms"][1])
    one.start = ColdStart(*cpu_ms, steady_ms=float("nan"))
    if found["baseline_mb"] is not None and first["peak_mb"] is not None:
        one.memory = Memory(found["baseline_mb"], found["loaded_mb"], max(found["loaded_mb"], first["peak_mb"]))


def _turn(client: Client, one: Seen, limits: Limits) -> None:
    found = client.ask(limits.call * (CALLS + 1), do="run", count=CALLS, ready_s=READY_S)
    one.wall += found["wall_s"]
    one.cpu += found["cpu_s"]


def _answers(client: Client, one: Seen, folder: Path, i: int, limits: Limits) -> None:
    file = folder / f"outputs-{i}.npy"
    inputs = np.load(folder / "all.npy", mmap_mode="r", allow_pickle=False)
    client.ask(limits.call + len(inputs), do="outputs", inputs=str(folder / "all.npy"), file=str(file))
    one.outputs = np.load(file, allow_pickle=False)
