"""Size against latency, with the front that `edge_lab.decide` finds: numbers to positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge_lab.decide.candidate import Candidate, from_run
from edge_lab.decide.choose import accuracy_of
from edge_lab.decide.pareto import pareto
from edge_lab.report.charts import Tick, axis_of, tone
from edge_lab.report.findings import clean, known, number, percent
from edge_lab.results.result import RunResult


@dataclass(frozen=True)
class Point:
    """A target: x and y in percent (y from the top); its number sits (dx, dy) pixels away. `front`: nobody beats it."""

    number: int
    x: float
    y: float
    dx: float
    dy: float
    tone: str
    title: str
    front: bool
    name: str
    accuracy: str


@dataclass(frozen=True)
class Scatter:
    """Size against latency; the corner near zero is the good one. `border` are lines (x1, y1, x2, y2) in percent."""

    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    border: tuple[tuple[float, float, float, float], ...]
    summary: str
    objectives: str


def of_run(run: RunResult) -> Scatter | None:
    """The targets of a run, numbered as in its table."""
    numbers = {row.target: n for n, row in enumerate(run.rows, 1)}
    tones = {row.target: tone(run, row) for row in run.rows}
    return scatter(from_run(run), numbers, tones)


def scatter(found: Sequence[Candidate], numbers: Mapping[str, int], tones: Mapping[str, str]) -> Scatter | None:
    """Size (x, MB) against median latency (y, ms); None if fewer than two candidates have both.

    Args:
        found: candidates; those that lack a size or a latency are left out.
        numbers: what stands beside each, by name.
        tones: colour of each, by name.
    """
    both = [c for c in found if known(c.size_mb) and known(c.p50_ms)]
    if len(both) < 2:
        return None
    x_unit, x_ticks = axis_of((c.size_mb or 0.0 for c in both), 86.0)
    y_unit, y_ticks = axis_of((c.p50_ms or 0.0 for c in both), 86.0)
    if not (x_unit and y_unit):
        return None
    accuracy = accuracy_of(both)
    judged = [c for c in both if accuracy(c) is not None]
    objectives = ("size_mb", "p50_ms", "accuracy") if judged else ("size_mb", "p50_ms")
    winners = {id(c) for c in pareto(both, objectives).front}
    places = [((c.size_mb or 0.0) * x_unit, 100 - (c.p50_ms or 0.0) * y_unit) for c in both]
    points = [
        Point(
            numbers[c.name],
            x,
            y,
            dx,
            dy,
            tones[c.name],
            f"{c.name}: {number(c.size_mb)} MB, {number(c.p50_ms)} ms",
            id(c) in winners,
            c.name,
            f"{percent(accuracy(c))} %" if accuracy(c) is not None else "",
        )
        for c, (x, y), (dx, dy) in zip(both, places, _place_labels(places), strict=True)
    ]
    return Scatter(
        tuple(points),
        tuple(x_ticks),
        tuple(Tick(100 - t.at, t.label) for t in y_ticks),
        _border([(p.x, p.y) for p in points if p.front]),
        clean("Size against median latency: " + "; ".join(p.title for p in points)),
        "size, latency and accuracy" if judged else "size and latency",
    )


def _border(places: Sequence[tuple[float, float]]) -> tuple[tuple[float, float, float, float], ...]:
    """Steps through the points that nobody undercuts in size and latency both."""
    steps: list[tuple[float, float]] = []
    for x, y in sorted(places, key=lambda p: (p[0], -p[1])):
        if not steps or y > steps[-1][1]:  # y counts from the top: more is faster
            steps.append((x, y))
    lines = []
    for (x1, y1), (x2, y2) in pairwise(steps):
        lines += [(x1, y1, x2, y1), (x2, y1, x2, y2)]
    return tuple(lines)


def _place_labels(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pixel offsets of the numbers, greedily the nearest free spot, on a phone's width and on a desk's."""
    widths, height, gap = (270.0, 460.0), 240.0, 19.0
    spots = [
        (radius * math.cos(turn * math.pi / 8), radius * math.sin(turn * math.pi / 8))
        for radius in (17.0, 28.0, 40.0, 54.0)
        for turn in (-2, 0, 2, -4, 4, -6, 6, 8, -1, 1, 3, -3, 5, -5, 7, -7)
    ]
    placed: list[tuple[float, float]] = []
    for i, (x, y) in enumerate(places):

        def free(spot: tuple[float, float], i: int = i, x: float = x, y: float = y) -> bool:
            for width in widths:
                cx, cy = x * width / 100 + spot[0], y * height / 100 + spot[1]
                if not (-6 < cx < width + 6 and 4 < cy < height - 4):
                    return False
                dots = [(px * width / 100, py * height / 100, gap - 6) for px, py in places]
                labels = [
                    (px * width / 100 + dx, py * height / 100 + dy, gap)
                    for (px, py), (dx, dy) in zip(places[:i], placed, strict=True)
                ]
                if any(math.hypot(cx - ox, cy - oy) < need for ox, oy, need in (*dots, *labels)):
                    return False
            return True

        spot = next((s for s in spots if free(s)), spots[0])
        placed.append((round(spot[0], 1), round(spot[1], 1)))
    return placed
