"""What the dashboard says, as HTML fragments from plain values. No widgets here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_lab.bundle.spec import Prediction
from edge_lab.core.numbers import EQUAL_DB, finite_db
from edge_lab.measure.measured import installed
from edge_lab.measure.record import Measurement
from edge_lab.report import charts
from edge_lab.report.findings import decibels, number, percent
from edge_lab.report.templates import template
from edge_lab.widgets.catalog import Catalog, Choice
from edge_lab.widgets.compare import Pair

if TYPE_CHECKING:
    from PIL.Image import Image

PLACES = ("left", "right")


@dataclass(frozen=True)
class Fact:
    """A figure of a card; a dash if it is not known."""

    name: str
    figure: str
    unit: str = ""
    more: str = ""


@dataclass(frozen=True)
class Side:
    """One bundle on the page."""

    place: str
    label: str
    tone: str
    engine: str = ""
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    answers: tuple[Prediction, ...] = ()
    verdict: str = ""
    other: bool = False


@dataclass(frozen=True)
class Shown:
    """A picture and what both say to it."""

    name: str
    truth: str
    image: str
    tiny: bool
    sides: tuple[Side, ...]


def _fragment(name: str, *values: object) -> str:
    macros: Any = template("dashboard.jinja").module
    return str(getattr(macros, name)(*values))


def style() -> str:
    """The style sheet, once for the page. It takes JupyterLab's own colours, light or dark."""
    return _fragment("style")


def head(what: str, where: str) -> str:
    """The heading."""
    return _fragment("head", what, where)


def note(text: str, kind: str = "", detail: str = "") -> str:
    """One sentence in a box: kind "bad" for an error, "wait" for a caution."""
    return _fragment("note", text, kind, detail) if text else ""


def cards(sides: Sequence[tuple[Choice, str]], pair: Pair | None) -> str:
    """What is known of both bundles; latency and quality only after a measurement.

    Args:
        sides: each with the reason why it can't run here, or "".
        pair: what was measured.
    """
    found = (pair.left, pair.right) if pair else (None, None)
    first = sides[0][0].bundle.program_bytes
    rows = [
        _card(place, choice, problem, item, pair, first)
        for place, (choice, problem), item in zip(PLACES, sides, found, strict=True)
    ]
    return _fragment("cards", rows)


def _card(
    place: str, choice: Choice, problem: str, item: Measurement | None, pair: Pair | None, reference_bytes: int
) -> Side:
    bundle = choice.bundle
    share = bundle.runtime.delegated
    smaller = reference_bytes / bundle.program_bytes
    size = f"{smaller:.1f}× smaller" if place == "right" and smaller >= 1.05 else ""
    delegated = (
        Fact("Delegated", "–", "", "no delegate") if share is None else Fact("Delegated", f"{100 * share:.0f}", "%")
    )
    facts = [Fact("Size", number(bundle.program_bytes / 1e6), "MB", size), _time(item, pair, place), delegated]
    facts += _quality(place, choice, item, pair)
    version = installed(bundle)
    engine = f"{bundle.runtime.package} {version}" if version else f"{bundle.runtime.package}, not installed"
    return Side(
        place, choice.label, charts.tone_of(choice.precision), engine, tuple(facts), (problem,) if problem else ()
    )


def _time(item: Measurement | None, pair: Pair | None, place: str) -> Fact:
    if item is None or pair is None:
        return Fact("Median", "–", "", "not measured yet")
    more = f"p90 {number(item.latency.p90_ms)}, p99 {number(item.latency.p99_ms)}"
    if place == "right" and pair.left is not pair.right:
        factor = pair.left.latency.p50 / item.latency.p50
        more = (
            f"{factor:.1f}× faster" if factor >= 1.05 else f"{1 / factor:.1f}× slower" if factor <= 0.95 else "as fast"
        )
    return Fact("Median", number(item.latency.p50_ms), "ms", more)


def _quality(place: str, choice: Choice, item: Measurement | None, pair: Pair | None) -> list[Fact]:
    """Top-1 where enough pictures have labels; for the right one also how close it is to the left one.

    Before a measurement: what the bundle recorded.
    """
    facts = []
    if item and item.quality and item.quality.top1 is not None:
        facts.append(Fact("Top-1", percent(item.quality.top1), "%", f"of {item.quality.images} pictures"))
    elif item is None and isinstance(recorded := choice.bundle.metrics.get("top1"), float):
        facts.append(Fact("Top-1", percent(recorded), "%", "recorded by the run"))
    if place == "left":
        return facts
    if pair is not None and pair.left is not pair.right:
        ratio = decibels(finite_db(pair.close.sqnr_db)) + (" dB" if pair.close.sqnr_db < EQUAL_DB else "")
        if pair.close.agreement is None:
            facts.append(Fact("SQNR", ratio, "", f"{pair.close.n} inputs"))
        else:
            facts.append(Fact("Agreement", percent(pair.close.agreement), "%", f"{pair.close.n} inputs, {ratio}"))
    elif pair is None and isinstance(known := choice.bundle.metrics.get("agreement"), float):
        facts.append(Fact("Agreement", percent(known), "%", "recorded with PyTorch"))
    elif pair is None and isinstance(known := choice.bundle.metrics.get("sqnr_db"), float):
        facts.append(Fact("SQNR", decibels(known), "dB" if known < EQUAL_DB else "", "recorded with PyTorch"))
    return facts


def strip(pair: Pair, choices: Sequence[Choice]) -> str:
    """Every sample of both, with the percentiles."""
    named = list(zip(choices, (pair.left, pair.right), strict=True))
    named = named[:1] if pair.left is pair.right else named
    lines = [
        charts.Timed(
            c.label,
            charts.tone_of(c.precision),
            m.latency.p50_ms,
            m.latency.p90_ms,
            m.latency.p99_ms,
            m.latency.samples_ms,
        )
        for c, m in named
    ]
    times = pair.left.latency
    how = (
        f"Bar: median. Thin line: p90. Dashed: p99. {len(times.samples_s)} calls of each, in turn, one thread, "
        f"{'CPU' if times.clock == 'cpu' else 'wall'} time; {pair.measured.heading}."
    )
    return _fragment("strip", charts.strips(lines, "ms per picture"), "Latency, every call", how)


def answers(
    name: str, truth: str, picture: tuple[Image, str], choices: Sequence[Choice], said: Sequence[tuple[Prediction, ...]]
) -> str:
    """The picture, the left one's five best answers, the right one's."""
    image, encoded = picture
    first = said[0][0].index if said[0] else None
    sides = []
    for place, choice, best in zip(PLACES, choices, said, strict=True):
        judged = place == "right" and best and first is not None and choices[0] is not choices[1]
        other = bool(judged and best[0].index != first)
        verdict = ("another first answer" if other else "the same first answer") if judged else ""
        sides.append(
            Side(place, choice.label, charts.tone_of(choice.precision), answers=best, verdict=verdict, other=other)
        )
    return _fragment("answers", Shown(name, truth, encoded, max(image.size) <= 64, tuple(sides)))


def missing(found: Catalog, model: str) -> str:
    """How to make the usual bundles that are not there, and which could not be read."""
    commands = [command for _, command in found.missing(model)]
    count = len(commands)
    words = []
    if count:
        words.append(f"{count} more target{'s' if count > 1 else ''} can be made")
    if found.broken:
        words.append(f"{len(found.broken)} bundle{'s' if len(found.broken) > 1 else ''} can't be read")
    return _fragment("missing", commands, found.broken, ", ".join(words))
