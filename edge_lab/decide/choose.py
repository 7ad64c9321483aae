"""Budgets in, one recommendation out, with its reason and with what was turned down and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge_lab.core.errors import InputError
from edge_lab.decide.candidate import Candidate
from edge_lab.measure.timing import ratio
from edge_lab.results.budget import Budget, Budgets, check
from edge_lab.results.result import TargetResult, Verdict

Objective = Literal["latency", "size"]
Accuracy = Callable[[Candidate], "float | None"]
_FIELD = {"latency": "p50_ms", "size": "size_mb"}
_EAGER = ("eager", "pytorch", "torch")
SAME = 0.05  # relative difference below which two latencies (or sizes) count as the same


@dataclass(frozen=True)
class Rejected:
    """A candidate that can't be chosen, and why, as a sentence. `miss` is by how much (0.1: 10 %) it breaks the worst
    limit; None if a number is missing.
    """

    candidate: Candidate
    why: str
    miss: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """`choice` is None if nothing fits; `reason` then says which candidate came nearest.

    `equals` are as fast (or small) as the choice and lost a closer look; `slower` fit the budget too, best first.
    """

    choice: Candidate | None
    reason: str
    equals: tuple[Candidate, ...] = ()
    slower: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def __str__(self) -> str:
        lines = [f"recommended: {self.choice.name if self.choice else 'none of them'}", f"  {self.reason}"]
        lines += [f"  turned down: {r.candidate.name}: {r.why}" for r in self.rejected]
        return "\n".join(lines)


def recommend(
    candidates: Sequence[Candidate],
    budget: Budgets | Budget | None = None,
    *,
    objective: Objective = "latency",
    reference: Candidate | None = None,
    max_loss: float | None = 1.0,
) -> Recommendation:
    """The fastest (or smallest) candidate that keeps the budget.

    Those within 5 % of the best count as equally fast: the more accurate of them is chosen, then the smaller (then the
    faster) one. A tie is anchored on the best, so that no chain of ties adds up: the choice is never more than 5 %
    slower than any other that fits. Accuracies that differ by less than one image are the same.

    Args:
        candidates: measured in one sitting, or at least on one machine.
        budget: limits as in budgets.toml; default: the package's.
        objective: what to have little of.
        reference: what ratios and losses of the budget refer to; default: eager PyTorch if it is there, else the fp32
            candidate with the highest accuracy.
        max_loss: points of accuracy that may be lost against the most accurate candidate, in addition to the budget
            (one image is always allowed). None: any.

    Raises:
        InputError: no candidates.
    """
    if not candidates:
        raise InputError("there is nothing to choose from.", "the list is empty.", "measure something first.")
    of = accuracy_of(candidates)
    reference = reference or _reference(candidates, of)
    best = max((a for c in candidates if (a := of(c)) is not None), default=None)
    image = max((c.step for c in candidates if of(c) is not None), default=0.0)
    loss = _Loss(best, None if max_loss is None else max(max_loss, image), of)
    judged = [_judge(c, reference, budget, loss, objective) for c in candidates]
    rejected = tuple(r for r in judged if r is not None)
    fit = [c for c, r in zip(candidates, judged, strict=True) if r is None]
    if not fit:
        return Recommendation(None, _nearest(rejected), rejected=rejected)
    fit.sort(key=lambda c: _value(c, objective))
    equal = [c for c in fit if _value(c, objective) <= (1 + SAME) * _value(fit[0], objective)]
    choice = min(equal, key=lambda c: _closer_look(c, equal, of, objective))
    return Recommendation(
        choice,
        _because(choice, fit, equal, of, objective),
        tuple(c for c in equal if c is not choice),
        tuple(fit[len(equal) :]),
        rejected,
    )


def accuracy_of(candidates: Sequence[Candidate]) -> Accuracy:
    """Top-1 if every candidate with an accuracy has it, else agreement: the two must not be mixed."""
    labelled = all(c.top1 is not None for c in candidates if c.accuracy is not None)
    return (lambda c: c.top1) if labelled else (lambda c: c.agreement)


@dataclass(frozen=True)
class _Loss:
    """The most accurate candidate's accuracy, and how many points may be lost against it, the same for all."""

    best: float | None
    allowed: float | None
    of: Accuracy

    def why_not(self, one: Candidate) -> Rejected | None:
        if self.best is None or self.allowed is None:
            return None
        own = self.of(one)
        if own is None:
            return Rejected(one, "its accuracy was not measured.")
        lost = self.best - own
        if lost <= self.allowed + 1e-9:
            return None
        miss = lost / self.allowed - 1 if self.allowed else None
        return Rejected(one, f"it loses {lost:.1f} points of accuracy, {self.allowed:.1f} are allowed.", miss)


def _reference(candidates: Sequence[Candidate], of: Accuracy) -> Candidate | None:
    floats = [c for c in candidates if c.precision == "fp32" and of(c) is not None]
    eager = [c for c in floats if c.engine in _EAGER]
    return max(eager or floats, key=lambda c: of(c) or 0.0, default=None)


def _judge(
    one: Candidate,
    reference: Candidate | None,
    budget: Budgets | Budget | None,
    loss: _Loss,
    objective: Objective,
) -> Rejected | None:
    value = getattr(one, _FIELD[objective])
    if value is None or value != value:
        return Rejected(one, f"its {objective} was not measured.")
    verdicts = check(_row(one), _row(reference) if reference else None, budget, labelled=one.images)
    broken = [v for v in verdicts if v.ok is False]
    if broken:
        worst = max(broken, key=lambda v: _miss(v) or 0.0)
        return Rejected(one, "; ".join(_breaks(v) for v in broken) + ".", _miss(worst))
    return loss.why_not(one)


def _row(one: Candidate) -> TargetResult:
    fields = ("size_mb", "delegated", "top1", "agreement", "sqnr_db", "load_ms", "p50_ms", "p90_ms", "peak_mb")
    row = TargetResult(one.target or one.name, one.engine, one.precision, answers=one.images)
    return replace(row, **{name: getattr(one, name) for name in fields})


def _miss(verdict: Verdict) -> float | None:
    if verdict.value is None or verdict.value != verdict.value or not verdict.limit:
        return None
    return abs(verdict.value - verdict.limit) / abs(verdict.limit)


def _breaks(verdict: Verdict) -> str:
    name = verdict.name.split("_", 1)[1].replace("_", " ")
    if verdict.value is None:
        return f"{name} was not measured, and the budget asks for it"
    most = "most" if verdict.name.startswith("max_") else "least"
    return f"{name} {verdict.value:.3g} {verdict.unit}, at {most} {verdict.limit:.3g} is allowed".replace("  ", " ")


def _nearest(rejected: Sequence[Rejected]) -> str:
    known = [r for r in rejected if r.miss is not None]
    if not known:
        return "Nothing keeps the budget, and what is missing was not measured: " + rejected[0].why
    near = min(known, key=lambda r: r.miss or 0.0)
    by = f"misses by {100 * (near.miss or 0):.0f} %"
    return f"Nothing keeps the budget. Nearest is {near.candidate.name}, which {by}: {near.why}"


def _value(one: Candidate, objective: Objective) -> float:
    return float(getattr(one, _FIELD[objective]))


def _closer_look(
    one: Candidate, equal: Sequence[Candidate], of: Accuracy, objective: Objective
) -> tuple[float, float, float]:
    """Among equals: points of accuracy below the best of them (one image is none), then the other objective."""
    top = max((a for c in equal if (a := of(c)) is not None), default=0.0)
    below = top - (of(one) or 0.0)
    counted = 0.0 if below <= max(c.step for c in equal) + 1e-9 else below
    other = one.size_mb if objective == "latency" else one.p50_ms
    return counted, float("inf") if other is None else other, _value(one, objective)


def _because(
    choice: Candidate, fit: Sequence[Candidate], equal: Sequence[Candidate], of: Accuracy, objective: Objective
) -> str:
    word, unit = ("fastest", "ms") if objective == "latency" else ("smallest", "MB")
    text = f"{_value(choice, objective):.3g} {unit}"
    if len(fit) == 1:
        return f"It is the only one of them that keeps the budget: {text}."
    others = [c for c in equal if c is not choice]
    if not others:
        times = _value(fit[1], objective) / _value(choice, objective)
        first = (
            f"It is the {word} that keeps the budget: {text}; {fit[1].name}, the next, needs {times:.2f} times that."
        )
        return first + (_doubt(choice, fit[1]) if objective == "latency" else "")
    names = ", ".join(c.name for c in others)
    tie = f"{names} {'is' if len(others) == 1 else 'are'} as good within {100 * SAME:.0f} %"
    how = _difference(choice, others, of, objective)
    return f"It is among the {word} that keep the budget: {text}. {tie}; this one is {how}."


def _doubt(choice: Candidate, other: Candidate) -> str:
    """A sentence if the rounds that both were timed in do not tell them apart; it does not change the choice, which
    goes by the medians: a noisy sitting must not make a slower program eligible.
    """
    a, b = choice.latency, other.latency
    if a is None or b is None or not choice.sitting or choice.sitting != other.sitting:
        return ""
    if len(a.times) != len(b.times) or a.clock != b.clock or not all(b.times):
        return ""
    found = ratio(b, a)
    if found.differs:
        return f" Round by round: {found}."
    return f" But round by round it is {found}, which includes 1: these two can't be told apart; measure longer."


def _difference(choice: Candidate, others: Sequence[Candidate], of: Accuracy, objective: Objective) -> str:
    step, own = max(c.step for c in (choice, *others)), of(choice)
    known = [a for c in others if (a := of(c)) is not None]
    if own is not None and known and own > max(known) + step:
        return f"more accurate ({own:.1f} %)"
    if objective == "latency" and choice.size_mb is not None:
        return f"the smallest of the most accurate ({choice.size_mb:.3g} MB)"
    if objective == "size" and choice.p50_ms is not None:
        return f"the fastest of the most accurate ({choice.p50_ms:.3g} ms)"
    return "the first of them"
