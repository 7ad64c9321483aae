"""What a run found out, as value objects: one row per target, saved as run.json and drawn by `edge_lab.report`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edge_lab.core.files import writing_file


@dataclass(frozen=True)
class Failure:
    """Why a target did not come out: the three lines of an EdgeLabError."""

    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class Verdict:
    """One budget line: what was measured, the limit, and whether it holds (`ok` None: not measurable here)."""

    name: str
    value: float | None
    limit: float
    ok: bool | None
    unit: str = ""


@dataclass(frozen=True)
class TargetResult:
    """Everything measured for one target.

    Sizes are in MB (1e6 bytes), times in ms (median of CPU time on one thread unless the name says otherwise),
    accuracies and agreement in percent, SQNR in dB against eager fp32 on the same inputs.
    `instructions` are those of a microcontroller's inference, counted by an emulator.
    `answers` is the number of answers that agreement counts (None: not counted in whole answers, or not known).
    A number that could not be measured on this machine is None, and `notes` says why.
    """

    target: str
    format: str
    precision: str
    status: Literal["ok", "failed"] = "ok"
    reused: bool = False
    export_s: float | None = None
    bundle: str | None = None
    size_mb: float | None = None
    delegated: float | None = None
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    max_abs: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    samples_ms: tuple[float, ...] = ()
    peak_mb: float | None = None
    delta_mb: float | None = None
    instructions: int | None = None
    answers: int | None = None
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Example:
    """One picture shown in the report: a small JPEG (base64), its known label, and each target's best answers."""

    name: str
    jpeg_base64: str
    label: str | None
    answers: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """A whole run: the model, the pictures it was tried on, one row per target (the first is eager PyTorch).

    `preprocessing` says what was assumed of it; empty if it was given.
    """

    model: str
    weights: str
    dataset: str
    images: int
    skipped_images: int
    rows: tuple[TargetResult, ...]
    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    date: str
    seconds: float
    examples: tuple[Example, ...] = ()
    has_labels: bool = True
    preprocessing: str = ""

    def save(self, path: Path) -> None:
        """Write as JSON; the file is whole or absent."""
        with writing_file(path) as temporary:
            temporary.write_text(json.dumps(_converter().unstructure(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path | str) -> RunResult:
        """Read what `save` wrote."""
        result: RunResult = _converter().structure(json.loads(Path(path).read_text(encoding="utf-8")), RunResult)
        return result


@cache
def _converter() -> Any:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook(float | None, lambda v, _: None if v is None else float(v))
    return converter
