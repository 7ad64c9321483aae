"""Compare two files of measurements (or two runs), so that a build can refuse a regression."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edge_lab.core.errors import InputError
from edge_lab.measure.record import Measurement, from_json, is_measurements
from edge_lab.results.result import TargetResult

# name on the command line: field of the row, and whether more is worse
METRICS = {
    "median": ("p50_ms", True),
    "p90": ("p90_ms", True),
    "load": ("load_ms", True),
    "first": ("first_ms", True),
    "size": ("size_mb", True),
    "memory": ("peak_mb", True),
    "instructions": ("instructions", True),
    "agreement": ("agreement", False),
    "top1": ("top1", False),
    "sqnr": ("sqnr_db", False),
}


@dataclass(frozen=True)
class Change:
    """One number before and after. `percent` is the relative change; `worse` is set if it breaks its limit."""

    target: str
    metric: str
    before: float | None
    after: float | None
    limit: float

    @property
    def percent(self) -> float | None:
        """Relative change in percent; None if one side is missing or the first is zero."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return 100 * (self.after - self.before) / abs(self.before)

    @property
    def worse(self) -> bool:
        """Worse by more than the limit. A number that was there before and is gone, or is NaN now, is worse."""
        if self.before is None:
            return False
        if self.after is None or self.after != self.after:
            return True
        more_is_worse = METRICS[self.metric][1]
        step = (self.after - self.before) if more_is_worse else (self.before - self.after)
        return step > abs(self.before) * self.limit / 100


def limits(texts: Sequence[str]) -> dict[str, float]:
    """`["median:5%", "size:1%"]` as numbers.

    Raises:
        InputError: an unknown metric or a percentage that is not one.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition(":")
        try:
            percent = float(value.removesuffix("%"))
        except ValueError:
            percent = -1.0
        if name not in METRICS or not 0 <= percent < float("inf"):
            raise InputError(
                f"--fail {text!r} is not a limit.",
                f"it is METRIC:PERCENT, where METRIC is one of {', '.join(METRICS)}.",
                "for example --fail median:5% --fail size:1%.",
            )
        found[name] = percent
    return found


def compare(before: Path | str, after: Path | str, limit: Mapping[str, float]) -> list[Change]:
    """Every limited metric of every row of `before`, in its order.

    Raises:
        InputError: a file is not a bench or a run, or they have no target in common.
    """
    old, new = _rows(Path(before)), _rows(Path(after))
    if not old.keys() & new.keys():
        raise InputError(
            f"{before} and {after} have no target in common.",
            f"the first has {', '.join(old) or 'none'}; the second {', '.join(new) or 'none'}.",
            "compare two benches of the same bundles, or two runs.",
        )
    changes = []
    for target, row in old.items():
        for metric, percent in limit.items():
            name = METRICS[metric][0]
            now = getattr(new[target], name) if target in new else None
            changes.append(Change(target, metric, getattr(row, name), now, percent))
    return [c for c in changes if c.before is not None or c.after is not None]


_SPEED = ("cpu", "arch", "cores", "board")  # facts of a device without which times can't be compared


def table(changes: Sequence[Change]) -> str:
    """Text for a terminal: a line for each change."""
    from edge_lab.report.findings import number
    from edge_lab.report.text import aligned

    head = ["", "target", "metric", "before", "after", "change"]
    rows = [
        [
            "FAIL" if c.worse else "PASS",
            c.target,
            c.metric,
            number(c.before),
            number(c.after),
            "gone" if c.percent is None else f"{c.percent:+.1f} %",
        ]
        for c in changes
    ]
    return "\n".join(aligned([head, *rows], left=3))


def cautions(before: Path | str, after: Path | str) -> tuple[str, ...]:
    """Why the times of two files may not be comparable, as sentences: other devices, busy machines, recordings.

    Files without facts about their machine say nothing: all that can be said of them is their numbers.
    """
    old, new = (_read(Path(path)) for path in (before, after))
    devices = [d.get("device") or d.get("machine") or {} for d in (old, new)]
    both = [k for k in _SPEED if all(k in facts for facts in devices)]
    found = [
        f"times of two machines, {k}: {devices[0][k]}, then {devices[1][k]}"
        for k in both
        if devices[0][k] != devices[1][k]
    ]
    for path, document in ((before, old), (after, new)):
        gate = document.get("gate") or {}
        found += [f"{path}: {reason}" for reason in gate.get("reasons", ())]
        if document.get("recorded"):
            found.append(f"{path} is a recording, from {document['recorded']['source']}")
    return tuple(found)


def as_row(item: Measurement, label: str | None = None) -> TargetResult:
    """A measurement as a row of a run, under `label` (default: its name)."""
    quality, start, memory, firmware = item.quality, item.start, item.memory, item.firmware
    timed = item.latency.scenario != "emulated"  # the time that an emulator takes says nothing of the device
    peak = _known(memory.peak_mb) if memory else firmware.ram_bytes / 1e6 if firmware else None
    return TargetResult(
        target=label or item.name,
        format=item.format or "",
        precision=item.precision or "",
        size_mb=None if item.size_bytes is None else item.size_bytes / 1e6,
        delegated=item.delegated,
        top1=quality.top1 if quality else None,
        top5=quality.top5 if quality else None,
        agreement=quality.agreement if quality else None,
        sqnr_db=quality.sqnr_db if quality else None,
        answers=quality.images if quality else None,
        load_ms=_known(start.load_ms) if start else None,
        first_ms=_known(start.first_ms) if start else None,
        p50_ms=item.latency.p50_ms if timed else None,
        p90_ms=item.latency.p90_ms if timed else None,
        samples_ms=item.latency.samples_ms if timed else (),
        peak_mb=peak,
        delta_mb=_known(memory.delta_mb) if memory else None,
        instructions=firmware.instructions if firmware else None,
        notes=item.notes,
    )


def _known(value: float) -> float | None:
    return value if value == value else None


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read.", f"{error.strerror}.", "check the path.") from error
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def _rows(path: Path) -> dict[str, TargetResult]:
    document = _read(path)
    if is_measurements(document):
        found = from_json(document, str(path))
        return {label: as_row(item, label) for label, item in zip(found.labels, found, strict=True)}
    try:
        rows = _converter().structure(document["rows"], tuple[TargetResult, ...])
    except Exception as error:  # a missing key, or cattrs' own group of errors
        raise InputError(
            f"{path} holds no measurements and is no run.",
            f"it has no readable rows: {type(error).__name__}.",
            "make one with `edge-lab bench BUNDLE --json FILE` or `edge-lab run` (run.json).",
        ) from error
    return {row.target: row for row in rows}


@cache
def _converter() -> Any:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook(float | None, lambda v, _: None if v is None else float(v))
    return converter
