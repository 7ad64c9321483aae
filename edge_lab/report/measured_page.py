"""A file of measurements as a page: any engine, any device, or a recording of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_lab.core.errors import InputError
from edge_lab.core.files import writing_file
from edge_lab.decide.candidate import from_measurements
from edge_lab.decide.choose import recommend
from edge_lab.measure.record import Measurement, Measurements
from edge_lab.report import charts, scatter
from edge_lab.report.findings import clean, known
from edge_lab.report.measured import how
from edge_lab.report.templates import render


@dataclass(frozen=True)
class Group:
    """Measurements that may stand in one chart: the same scenario and number of threads."""

    title: str
    strips: charts.Chart


def measured_html(found: Measurements) -> str:
    """One self-contained page, as `edge_lab.report.html` makes it of a run.

    Raises:
        InputError: the file holds no measurement.
    """
    if not found.items:
        raise InputError("the file holds no measurement.", "its list is empty.", "measure something first.")
    labels = {id(item): label for item, label in zip(found, found.labels, strict=True)}
    candidates = from_measurements(found)
    numbers = {label: n for n, label in enumerate((c.name for c in candidates), 1)}
    tones = {c.name: charts.tone_of(c.precision) for c in candidates}
    chosen = recommend(candidates) if len(candidates) > 1 else None
    return render(
        "measured.html.jinja",
        found=found,
        groups=_groups(found, labels),
        size=_sizes(found),
        scatter=scatter.scatter(candidates, numbers, tones),
        chosen=chosen,
        judged=any(_judged(item) for item in found),
        rows=[(labels[id(item)], item) for item in found],
        how=how(found),
        energy=any(item.energy for item in found),
    )


def write_measured(found: Measurements, path: Path | str) -> Path:
    """Write the page; the file is whole or absent. Returns its path."""
    page = measured_html(found)
    with writing_file(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def _judged(item: Measurement) -> bool:
    """Whether anything is known of its answers."""
    quality = item.quality
    return quality is not None and any(known(v) for v in (quality.top1, quality.agreement, quality.sqnr_db))


def _groups(found: Measurements, labels: dict[int, str]) -> list[Group]:
    kinds: dict[str, list[Measurement]] = {}
    for item in found:
        times = item.latency
        if times.scenario == "emulated":
            continue
        words = f"{times.scenario.replace('_', ' ')}, {times.threads} thread{'s' if times.threads > 1 else ''}"
        kinds.setdefault(words, []).append(item)
    return [Group(words, _strips(items, labels)) for words, items in kinds.items()]


def _strips(items: Sequence[Measurement], labels: dict[int, str]) -> charts.Chart:
    lines = [
        charts.Timed(
            labels[id(item)].split(" (")[0],
            charts.tone_of(item.precision or ""),
            item.latency.p50_ms,
            item.latency.p90_ms,
            item.latency.p99_ms,
            item.latency.samples_ms,
        )
        for item in items
    ]
    clock = "CPU" if items[0].latency.clock == "cpu" else "wall"
    return charts.strips(lines, f"ms of {clock} time per call")


def _sizes(found: Measurements) -> charts.Chart | None:
    """Each program once, however often it was measured."""
    sizes = {item.name: item for item in found if known(item.size_bytes)}
    if not sizes:
        return None
    return charts.bars(
        [(clean(name), charts.tone_of(i.precision or ""), (i.size_bytes or 0) / 1e6) for name, i in sizes.items()],
        "MB on disk",
    )
