"""Run jobs in child processes, a few at a time; a job that crashes its process costs that job only."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_lab.core.errors import EdgeLabError

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Done(Generic[Answer]):
    """Result of job number `index`: its value, or the error that it raised or that ended its process."""

    index: int
    value: Answer | None
    error: EdgeLabError | None


def run_isolated(
    job: Callable[[Request], Answer], requests: Sequence[Request], *, workers: int, log: Path
) -> Iterator[Done[Answer]]:
    """Yield each job's result as it becomes ready.

    Args:
        job: a module-level function; runs in a child process, with requests and results pickled.
        requests: taken in order: put the longest first.
        workers: child processes at a time.
        log: what the children print goes there.

    Processes are reused from job to job, so imports are paid once each. They are killed when the consumer stops
    iterating (Ctrl-C), and end by themselves if this process dies.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(requests)):
        todo.put(index)
    done: queue.SimpleQueue[Done[Answer]] = queue.SimpleQueue()
    log.parent.mkdir(parents=True, exist_ok=True)
    slots = [_Slot(job, requests, todo, done, log) for _ in range(min(workers, len(requests)))]
    patience = 0.0  # seconds that a child gets to leave by itself: none if the consumer gave up
    try:
        for slot in slots:
            slot.thread.start()
        for _ in requests:
            yield done.get()
        patience = 5.0
    finally:
        for slot in slots:
            slot.stop(patience)


class _Slot:
    """A thread that feeds one child process, and starts another if it dies."""

    def __init__(self, job: Any, requests: Sequence[Any], todo: Any, done: Any, log: Path) -> None:
        self.job, self.requests, self.todo, self.done, self.log = job, requests, todo, done, log
        self.stopped = threading.Event()
        self.starting = threading.Lock()  # so that no process starts behind the back of `stop`
        self.process: Any = None
        self.pipe: Connection | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)

    def stop(self, patience: float) -> None:
        self.stopped.set()
        if patience:
            self.thread.join(patience)
        with self.starting:
            if self.process is not None:
                self.process.join(patience)
                if self.process.is_alive():
                    self.process.kill()

    def _work(self) -> None:
        while not self.stopped.is_set():
            try:
                index = self.todo.get_nowait()
            except queue.Empty:
                break
            try:
                value, error = self._ask(self.requests[index])
            except (EOFError, OSError):
                if self.stopped.is_set():
                    break  # nobody reads the answer
                value, error = None, self._died()
            self.done.put(Done(index, value, error))
        if self.process is not None and self.pipe is not None:
            self.pipe.close()  # the child reads end-of-file and exits

    def _ask(self, request: Any) -> tuple[Any, EdgeLabError | None]:
        if self.process is None or not self.process.is_alive():
            self._start()
        assert self.pipe is not None
        try:
            self.pipe.send(request)
        except OSError:
            raise
        except Exception as error:  # pickle raises many kinds
            return None, EdgeLabError(
                "a job can't be sent to a worker process.",
                f"{type(error).__name__}: {error}",
                "name the model (a zoo name or my_model.py:build) instead of passing an object.",
            )
        answer: tuple[Any, EdgeLabError | None] = self.pipe.recv()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        with self.starting:
            if self.stopped.is_set():
                raise EOFError("the consumer left before this process was started")
            self.pipe, theirs = context.Pipe()
            process = context.Process(target=_child, args=(theirs, self.job, str(self.log)), daemon=True)
            process.start()
            self.process = process
            theirs.close()

    def _died(self) -> EdgeLabError:
        self.process.join(5)
        code = self.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return EdgeLabError(
            "the process that did this job died.",
            f"{how}; a converter or runtime crashed, or the system ran out of memory (see {self.log}).",
            "run it again with --jobs 1; if it dies again, leave this target out and report the log.",
        )


def _child(pipe: Connection, job: Callable[[Any], Any], log: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[Any, EdgeLabError | None] = (job(request), None)
        except EdgeLabError as error:
            answer = (None, error)
        except Exception as error:  # reported by the parent as this job's failure
            import traceback

            traceback.print_exc()
            answer = (None, _unexpected(error, log))
        pipe.send(answer)


def _unexpected(error: Exception, log: str) -> EdgeLabError:
    return EdgeLabError(
        "a job failed in a way that edge_lab did not expect.",
        f"{type(error).__name__}: {error}",
        f"see the trace in {log}; please report it.",
    )
