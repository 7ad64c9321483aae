"""Candidates out of files: measurements, or runs."""

from __future__ import annotations

import json
from pathlib import Path

from edge_lab.core.errors import InputError
from edge_lab.decide.candidate import Candidate, from_measurements, from_run
from edge_lab.measure.record import Measurements, from_json, is_measurements
from edge_lab.results.result import RunResult


def from_file(path: Path | str, *, threads: int = 1) -> tuple[str, tuple[Candidate, ...]]:
    """Heading and candidates of a measurement file or a run.json.

    Raises:
        InputError: unreadable, neither of the two, or without anything timed in single stream at `threads`.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read.", f"{error}.", "check the path.") from error
    if is_measurements(document):
        found: Measurements = from_json(document, str(path))
        heading, candidates = f"{path}: {found.heading}", from_measurements(found, threads=threads)
    else:
        try:
            run = RunResult.load(path)
        except Exception as error:  # cattrs' own group of errors
            raise InputError(
                f"{path} holds no measurements and is no run.",
                f"it has no readable rows: {type(error).__name__}.",
                "make one with `edge-lab bench --json`, `edge-lab compare MODEL --json` or `edge-lab run`.",
            ) from error
        heading, candidates = f"{path}: run of {run.date[:10]}", from_run(run)
    if not candidates:
        raise InputError(
            f"{path} has nothing to choose from.",
            f"no single-stream measurement with {threads} thread{'s' if threads > 1 else ''} is in it.",
            "name another number with --threads, or measure that scenario.",
        )
    return heading, candidates


def runs_on(one: Candidate, platform: str | None) -> bool:
    """Whether it is for that platform; what no target is named for ran where it was measured, and stays."""
    return platform is None or one.target is None or one.target.split("-")[0] in (platform, "eager")
