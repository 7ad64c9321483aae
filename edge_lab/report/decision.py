"""A decision in the terminal, and its picture as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_lab.core.files import writing_file
from edge_lab.decide import Candidate, Front, accuracy_of, pareto_plot
from edge_lab.report.text import aligned


def table(candidates: Sequence[Candidate], front: Front) -> str:
    """One line for each candidate, the fastest first; a star marks the front."""
    of, inside = accuracy_of(candidates), {id(c) for c in front.front}
    head = ["front", "candidate", "size MB", "p50 ms", "accuracy %", "SQNR dB", "peak MB"]
    rows = []
    for one in sorted(candidates, key=lambda c: (c.p50_ms is None, c.p50_ms or 0.0)):
        numbers = (one.size_mb, one.p50_ms, of(one), one.sqnr_db, one.peak_mb)
        texts = ["–" if n is None or n != n else f"{n:.3g}" for n in numbers]
        rows.append(["*" if id(one) in inside else "", one.name, *texts])
    return "\n".join(aligned([head, *rows], left=2))


def draw(front: Front, choice: Candidate | None, path: Path) -> None:
    """The picture of a front as a file, whole or absent; its kind follows the suffix."""
    import matplotlib as mpl

    mpl.use("Agg")
    axes = pareto_plot(front, choice=choice, title="size, latency, accuracy; ringed: recommended")
    with writing_file(path) as temporary:
        axes.figure.savefig(temporary, dpi=110, format=path.suffix.lstrip(".") or "png")
