"""Budgets: limits in a TOML file that fail a build. `check` compares one measured row with them.

[default]                          # every target
max_size_mb = 50
[int8-static]                      # programs of this precision, as bundle.json states it (`PRECISIONS`)
max_size_ratio = 0.28
[target."android-xnnpack-int8"]    # one target; the most specific table wins, key by key
min_delegated = 0.95
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from math import isnan
from pathlib import Path
from typing import Any, get_args

from edge_lab.bundle.folder import Scheme
from edge_lab.core.errors import InputError
from edge_lab.results.result import TargetResult, Verdict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS: tuple[str, ...] = get_args(Scheme)


@dataclass(frozen=True)
class Budget:
    """Limits for one target; None means no limit.

    Ratios and losses are against the reference row (eager fp32): `max_size_ratio` of its weights, `max_p50_ratio` of
    its median latency, `max_top1_loss` in percentage points. `required` names the limits that fail when the value
    could not be measured; the others then have no verdict (`ok` is None).
    """

    max_size_mb: float | None = 50.0
    max_size_ratio: float | None = None
    max_p50_ms: float | None = None
    max_p50_ratio: float | None = None
    max_load_ms: float | None = None
    max_peak_mb: float | None = None
    max_top1_loss: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    min_delegated: float | None = None
    required: tuple[str, ...] = ("max_size_mb",)


LIMITS = tuple(f.name for f in fields(Budget) if f.name != "required")
_UNITS = {
    "max_size_mb": "MB",
    "max_size_ratio": "x",
    "max_p50_ms": "ms",
    "max_p50_ratio": "x",
    "max_load_ms": "ms",
    "max_peak_mb": "MB",
    "max_top1_loss": "points",
    "min_agreement": "%",
    "min_sqnr_db": "dB",
    "min_delegated": "",
}


@dataclass(frozen=True)
class Budgets:
    """A budget file: `of(target, precision)` is the budget of one target."""

    default: Budget = field(default_factory=Budget)
    by_precision: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_target: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, target: str, precision: str) -> Budget:
        """The default, overridden by the table of the precision, then by the table of the target."""
        return replace(self.default, **{**self.by_precision.get(precision, {}), **self.by_target.get(target, {})})


def load_budget(path: Path | str) -> Budgets:
    """Read a budget file.

    Raises:
        InputError: no such file, not TOML, an unknown table or key, or a value of the wrong type.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"there is no budget file {path}.", "the path is wrong.", "start from the budgets.toml of this repository."
        ) from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path} can't be read as TOML.", f"{error}.", "correct that line; see toml.io.") from error
    tables = ("default", *PRECISIONS, "target")
    for name in document:
        if name not in tables or not isinstance(document[name], dict):
            raise _unknown(path, "table", name, tables)
    by_target = document.get("target", {})
    for name, table in by_target.items():
        if not isinstance(table, dict):
            raise InputError(
                f"{path}: target.{name} is not a table.",
                "limits of one target stand in a table of its own.",
                f'write [target."{name}"] on a line, and the limits below it.',
            )
    return Budgets(
        Budget(**_table(path, "default", document.get("default", {}))),
        {name: _table(path, name, document[name]) for name in PRECISIONS if name in document},
        {name: _table(path, f'target."{name}"', table) for name, table in by_target.items()},
    )


def check(
    result: TargetResult,
    reference: TargetResult | None = None,
    budget: Budgets | Budget | None = None,
    *,
    labelled: int | None = None,
) -> tuple[Verdict, ...]:
    """One verdict for each limit that the budget sets.

    Args:
        result: the measured row; a failed target has no verdicts.
        reference: the row that ratios and losses refer to (eager fp32); without it they can't be measured.
        budget: the limits; default: `Budgets()`.
        labelled: number of labelled images behind top1. One image is 100/labelled points, so a smaller loss than
            that can't be told from none: the limit is then one image. The same holds for `min_agreement` below 100 and
            the row's `answers`; a limit of 100 % allows no other answer.

    Returns:
        Verdicts in the order of `LIMITS`. NaN never passes.
    """
    if result.status != "ok":
        return ()
    budget = Budgets() if budget is None else budget
    if isinstance(budget, Budgets):
        budget = budget.of(result.target, result.precision)
    values = _values(result, reference)
    verdicts = []
    for name in LIMITS:
        limit = getattr(budget, name)
        if limit is None:
            continue
        if name == "max_top1_loss" and labelled:
            limit = max(limit, 100 / labelled)
        if name == "min_agreement" and result.answers and limit < 100:
            limit = min(limit, 100 - 100 / result.answers)
        verdicts.append(_verdict(name, values[name], limit, name in budget.required))
    return tuple(verdicts)


def passed(verdicts: tuple[Verdict, ...]) -> bool:
    """Whether no verdict failed (limits without a measurement, unless required, do not count)."""
    return all(v.ok is not False for v in verdicts)


def _verdict(name: str, value: float | None, limit: float, required: bool) -> Verdict:
    if value is None:
        return Verdict(name, None, limit, False if required else None, _UNITS[name])
    slack = 1e-9 * max(1.0, abs(limit))  # 0.28 of a size is still 0.28 after floating-point division
    ok = value <= limit + slack if name.startswith("max_") else value >= limit - slack
    return Verdict(name, value, limit, bool(ok) and not isnan(value), _UNITS[name])


def _values(result: TargetResult, reference: TargetResult | None) -> dict[str, float | None]:
    ref = reference or TargetResult("none", "none", "fp32")
    loss = ref.top1 - result.top1 if ref.top1 is not None and result.top1 is not None else None
    return {
        "max_size_mb": result.size_mb,
        "max_size_ratio": _ratio(result.size_mb, ref.size_mb),
        "max_p50_ms": result.p50_ms,
        "max_p50_ratio": _ratio(result.p50_ms, ref.p50_ms),
        "max_load_ms": result.load_ms,
        "max_peak_mb": result.peak_mb,
        "max_top1_loss": loss,
        "min_agreement": result.agreement,
        "min_sqnr_db": result.sqnr_db,
        "min_delegated": result.delegated,
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


def _table(path: Path, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """A table's keys and values, checked: known names, numbers as limits, `required` a list of limit names."""
    checked: dict[str, Any] = {}
    for key, value in table.items():
        if key == "required":
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise _wrong_type(path, where, key, value, "a list of limit names")
            for name in value:
                if name not in LIMITS:
                    raise _unknown(path, "required limit", name, LIMITS)
            checked[key] = tuple(value)
        elif key not in LIMITS:
            raise _unknown(path, f"key in [{where}]", key, (*LIMITS, "required"))
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or isnan(value):
            raise _wrong_type(path, where, key, value, "a number")
        else:
            checked[key] = float(value)
    return checked


def _wrong_type(path: Path, where: str, key: str, value: object, wanted: str) -> InputError:
    return InputError(
        f"{path}: {key} in [{where}] is {value!r}.",
        f"it must be {wanted}.",
        f"correct it, or remove the line: {key} then has no limit of its own in [{where}].",
    )


def _unknown(path: Path, kind: str, name: str, known: tuple[str, ...]) -> InputError:
    close = get_close_matches(name, known, 1)
    return InputError(
        f"{path}: unknown {kind} {name!r}.",
        "a limit that nobody checks would be worse than none.",
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}.",
    )
