"""The candidates that nobody beats in everything: what is left to choose from, whatever the taste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_lab.core.errors import InputError
from edge_lab.decide.candidate import Candidate

# name: whether more is better
OBJECTIVES = {
    "size_mb": False,
    "p50_ms": False,
    "p90_ms": False,
    "load_ms": False,
    "peak_mb": False,
    "top1": True,
    "agreement": True,
    "accuracy": True,
    "sqnr_db": True,
}
USUAL = ("size_mb", "p50_ms", "accuracy")


@dataclass(frozen=True)
class Front:
    """`front` in the order of the first objective; `beaten` by at least one of them; `unknown` lack a number."""

    front: tuple[Candidate, ...]
    beaten: tuple[Candidate, ...]
    unknown: tuple[Candidate, ...]
    objectives: tuple[str, ...]

    def __contains__(self, one: Candidate) -> bool:
        return one in self.front


def pareto(candidates: Sequence[Candidate], objectives: Sequence[str] = USUAL) -> Front:
    """Split candidates by Pareto dominance.

    One beats another if it is at least as good in every objective and better in one; equals keep each other company. A
    candidate whose number is None or NaN can't be compared and is in `unknown`.

    Args:
        candidates: in any order.
        objectives: fields of Candidate, or "accuracy" (`OBJECTIVES` lists them and their direction).

    Raises:
        InputError: an unknown objective, or none.
    """
    wrong = [name for name in objectives if name not in OBJECTIVES]
    if wrong or not objectives:
        raise InputError(
            f"{wrong[0]!r} is no objective." if wrong else "no objective was named.",
            "a front needs numbers whose better direction is known.",
            f"choose from {', '.join(OBJECTIVES)}.",
        )
    scores = {id(c): _scores(c, objectives) for c in candidates}
    known = [c for c in candidates if scores[id(c)] is not None]
    front = [c for c in known if not any(_beats(scores[id(o)], scores[id(c)]) for o in known)]
    front.sort(key=lambda c: scores[id(c)] or ())
    inside = {id(c) for c in front}
    return Front(
        tuple(front),
        tuple(c for c in known if id(c) not in inside),
        tuple(c for c in candidates if scores[id(c)] is None),
        tuple(objectives),
    )


def _scores(one: Candidate, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """The numbers with less being better; None if one is missing."""
    values = [getattr(one, name) for name in objectives]
    if any(v is None or v != v for v in values):
        return None
    return tuple(-v if OBJECTIVES[name] else v for name, v in zip(objectives, values, strict=True))


def _beats(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> bool:
    return a is not None and b is not None and a != b and all(x <= y for x, y in zip(a, b, strict=True))
