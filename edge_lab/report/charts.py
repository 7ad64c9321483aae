"""Chart geometry: numbers to positions. The template draws it as SVG.

Positions along x are percent of the plot's width and everything else is CSS pixels, so that a chart follows the
width of the page while its text keeps its size: readable on a phone without a script.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_lab.report.findings import clean, known, number, percent
from edge_lab.results.result import RunResult, TargetResult

MAX_DOTS = 160  # raw samples drawn per target
ROOM = 84.0  # percent of the plot that data may fill where a value is written behind the mark


@dataclass(frozen=True)
class Tick:
    """A grid line: position in percent of the plot (from the left or from the bottom) and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A mark of one row: position in percent, vertical offset in pixels, kind (CSS class), hover text."""

    at: float
    dy: float = 0.0
    kind: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    """One target in a chart. `text` is written at `text_at` percent; without marks it says why there is none."""

    label: str
    tone: str
    marks: tuple[Mark, ...]
    text: str
    text_at: float = 0.0


@dataclass(frozen=True)
class Chart:
    """Rows over one labelled axis."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    axis: str
    summary: str
    note: str = ""


def tone(run: RunResult, row: TargetResult) -> str:
    """Colour of a target: its precision, as the legend says. Eager PyTorch has its own."""
    if row is run.rows[0]:
        return "eager"
    return tone_of(row.precision)


def tone_of(precision: str) -> str:
    """Colour of a precision."""
    return next((t for t in ("int8", "fp16", "fp32") if precision.lower().startswith(t)), "other")


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `about` of them.

    Steps are 1, 2, 2.5 or 5 times a power of ten (Heckbert, "Nice numbers for graph labels", 1990).
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low if math.isfinite(low) else 0.0]
    rough = (high - low) / max(1, about - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = power * min((s for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999), default=10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def axis_of(values: Iterable[float], room: float = 100.0) -> tuple[float, list[Tick]]:
    """A scale from zero: percent per unit, and its ticks. The last tick is dropped if it lies beyond the plot."""
    top = max(values, default=0.0)
    if top <= 0:
        return 0.0, [Tick(0.0, "0")]
    per_unit = room / top
    ticks = [Tick(v * per_unit, f"{v:g}") for v in nice_ticks(0, top * 100 / room, 6) if v * per_unit <= 100.001]
    return per_unit, ticks


def size(run: RunResult) -> Chart:
    """Bars: megabytes of the program on disk."""
    per_unit, ticks = axis_of((r.size_mb or 0.0 for r in run.rows if known(r.size_mb)), ROOM)
    rows = []
    for row in run.rows:
        if known(row.size_mb):
            at = (row.size_mb or 0.0) * per_unit
            rows.append(Row(row.target, tone(run, row), (Mark(at),), number(row.size_mb), at))
        else:
            rows.append(_absent(run, row))
    return Chart(tuple(rows), tuple(ticks), "MB on disk", _summary("Size in MB", rows))


def bars(lines: Sequence[tuple[str, str, float]], axis: str) -> Chart:
    """Bars from zero: label, colour and value of each."""
    per_unit, ticks = axis_of((value for _, _, value in lines), ROOM)
    rows = [Row(name, tone, (Mark(v * per_unit),), number(v), v * per_unit) for name, tone, v in lines]
    return Chart(tuple(rows), tuple(ticks), axis, _summary(axis, rows))


def _absent(run: RunResult, row: TargetResult) -> Row:
    why = "not exported" if row.status == "failed" else "not measurable here"
    return Row(row.target, tone(run, row), (), why)


def _summary(what: str, rows: Sequence[Row]) -> str:
    return clean(what + ": " + ", ".join(f"{r.label} {r.text}" for r in rows))


@dataclass(frozen=True)
class Timed:
    """What a strip of samples shows: median, 90th percentile and samples in ms; `absent` if there is nothing."""

    label: str
    tone: str
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    samples_ms: tuple[float, ...] = ()
    absent: str = ""


def latency(run: RunResult) -> Chart:
    """The strips of a run."""
    return strips(
        [
            Timed(row.target, tone(run, row), row.p50_ms, row.p90_ms, None, row.samples_ms, _absent(run, row).text)
            for row in run.rows
        ],
        "ms per picture",
    )


def strips(lines: Sequence[Timed], axis: str) -> Chart:
    """Dots: every raw sample in ms. A bar at the median. Samples beyond the axis are counted, not drawn."""
    tops = [
        max(t.p50_ms or 0.0, *(p for p in (t.p90_ms, t.p99_ms) if p is not None and known(p)), 0.0) * 1.1
        for t in lines
        if known(t.p50_ms)
    ]
    per_unit, ticks = axis_of(tops, ROOM)
    rows, beyond = [], 0
    for line in lines:
        if not known(line.p50_ms):
            rows.append(Row(line.label, line.tone, (), line.absent))
            continue
        samples = [s for s in line.samples_ms if known(s)]
        inside = [s for s in samples if s * per_unit <= ROOM + 1]
        beyond += len(samples) - len(inside)
        dots = [Mark(s * per_unit, _jitter(i), "dot") for i, s in enumerate(_spread(inside, MAX_DOTS))]
        p50 = line.p50_ms or 0.0
        words = f"median {number(p50)} ms, p90 {number(line.p90_ms)} ms, {len(samples)} samples"
        later = [(q, value) for q, value in (("p90", line.p90_ms), ("p99", line.p99_ms)) if line.p99_ms is not None]
        marks = [
            Mark(v * per_unit, 0, q, f"{q} {number(v)} ms")
            for q, v in later
            if v is not None and known(v) and v * per_unit <= ROOM + 1
        ]
        median = Mark(p50 * per_unit, 0, "median", words)
        right = max([median.at, *(d.at for d in dots), *(m.at for m in marks)])
        rows.append(Row(line.label, line.tone, (*dots, *marks, median), number(p50), right))
    note = f"{beyond} slower sample{'s' if beyond != 1 else ''} beyond the axis" if beyond else ""
    return Chart(tuple(rows), tuple(ticks), axis, _summary("Median latency in ms", rows), note)


def _spread(values: Sequence[float], limit: int) -> list[float]:
    if len(values) <= limit:
        return list(values)
    return [values[i * len(values) // limit] for i in range(limit)]


def _jitter(i: int) -> float:
    """Evenly filled band of 12 px, the same on every run (golden-ratio sequence)."""
    return round(((i * 0.618034) % 1 - 0.5) * 12, 1)


def quality(run: RunResult) -> Chart:
    """Two marks per target on one percent axis: agreement with eager, and Top-1 where the pictures have labels."""
    values = [
        v for r in run.rows for v in (r.agreement, r.top1 if run.has_labels else None) if v is not None and known(v)
    ]
    low = max(0.0, min(values, default=0.0))
    ticks = nice_ticks(max(0.0, low - 2), 100) if low < 100 else [95.0, 96.0, 97.0, 98.0, 99.0, 100.0]
    first, last = (ticks[0], ticks[-1]) if len(ticks) > 1 else (0.0, 100.0)

    def at(v: float) -> float:
        return (v - first) / (last - first) * ROOM

    rows = []
    for row in run.rows:
        marks, words = [], []
        if run.has_labels and row.top1 is not None and known(row.top1):
            marks.append(Mark(at(row.top1), 0, "top1", f"Top-1 {percent(row.top1)} %"))
            words.append(f"Top-1 {percent(row.top1)}")
        if row.agreement is not None and known(row.agreement):
            marks.append(Mark(at(row.agreement), 0, "agreement", f"agreement {percent(row.agreement)} %"))
            words.insert(0, percent(row.agreement))
        text = " · ".join(words)
        rows.append(Row(row.target, tone(run, row), tuple(marks), text, 100.0) if marks else _absent(run, row))
    drawn = tuple(Tick(at(v), f"{v:g}") for v in ticks)
    note = "" if first <= 0 else f"the axis starts at {first:g} %"
    return Chart(tuple(rows), drawn, "percent of pictures", _summary("Agreement and Top-1 in percent", rows), note)
