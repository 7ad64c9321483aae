"""What a run says: who passes, which is the smallest and the fastest, and how to write a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_lab.core.numbers import EQUAL_DB
from edge_lab.results.result import RunResult, TargetResult, Verdict

State = Literal["baseline", "pass", "over", "unproven", "failed"]

# Shown to the reader: chip, terminal mark, sentence.
STATES: dict[State, tuple[str, str, str]] = {
    "baseline": ("baseline", "base", "eager PyTorch, what the others are compared with"),
    "pass": ("pass", "PASS", "ran here and is inside every budget that could be checked"),
    "over": ("over budget", "FAIL", "ran here and breaks at least one budget"),
    "unproven": ("not run here", "----", "was written, but this machine cannot run it"),
    "failed": ("no export", "FAIL", "did not come out"),
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True)
class Answer:
    """One line of the headline: the question it answers, the target, its figure and what that means."""

    question: str
    row: TargetResult
    figure: str
    unit: str
    against: str


@dataclass(frozen=True)
class Budget:
    """One budget over all targets: `sign` is the side of the limit that is allowed."""

    name: str
    unit: str
    sign: str
    cells: tuple[Verdict | None, ...]


def known(value: float | None) -> bool:
    """True for a real, finite number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """A number with about `digits` significant digits and no exponent; an en dash if there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def percent(value: float | None) -> str:
    """A percentage with one decimal and no sign: "98.0"."""
    return f"{value:.1f}" if value is not None and math.isfinite(value) else "–"


def decibels(value: float | None) -> str:
    """An SQNR with one decimal; "equal" where no value differs (infinite, or the 200 dB that stand for it)."""
    if value is not None and value >= EQUAL_DB:
        return "equal"
    return percent(value)


def clean(text: object) -> str:
    """Text without control characters: a label or an error message never steers a terminal."""
    return _CONTROL.sub(" ", str(text))


def state(run: RunResult, row: TargetResult) -> State:
    """Where a target stands. A target that nobody ran here never passes, whatever its size."""
    if row.status == "failed":
        return "failed"
    if row is run.rows[0]:
        return "baseline"
    if any(v.ok is False for v in row.verdicts):
        return "over"
    return "pass" if known(row.p50_ms) else "unproven"


def targets_in(run: RunResult, *states: State) -> list[TargetResult]:
    """The rows that are in one of `states`, in the order of the run."""
    return [row for row in run.rows if state(run, row) in states]


def has_budget(run: RunResult) -> bool:
    """Whether any budget was set."""
    return any(row.verdicts for row in run.rows)


def answers(run: RunResult) -> tuple[Answer, ...]:
    """The smallest and the fastest target among those that pass; one answer if they are the same; () if none."""
    passing = targets_in(run, "pass")
    small = min((r for r in passing if known(r.size_mb)), key=lambda r: r.size_mb or 0, default=None)
    fast = min((r for r in passing if known(r.p50_ms)), key=lambda r: r.p50_ms or 0, default=None)
    tail = "that passes" if has_budget(run) else "that ran"
    base = run.rows[0]
    found = []
    if small is not None:
        found.append(
            Answer(f"Smallest {tail}", small, number(small.size_mb), "MB", _times(base.size_mb, small.size_mb, "small"))
        )
    if fast is not None:
        question = f"Fastest {tail}" if small is not fast else "The same target is also the fastest"
        found.append(Answer(question, fast, number(fast.p50_ms), "ms", _times(base.p50_ms, fast.p50_ms, "fast")))
    return tuple(found)


def _times(base: float | None, value: float | None, word: Literal["small", "fast"]) -> str:
    """ "3.8x smaller than eager PyTorch", turned round where the target is the worse one."""
    if base is None or value is None or not (known(base) and known(value)) or base <= 0 or value <= 0:
        return ""
    better, worse = {"small": ("smaller", "larger"), "fast": ("faster", "slower")}[word]
    ratio = base / value
    if 0.98 < ratio < 1.02:
        return f"as {'large' if word == 'small' else 'fast'} as eager PyTorch"
    return f"{ratio:.1f}× {better} than eager PyTorch" if ratio > 1 else f"{1 / ratio:.1f}× {worse} than eager PyTorch"


def sentence(run: RunResult) -> str:
    """The headline in one sentence of plain text."""
    tried = len(run.rows) - 1
    if tried < 1:
        return "Only eager PyTorch was measured; no target was asked for."
    found = answers(run)
    if not found:
        over, unproven = len(targets_in(run, "over")), len(targets_in(run, "unproven"))
        parts = [f"{over} over budget" if over else "", f"{unproven} not run here" if unproven else ""]
        parts.append(f"{n} not exported" if (n := len(targets_in(run, "failed"))) else "")
        return f"No target passes: of {tried}, " + ", ".join(p for p in parts if p) + "."
    if len(found) == 2 and found[0].row is found[1].row:
        row = found[0].row
        tail = found[0].question.removeprefix("Smallest ")
        return f"Smallest and fastest {tail}: {row.target}, {number(row.size_mb)} MB and {number(row.p50_ms)} ms."
    return " ".join(f"{a.question}: {a.row.target}, {a.figure} {a.unit}." for a in found)


def counts(run: RunResult) -> list[tuple[int, str, State]]:
    """How many targets are in each state, for the strip under the headline; states without a target are left out."""
    words: Sequence[tuple[State, str]] = (
        ("pass", "pass" if has_budget(run) else "ran"),
        ("over", "over budget"),
        ("unproven", "not run here"),
        ("failed", "not exported"),
    )
    return [(n, word, s) for s, word in words if (n := len(targets_in(run, s)))]


def budgets(run: RunResult) -> list[Budget]:
    """The verdicts turned round: one row per budget, one cell per target (None: not asked of this target)."""
    names = list(dict.fromkeys(v.name for row in run.rows for v in row.verdicts))
    table = []
    for name in names:
        cells = tuple(next((v for v in row.verdicts if v.name == name), None) for row in run.rows)
        present = [v for v in cells if v is not None]
        table.append(Budget(name, present[0].unit, sign(name), cells))
    return table


def budget_name(name: str) -> str:
    """`max_size_mb` as a reader says it: "size". The limit's side is in `sign`, its unit beside the number."""
    words = re.sub(r"^(max|min)_|_(mb|ms|db)$", "", name)
    return {
        "p50": "median time",
        "p50_ratio": "time ratio",
        "size_ratio": "size ratio",
        "sqnr": "SQNR",
        "top1_loss": "Top-1 loss",
    }.get(words, words.replace("_", " "))


def sign(name: str) -> str:
    """The side of the limit that is allowed: ≤ for max_..., ≥ for min_..., empty for other names."""
    return {"max_": "≤", "min_": "≥"}.get(name[:4], "")


def notes(run: RunResult) -> list[tuple[str, tuple[str, ...]]]:
    """Remarks and the targets they belong to; the same remark on several targets is said once."""
    found: dict[str, list[str]] = {f"preprocessing: {run.preprocessing}": [run.model]} if run.preprocessing else {}
    for row in run.rows:
        for note in row.notes:
            found.setdefault(note, []).append(row.target)
    return [(note, tuple(names)) for note, names in found.items()]
