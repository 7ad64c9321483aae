"""Time bundles side by side, in named scenarios, on pinned threads, and say whether the machine was fit for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.measure.cold import ColdStart, Fresh, Memory, fresh
from edge_lab.measure.measured import measurement_of
from edge_lab.measure.record import Measurement, Measurements, Quality, now
from edge_lab.measure.timing import Clock, Latency, Scenario
from edge_lab.results.readiness import Gate, WhenBusy, fit

if TYPE_CHECKING:
    from edge_lab.bundle.folder import Bundle
    from edge_lab.formats.runtime import Session
    from edge_lab.measure.joules import Energy

SCENARIOS: tuple[Scenario, ...] = ("single_stream", "offline_batch", "cold_start")


@dataclass(frozen=True)
class BenchConfig:
    """How to measure.

    `threads`: each count in turn. `rounds`: samples of each bundle in single_stream; offline_batch takes a tenth of
    them (at least 5), cold_start a tenth (at least 3). `pin`: bind the process to as many cores as threads. `energy`:
    also joules, by the counters of the machine, or estimated if `watts_per_core` is given.
    """

    threads: tuple[int, ...] = (1,)
    rounds: int = 30
    warmup: int = 5
    scenarios: tuple[Scenario, ...] = ("single_stream",)
    when_busy: WhenBusy = "label"
    pin: bool = True
    energy: bool = False
    watts_per_core: float | None = None

    def __post_init__(self) -> None:
        unknown = [s for s in self.scenarios if s not in SCENARIOS]
        if unknown or not self.scenarios or not self.threads or min((*self.threads, self.rounds)) < 1:
            raise InputError(
                f"{self!r} can't be measured.",
                f"there is no scenario {unknown[0]!r}." if unknown else "at least one of each is needed.",
                f"scenarios are {', '.join(SCENARIOS)}; threads and rounds are 1 or more.",
            )


def bench(
    bundles: Sequence[Path | str], config: BenchConfig | None = None, *, command: str = "", tool: str = "edge-lab"
) -> Measurements:
    """Measure bundles: latency interleaved in this process, start and memory each in a process of its own.

    Args:
        bundles: folders.
        config: how; default `BenchConfig()`.
        command: what to record as the command that made it.
        tool: what to record as the tool.

    Raises:
        BundleError, MissingTool: a bundle is unusable, or can't run on this machine.
        EdgeLabError: the machine is busy, and the config says to refuse it.
    """
    from edge_lab.bundle.folder import Bundle
    from edge_lab.measure.host import machine, versions
    from edge_lab.results.readiness import gate

    config = config or BenchConfig()
    opened = {str(path): Bundle.load(path) for path in bundles}
    before, date = fit(config.when_busy), now()
    starts = _starts(list(opened), max(3, config.rounds // 10) if "cold_start" in config.scenarios else 1)
    items: list[Measurement] = []
    for threads in config.threads:
        items += _warm(opened, threads, config, starts)
    if "cold_start" in config.scenarios:
        items += [_cold(bundle, starts[path]) for path, bundle in opened.items()]
    state = before.worst(gate()).worst(_seen(items))
    return Measurements(tool, command, date, machine(), state, versions(), tuple(items))


def _warm(
    opened: dict[str, Bundle], threads: int, config: BenchConfig, starts: dict[str, list[Fresh]]
) -> list[Measurement]:
    """The scenarios that run in this process, at one thread count."""
    from contextlib import nullcontext

    from edge_lab.formats.runtime import load
    from edge_lab.measure.pin import pinned
    from edge_lab.measure.timing import interleaved

    warm = [s for s in config.scenarios if s != "cold_start"]
    if not warm:
        return []
    items = []
    with pinned(threads) if config.pin else nullcontext(None) as cores:
        sessions = {path: load(bundle, threads=threads) for path, bundle in opened.items()}
        inputs = {path: _inputs(bundle) for path, bundle in opened.items()}
        for scenario in warm:
            calls = {p: _call(s, inputs[p], scenario) for p, s in sessions.items()}
            rounds = config.rounds if scenario == "single_stream" else max(5, config.rounds // 10)
            times = interleaved(calls, rounds=rounds, warmup=config.warmup, threads=threads)
            for path, bundle in opened.items():
                batch = 1 if scenario == "single_stream" else len(inputs[path])
                latency = replace(times[path], scenario=scenario, batch=batch)
                joules = _energy(calls[path], batch, config) if config.energy else None
                items.append(_item(bundle, latency, starts[path], cores, joules))
    return items


def _call(session: Session, inputs: list[np.ndarray], scenario: Scenario) -> Any:
    if scenario == "single_stream":
        return partial(session.run, inputs[0])

    def all_of_them() -> None:
        for x in inputs:
            session.run(x)

    return all_of_them


def _inputs(bundle: Bundle) -> list[np.ndarray]:
    """The golden inputs; zeros of the right shape for a bundle without any."""
    found = [x for _, x, _ in bundle.golden_cases()]
    return found or [np.zeros(bundle.spec.input.shape, bundle.spec.input.dtype)]


def _energy(call: Any, batch: int, config: BenchConfig) -> Energy:
    from edge_lab.measure.joules import energy

    found = energy(call, watts_per_core=config.watts_per_core)
    return found if found.joules is None else replace(found, joules=found.joules / batch)


def _starts(paths: list[str], processes: int) -> dict[str, list[Fresh]]:
    """Fresh processes of each bundle, in turn, in another order each time."""
    rng = random.Random(0)
    found: dict[str, list[Fresh]] = {path: [] for path in paths}
    for _ in range(processes):
        for path in rng.sample(paths, len(paths)):
            found[path].append(fresh(path))
    return found


def _cold(bundle: Bundle, starts: list[Fresh]) -> Measurement:
    wall = tuple(s.wall.total_ms / 1e3 for s in starts)
    cpu = tuple(s.cpu.total_ms / 1e3 for s in starts)
    return _item(bundle, Latency(wall, cpu, 0, 1, 1, "cold_start", "wall"), starts, None, None)


def _item(
    bundle: Bundle, latency: Latency, starts: list[Fresh], cores: tuple[int, ...] | None, joules: Energy | None
) -> Measurement:
    return measurement_of(
        bundle,
        latency,
        start=_steps(starts, latency.clock),
        memory=Memory(*(_median([getattr(s.memory, f) for s in starts]) for f in _MEMORY)),
        energy=joules,
        quality=_quality(bundle),
        pinned_cpus=cores,
    )


_MEMORY = ("baseline_mb", "loaded_mb", "peak_mb")
_STEPS = ("import_ms", "load_ms", "first_ms", "steady_ms")


def _steps(starts: list[Fresh], clock: Clock) -> ColdStart:
    return ColdStart(*(_median([getattr(getattr(s, clock), step) for s in starts]) for step in _STEPS))


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _quality(bundle: Bundle) -> Quality | None:
    """What was recorded when the bundle was tried on pictures; nothing is measured here."""
    known = bundle.metrics
    if not isinstance(known.get("answers"), (int, float)):
        return None
    numbers = {k: v for k in ("top1", "top5", "agreement", "sqnr_db") if isinstance(v := known.get(k), (int, float))}
    images = int(known["answers"])  # type: ignore[arg-type]
    return Quality("recorded in the bundle", images, **numbers)


def _seen(items: list[Measurement]) -> Gate:
    """What the samples themselves say: wall time far over CPU time means that others held the core."""
    busy = [item.name for item in items if item.latency.scenario != "cold_start" and item.latency.busy]
    return Gate("busy", reasons=("other processes held the core while it was measured.",)) if busy else Gate("quiet")
