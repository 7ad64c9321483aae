"""One program that could be shipped, with the numbers that a decision needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_lab.measure.record import Measurement, Measurements
from edge_lab.measure.timing import Latency
from edge_lab.results.result import RunResult, TargetResult


@dataclass(frozen=True)
class Candidate:
    """Sizes and memory in MB (1e6 bytes), times in ms, accuracies and agreement in percent, SQNR in dB.

    `pruned` is the share of channels that were removed. `images` is how many inputs the accuracies were counted on: one
    of them is the smallest difference that exists. Latencies can be paired if two candidates have the same `sitting`.
    What is not known is None.
    """

    name: str
    engine: str
    precision: str
    pruned: float = 0.0
    size_mb: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    load_ms: float | None = None
    peak_mb: float | None = None
    delegated: float | None = None
    top1: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    images: int | None = None
    target: str | None = None
    sitting: str = ""
    latency: Latency | None = field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float | None:
        """Top-1 where the pictures have labels; else the agreement with the float model, which stands in for it."""
        return self.top1 if self.top1 is not None else self.agreement

    @property
    def step(self) -> float:
        """Percent that one image is worth; 0 if their number is not known."""
        return 100 / self.images if self.images else 0.0


def from_measurements(found: Measurements, *, threads: int = 1) -> tuple[Candidate, ...]:
    """The single-stream measurements of a file at one thread count, in its order."""
    return tuple(
        _of(item, label, found.date)
        for label, item in zip(found.labels, found, strict=True)
        if item.latency.scenario == "single_stream" and item.latency.threads == threads
    )


def from_run(run: RunResult) -> tuple[Candidate, ...]:
    """The rows of a run that came out; the first, eager PyTorch, is a candidate too (for a server)."""
    return tuple(_of_row(row, run) for row in run.rows if row.status == "ok")


def unique(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The same candidates with names that tell them apart: a second "a" becomes "a #2"."""
    seen: dict[str, int] = {}
    named = []
    for one in candidates:
        seen[one.name] = seen.get(one.name, 0) + 1
        count = seen[one.name]
        named.append(one if count == 1 else _renamed(one, f"{one.name} #{count}"))
    return tuple(named)


def _renamed(one: Candidate, name: str) -> Candidate:
    from dataclasses import replace

    return replace(one, name=name)


def _of(item: Measurement, label: str, sitting: str) -> Candidate:
    quality, start, memory, times = item.quality, item.start, item.memory, item.latency
    return Candidate(
        name=label.split(" (single_stream")[0],
        engine=item.engine.name,
        precision=item.precision or "",
        size_mb=None if item.size_bytes is None else item.size_bytes / 1e6,
        p50_ms=times.p50_ms,
        p90_ms=times.p90_ms,
        load_ms=_known(start.load_ms) if start else None,
        peak_mb=_known(memory.peak_mb) if memory else None,
        delegated=item.delegated,
        top1=quality.top1 if quality else None,
        agreement=quality.agreement if quality else None,
        sqnr_db=quality.sqnr_db if quality else None,
        images=quality.images if quality else None,
        target=item.target,
        sitting=sitting,
        latency=times,
    )


def _of_row(row: TargetResult, run: RunResult) -> Candidate:
    return Candidate(
        name=row.target,
        engine=row.format,
        precision=row.precision,
        size_mb=row.size_mb,
        p50_ms=row.p50_ms,
        p90_ms=row.p90_ms,
        load_ms=row.load_ms,
        peak_mb=row.peak_mb,
        delegated=row.delegated,
        top1=row.top1,
        agreement=row.agreement,
        sqnr_db=row.sqnr_db,
        images=run.images,
        target=row.target,
        sitting=run.date,
        latency=_latency(row),
    )


def _latency(row: TargetResult) -> Latency | None:
    """A run's table keeps CPU times alone, which is enough to pair them; how many calls warmed up, it does not say."""
    seconds = tuple(t / 1e3 for t in row.samples_ms)
    return Latency((), seconds, 0) if seconds else None


def _known(value: float) -> float | None:
    return value if value == value else None
