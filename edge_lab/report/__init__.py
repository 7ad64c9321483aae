"""A run as something to read: one HTML page, a table in the terminal, markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_lab.core.files import writing_file
from edge_lab.report import charts, findings, scatter
from edge_lab.report.templates import render
from edge_lab.report.text import markdown, table
from edge_lab.results.result import RunResult

__all__ = ["html", "markdown", "table", "write"]


def html(run: RunResult) -> str:
    """One self-contained page: no script, nothing loaded from anywhere, light and dark, readable on a phone.

    All text is escaped; numbers that could not be measured show as a dash.
    """
    if not run.rows:
        from edge_lab.core.errors import InputError

        raise InputError(
            "the run has no rows.",
            "a report compares targets with eager PyTorch, which is the first row.",
            "make one with `edge-lab run`.",
        )
    order = {row.target: i for i, row in enumerate(run.rows)}  # eager first, then as in the table
    shown = [
        replace(e, answers=dict(sorted(e.answers.items(), key=lambda item: order.get(item[0], len(order)))))
        for e in run.examples
        if e.answers
    ]
    return render(
        "report.html.jinja",
        run=run,
        states=[findings.state(run, row) for row in run.rows],
        tones=[charts.tone(run, row) for row in run.rows],
        answers=findings.answers(run),
        counts=findings.counts(run),
        sentence=findings.sentence(run),
        budgets=findings.budgets(run),
        notes=findings.notes(run),
        size=charts.size(run),
        latency=charts.latency(run),
        quality=charts.quality(run),
        scatter=scatter.of_run(run),
        examples=shown,
        STATES=findings.STATES,
    )


def write(run: RunResult, path: Path | str) -> Path:
    """Write the page; the file is whole or absent. Returns its path."""
    path = Path(path)
    page = html(run)
    with writing_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
