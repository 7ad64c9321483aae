"""The coordinator's end of a worker: start it, give orders, survive its crash or its silence."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_lab.core.errors import EdgeLabError

WORKER = Path(__file__).with_name("worker.py")
CONVERTER = Path(__file__).with_name("convert.py")


class WorkerFailed(Exception):
    """An engine did not do what it was asked; the text is fit for a note in a table."""


class Client:
    """A worker process. Leaving the `with` block ends it, whatever it is doing."""

    def __init__(
        self, python: Path, engine: str, *, extra: Sequence[Path] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process lives
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            # -I: neither the folder of the script nor PYTHONPATH may stand before the engine's own modules
            [str(python), "-I", str(WORKER), engine, *map(str, extra)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env={**os.environ, **(environ or {})},
            start_new_session=True,  # Ctrl-C reaches the coordinator alone, which then ends its workers
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, timeout: float, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Args:
            timeout: seconds; a worker that takes longer is ended.
            order: "do" and what belongs to it, see worker.py.

        Raises:
            WorkerFailed: the engine refused, the process ended, or it took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise WorkerFailed(f"gave no answer to {order['do']!r} in {timeout:.0f} s and was ended") from None
        except OSError:  # a broken pipe: it ended between two orders
            line = None
        if line is None:
            raise WorkerFailed(self._last_words(order["do"]))
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise WorkerFailed(" ".join(str(answer["error"]).split())[:300])
        return answer

    def close(self) -> None:
        """End the process, and its children with it, at once. Nothing that it holds has to be kept."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                _close(stream)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._answers.put(line)
        except ValueError:  # closed while waiting
            pass
        self._answers.put(None)

    def _last_words(self, doing: str) -> str:
        code = self._process.wait()
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"
        return f"{how} during {doing!r}{_words(tail(self._stderr))}"


def convert(python: Path, order: Mapping[str, Any], timeout: float) -> None:
    """Run a converter (see convert.py) in its environment.

    Raises:
        WorkerFailed: it failed, or took longer than `timeout` seconds.
    """
    command = [str(python), "-I", str(CONVERTER), json.dumps(order)]
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(f"converting took over {timeout:.0f} s and was ended") from None
        finally:
            if process.poll() is None:  # also on Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            raise WorkerFailed(f"converting failed{_words(tail(stderr))}")


def tail(stream: Any, size: int = 4000) -> str:
    """The last line that says something in what a process wrote to its standard error."""
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - size))
    lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def signal_name(number: int) -> str:
    """SIGSEGV for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _words(text: str) -> str:
    return f": {text}" if text else ""


def _close(stream: Any) -> None:
    with contextlib.suppress(OSError):  # what was not yet written goes nowhere
        stream.close()


def reason(error: EdgeLabError) -> str:
    """An error of edge_lab as a note in a table."""
    return f"{error.what} {error.why}"[:300]
