"""Time bundles side by side, and compare two sets of measurements so that a build can refuse a regression."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab.errors import InputError
from edge_lab.files import writing_file
from edge_lab.measure.result import TargetResult


@dataclass(frozen=True)
class Bench:
    """Rows of bundles that were timed in turn; `target` of a row is the bundle's name (model/kind)."""

    rows: tuple[TargetResult, ...]
    threads: int
    rounds: int
    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    date: str

    def save(self, path: Path) -> None:
        """Write as JSON; the file is whole or absent."""
        with writing_file(path) as temporary:
            temporary.write_text(json.dumps(_converter().unstructure(self), indent=1) + "\n", encoding="utf-8")


@cache
def _converter() -> Any:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook(float | None, lambda v, _: None if v is None else float(v))
    return converter


def bench(bundles: Sequence[Path | str], *, threads: int = 1, rounds: int = 30, command: str = "") -> Bench:
    """Measure bundles: latency interleaved in this process, load time and memory each in a process of its own.

    Args:
        bundles: folders.
        threads: CPU threads for every engine. With one thread, times are CPU times, with more wall times.
        rounds: timed calls of each bundle.
        command: what to record as the command that made it.

    Raises:
        BundleError, MissingTool: a bundle is unusable, or can't run on this machine.
    """
    from edge_lab.bundle import Bundle
    from edge_lab.measure.latency import interleaved
    from edge_lab.measure.machine import machine, versions
    from edge_lab.runtime import load

    opened = {str(path): Bundle.load(path) for path in bundles}
    calls = {}
    for key, bundle in opened.items():
        session = load(bundle, threads=threads)
        shape, dtype = bundle.spec.input.shape, bundle.spec.input.dtype
        x = next(iter(bundle.golden_cases()))[1] if bundle.golden else np.zeros(shape, dtype)
        calls[key] = lambda s=session, x=x: s.run(x)
    times = interleaved(calls, rounds=rounds, threads=threads)
    rows = tuple(_row(key, bundle, times[key]) for key, bundle in opened.items())
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Bench(rows, threads, rounds, machine(), versions(), command, date)


def _row(path: str, bundle: Any, times: Any) -> TargetResult:
    from edge_lab.measure.cold import fresh

    found = fresh(path)
    return TargetResult(
        target=bundle.name,
        format=bundle.runtime.format,
        precision=bundle.quantization.scheme,
        bundle=path,
        size_mb=bundle.program_bytes / 1e6,
        delegated=bundle.runtime.delegated,
        load_ms=found.cpu.load_ms,
        first_ms=found.cpu.first_ms,
        p50_ms=times.p50_ms,
        p90_ms=times.p90_ms,
        samples_ms=times.samples_ms,
        peak_mb=found.memory.peak_mb,
        delta_mb=found.memory.delta_mb,
        notes=(times.note,) if times.note else (),
    )


# name on the command line: field of the row, and whether more is worse
METRICS = {
    "median": ("p50_ms", True),
    "p90": ("p90_ms", True),
    "load": ("load_ms", True),
    "first": ("first_ms", True),
    "size": ("size_mb", True),
    "memory": ("peak_mb", True),
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


_SPEED = ("cpu", "arch", "cores")  # facts of `measure.machine` without which times can't be compared


def other_machine(before: Path | str, after: Path | str) -> tuple[str, ...]:
    """What differs between the machines of two benches or runs, as text such as "cpu: A, then B"; empty if nothing.

    Files without facts about their machine differ in nothing: all that can be said of them is their numbers.
    """
    old, new = (_machine(Path(path)) for path in (before, after))
    return tuple(f"{k}: {old[k]}, then {new[k]}" for k in _SPEED if k in old and k in new and old[k] != new[k])


def _machine(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    facts = document.get("machine") if isinstance(document, dict) else None
    return facts if isinstance(facts, dict) else {}


def _rows(path: Path) -> dict[str, TargetResult]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = _converter().structure(document["rows"], tuple[TargetResult, ...])
    except OSError as error:
        raise InputError(f"{path} can't be read.", f"{error.strerror}.", "check the path.") from error
    except Exception as error:  # JSON, a missing key, or cattrs' own group of errors
        raise InputError(
            f"{path} is not a bench and not a run.",
            f"it has no readable rows: {type(error).__name__}.",
            "make one with `edge-lab bench BUNDLE --json FILE` or `edge-lab run` (run.json).",
        ) from error
    return {row.target: row for row in rows}
