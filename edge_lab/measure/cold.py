"""Cold start and memory of a bundle, each taken in a fresh process: the only place where they can be seen.

In a process that has already run something, the engine is imported, its pools are filled and the peak of the memory
belongs to whatever came before.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_lab.core.errors import EdgeLabError
from edge_lab.measure.timing import BUSY


@dataclass(frozen=True)
class ColdStart:
    """Milliseconds of the four steps to an answer: import the engine, load the program, first run, median later run."""

    import_ms: float
    load_ms: float
    first_ms: float
    steady_ms: float

    @property
    def total_ms(self) -> float:
        """From a process without the engine to its first answer."""
        return self.import_ms + self.load_ms + self.first_ms


@dataclass(frozen=True)
class Memory:
    """Resident memory in MB (1e6 bytes): with the engine imported, with the program loaded, and the peak after runs."""

    baseline_mb: float
    loaded_mb: float
    peak_mb: float

    @property
    def delta_mb(self) -> float:
        """What the model adds to the engine, at its peak.

        An engine whose own import peaks higher than the model ever does hides part of it; the figure is then too high.
        """
        added = self.peak_mb - self.baseline_mb
        return max(0.0, added) if added == added else added  # NaN: the baseline is not known


@dataclass(frozen=True)
class Fresh:
    """What one fresh process measured: start-up in wall time and in CPU time, and memory."""

    wall: ColdStart
    cpu: ColdStart
    memory: Memory

    @property
    def busy(self) -> bool:
        """Whether other processes held the core (or the engine waited): wall over 1.3 x CPU time on one thread."""
        return self.wall.total_ms > BUSY * self.cpu.total_ms


def fresh(bundle: Path | str, *, timeout: float = 300, runs: int = 10) -> Fresh:
    """Load and run a bundle on its golden inputs in a process of its own, on one thread.

    Args:
        bundle: path of the bundle.
        timeout: seconds after which the process is ended.
        runs: calls after the first.

    Raises:
        EdgeLabError: the process crashed (the signal is named), timed out, or refused the bundle.
    """
    command = [sys.executable, "-m", "edge_lab.measure.child", str(bundle), str(runs)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise EdgeLabError(
            f"{bundle} did not finish in {timeout:.0f} s in a fresh process.",
            "loading or running it hangs, or the machine is very busy.",
            "try again with a larger timeout; if it still hangs, export the bundle again.",
        ) from error
    if done.returncode != 0:
        raise _crash(bundle, done.returncode, done.stderr)
    return _read(bundle, done.stdout)


def cold_start(bundle: Path | str, *, timeout: float = 300) -> ColdStart:
    """Wall-clock cold start of a bundle; see `fresh`, which returns memory from the same process as well."""
    return fresh(bundle, timeout=timeout).wall


def memory(bundle: Path | str, *, timeout: float = 300) -> Memory:
    """Memory of a bundle in a process of its own; see `fresh`, which returns the cold start as well."""
    return fresh(bundle, timeout=timeout).memory


def _read(bundle: Path | str, stdout: str) -> Fresh:
    for line in reversed(stdout.splitlines()):
        if line.startswith('{"edge_lab_child"'):
            answer: dict[str, Any] = json.loads(line)
            wall, cpu = ({f"{k}_ms": v[i] for k, v in answer["times_ms"].items()} for i in (0, 1))
            return Fresh(ColdStart(**wall), ColdStart(**cpu), Memory(**answer["memory"]))
    raise EdgeLabError(
        f"the process that measured {bundle} ended without an answer.",
        f"it printed: {stdout[-200:]!r}.",
        f"run it by hand: {Path(sys.executable).name} -m edge_lab.measure.child {bundle}",
    )


def _crash(bundle: Path | str, code: int, stderr: str) -> EdgeLabError:
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    last = " | ".join(lines[-3:])[-400:] if lines else "no message"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        killed = " (on Linux this is often the kernel, out of memory)" if name == "SIGKILL" else ""
        why = f"the process was ended by {name}{killed}; its last words: {last}."
    else:
        why = f"the process ended with exit code {code}: {last}."
    return EdgeLabError(
        f"{bundle} could not be run in a fresh process.",
        why,
        f"run it by hand to see everything: {Path(sys.executable).name} -m edge_lab.measure.child {bundle}",
    )
