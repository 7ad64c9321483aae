"""`edge-lab report FILE`: the page of a run or of measurements, as the file's content says."""

from __future__ import annotations

import json
from pathlib import Path

from edge_lab import report
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.measure.record import Measurements, is_measurements
from edge_lab.report import measured
from edge_lab.report.measured_page import write_measured
from edge_lab.results.result import RunResult


def page_of(path: Path, out: Path | None, *, markdown: bool = False) -> int:
    """Write the page and print its path, or print text if `markdown`. Returns the exit code.

    Raises:
        InputError: the file is missing, or neither a run nor measurements.
    """
    file = path / "run.json" if path.is_dir() else path
    if _holds_measurements(file):
        found = Measurements.load(file)
        default = file.with_suffix(".html")
        print(measured.table(found) if markdown else write_measured(found, out or default))
        return 0
    try:
        run = RunResult.load(file)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no run at {file}.", "the file is missing.", "make one with `edge-lab run`."
        ) from error
    except EdgeLabError:
        raise
    except Exception as error:  # JSON, or cattrs' own group of errors
        why = f"it is not what `edge-lab run` or `edge-lab bench --json` writes: {type(error).__name__}."
        raise InputError(f"{file} can't be read.", why, "make it again with `edge-lab run`.") from error
    print(report.markdown(run) if markdown else report.write(run, out or file.with_name("report.html")))
    return 0


def _holds_measurements(file: Path) -> bool:
    try:
        return is_measurements(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
