"""Several worker processes on this machine, one study in a storage that they share."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

from edge_lab.core.errors import InputError
from edge_lab.sweep.study import Show, lost_by, open_study, work
from edge_lab.sweep.trial import Evaluate, SweepConfig


def run_processes(config: SweepConfig, evaluate: Evaluate, show: Show) -> None:
    """Start `config.workers` processes and wait; one that dies loses its trial and is replaced, up to a limit.

    `evaluate` must pickle. Ctrl-C ends all of them; the study keeps what was finished.
    """
    if config.storage is None:
        raise InputError(
            f"{config.workers} workers can't share a study that is in memory.",
            "each is a process of its own.",
            "name a storage: storage='sweep.journal'.",
        )
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    study = open_study(config)
    spare = config.workers + 2  # workers that may die before the sweep gives up: a fault of every trial ends it
    running: dict[int, Any] = {}
    try:
        for worker in range(config.workers):
            running[worker] = _start(context, config, evaluate, worker)
        while running:
            for worker, process in list(running.items()):
                process.join(0.1)
                if process.exitcode is None:
                    continue
                del running[worker]
                if process.exitcode != 0:
                    lost_by(study, f"{socket.gethostname()}:{process.pid}")
                    show(f"worker {worker} ended with {process.exitcode}; its trial is tried again")
                    if spare > 0:
                        spare -= 1
                        running[worker] = _start(context, config, evaluate, worker)
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _start(context: Any, config: SweepConfig, evaluate: Evaluate, worker: int) -> Any:
    target: Callable[..., None] = _work
    process = context.Process(target=target, args=(config, evaluate, worker), daemon=True)
    process.start()
    return process


def _work(config: SweepConfig, evaluate: Evaluate, worker: int) -> None:
    import sys

    work(config, evaluate, worker=worker, show=lambda line: print(line, file=sys.stderr, flush=True))
