"""The one place that opens templates: everything is escaped, and a name that is missing is an error."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from edge_lab.report import findings

_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")


def template(name: str) -> Any:
    """A jinja2 template of `edge_lab/templates`, with the filters that write numbers."""
    return _environment().get_template(name)


def render(name: str, **values: object) -> str:
    """The template as text."""
    text: str = template(name).render(**values)
    return text


@cache
def _environment() -> Any:
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
    return environment


def _duration(seconds: float) -> str:
    """`48 s` or `2 min 5 s`."""
    if not findings.known(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
