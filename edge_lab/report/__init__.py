"""A run as something to read: one HTML page, a table in the terminal, markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from edge_lab.files import writing_file
from edge_lab.measure.result import RunResult
from edge_lab.report import charts, findings
from edge_lab.report.text import markdown, table

__all__ = ["html", "markdown", "table", "write"]

_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")


def html(run: RunResult) -> str:
    """One self-contained page: no script, nothing loaded from anywhere, light and dark, readable on a phone.

    All text is escaped; numbers that could not be measured show as a dash.
    """
    if not run.rows:
        from edge_lab.errors import InputError

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
    text: str = _template().render(
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
        scatter=charts.scatter(run),
        examples=shown,
        STATES=findings.STATES,
    )
    return text


def write(run: RunResult, path: Path | str) -> Path:
    """Write the page; the file is whole or absent. Returns its path."""
    path = Path(path)
    page = html(run)
    with writing_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edge_lab", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": findings.number,
        "percent": findings.percent,
        "clean": findings.clean,
        "decibels": findings.decibels,
        "budget_name": findings.budget_name,
        "base64": lambda text: text if _BASE64.fullmatch(text) else "",
        "seconds": _duration,
    }
    return environment.get_template("report.html.jinja")


def _duration(seconds: float) -> str:
    """`48 s` or `2 min 5 s`."""
    if not findings.known(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
