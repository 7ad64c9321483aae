"""A run as plain text: the table in the terminal, and markdown for a README or a pull request."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from edge_lab.report.findings import (
    STATES,
    budget_name,
    clean,
    decibels,
    has_budget,
    notes,
    number,
    percent,
    sentence,
    sign,
    state,
)
from edge_lab.results.result import RunResult, TargetResult, Verdict

_COLORS = {"PASS": "32", "FAIL": "31", "----": "33", "base": "2"}
_LEFT = 2  # the first columns are words and flush left; the others are numbers and flush right


def table(run: RunResult, *, color: bool | None = None) -> str:
    """The run as aligned columns for a terminal, with its failures and remarks below.

    Args:
        run: what to show.
        color: PASS green and FAIL red. None: only if stdout is a terminal and NO_COLOR is not set.
    """
    if color is None:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    head = f"{run.model} ({run.weights} weights) on {run.images} pictures of {run.dataset}"
    lines = [clean(head + (f", {run.skipped_images} unreadable left out" if run.skipped_images else "")), ""]
    lines += aligned(_columns(run), left=_LEFT)
    lines += ["", sentence(run), compared(run)]
    lines += [f"  over budget  {line}" for line in broken(run)]
    for row in run.rows:
        if row.failure is not None:
            f = row.failure
            lines += [
                "",
                f"FAIL {clean(row.target)}: {clean(f.what)}",
                f"  why: {clean(f.why)}",
                f"  fix: {clean(f.fix)}",
            ]
    if remarks := notes(run):
        lines += ["", *(f"note {clean(', '.join(names))}: {clean(note)}" for note, names in remarks)]
    text = "\n".join(clean(line) for line in lines)
    return paint(text) if color else text


def compared(run: RunResult) -> str:
    """Which programs were compared with eager PyTorch, and which were not."""
    tried = [row for row in run.rows[1:] if row.bundle is not None or row.sqnr_db is not None]
    left = [row.target for row in tried if row.sqnr_db is None]
    text = f"Compared with PyTorch, every output: {len(tried) - len(left)} of {len(tried)} programs"
    return clean(f"{text}; not compared: {', '.join(left)}." if left else f"{text}.")


def paint(text: str) -> str:
    """Colour the marks PASS, FAIL, ---- and base where they stand alone."""
    return re.sub(r"(?<!\S)(PASS|FAIL|----|base)(?!\S)", lambda m: f"\033[{_COLORS[m[1]]}m{m[1]}\033[0m", text)


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns padded to equal width, a rule under the first row; the first `left` columns flush left."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in rows
    ]
    return [lines[0], "  ".join("─" * w for w in widths), *lines[1:]]


def _columns(run: RunResult) -> list[list[str]]:
    labelled = run.has_labels
    head = [
        "",
        "target",
        "size MB",
        "p50 ms",
        "load ms",
        "mem MB",
        "agree %",
        *(["top-1 %"] if labelled else []),
        "SQNR dB",
    ]
    return [head, *([STATES[state(run, r)][1], *_cells(r, labelled)] for r in run.rows)]


def _cells(row: TargetResult, labelled: bool) -> list[str]:
    return [
        clean(row.target),
        number(row.size_mb),
        number(row.p50_ms),
        number(row.load_ms),
        number(row.delta_mb),
        percent(row.agreement),
        *([percent(row.top1)] if labelled else []),
        decibels(row.sqnr_db),
    ]


def verdict_line(v: Verdict) -> str:
    """`size 4.95 MB, limit ≤ 50.0 MB`, or that it could not be measured."""
    unit = f" {v.unit}" if v.unit else ""
    limit = f"limit {sign(v.name)} {number(v.limit)}{unit}".replace("  ", " ")
    if v.value is None:
        return clean(f"{budget_name(v.name)} was not measured ({limit})")
    return clean(f"{budget_name(v.name)} {number(v.value)}{unit}, {limit}")


def broken(run: RunResult) -> list[str]:
    """One line for each budget that a target breaks."""
    return [f"{clean(r.target)}: {verdict_line(v)}" for r in run.rows for v in r.verdicts if v.ok is False]


def markdown(run: RunResult) -> str:
    """The run as GitHub-flavoured markdown."""
    columns = _columns(run)
    head = [c or "result" for c in columns[0]]
    lines = [
        f"### {_cell(run.model)}: {_cell(sentence(run))}",
        "",
        f"{_cell(run.weights)} weights, {run.images} pictures of {_cell(run.dataset)}, {_cell(run.date)}.",
        "",
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' if i < _LEFT else '---:' for i in range(len(head)))} |",
        *(f"| {' | '.join(_cell(c) for c in row)} |" for row in columns[1:]),
        "",
    ]
    if has_budget(run):
        lines += [*(f"- over budget: {_cell(line)}" for line in broken(run))]
    for row in run.rows:
        if row.failure is not None:
            f = row.failure
            lines.append(
                f"- **{_cell(row.target)}** did not come out: {_cell(f.what)} Why: {_cell(f.why)} Fix: {_cell(f.fix)}"
            )
    lines += [f"- {_cell(', '.join(names))}: {_cell(note)}" for note, names in notes(run)]
    machine = ", ".join(f"{_cell(k)} {_cell(v)}" for k, v in {**run.machine, **run.versions}.items())
    lines += ["", f"<sub>{machine}. Made by `{_cell(run.command)}` in {run.seconds:.0f} s.</sub>", ""]
    return "\n".join(lines)


def _cell(text: object) -> str:
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("|", "\\|").replace("`", "'")
