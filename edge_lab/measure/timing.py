"""Time a call honestly: warm-up, interleaving, percentiles, raw samples kept.

Every sample is read from two clocks. Wall time is what a user waits for; CPU time (of the whole process) is what the
work costs. On one thread and an idle machine they agree. On a busy machine CPU time stays within a few percent while
wall time can be several times off, so statistics use CPU time on one thread and wall time otherwise.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import comb
from typing import Any, Literal

import numpy as np

from edge_lab.core.errors import InputError

Clock = Literal["cpu", "wall"]
Scenario = Literal["single_stream", "offline_batch", "cold_start", "emulated"]
BUSY = 1.3  # wall time over CPU time on one thread; above it, other processes held the core


@dataclass(frozen=True)
class Latency:
    """Samples of one call, in seconds, in the order they were taken.

    `samples_s` are wall times and `cpu_s` CPU times of the same calls; `clock` names the one that the statistics use.
    `warmup` calls ran before and are not included; `batch` is the number of inputs in one call. Where one clock alone
    was kept (a device that can't tell CPU time, a run's table), the samples of the other are empty.
    """

    samples_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    warmup: int
    threads: int = 1
    batch: int = 1
    scenario: Scenario = "single_stream"
    clock: Clock = "cpu"

    def __post_init__(self) -> None:
        one_clock = self.times and not (self.samples_s and self.cpu_s)
        if not self.times or (len(self.samples_s) != len(self.cpu_s) and not one_clock):
            raise InputError(
                f"a latency needs samples from both clocks, got {len(self.samples_s)} wall and {len(self.cpu_s)} CPU.",
                "percentiles of nothing do not exist, and the clocks are compared sample by sample.",
                "measure with at least one round.",
            )

    @property
    def times(self) -> tuple[float, ...]:
        """The samples that the statistics are taken from, in seconds."""
        return self.cpu_s if self.clock == "cpu" else self.samples_s

    def percentile(self, q: float) -> float:
        """The `q`-th percentile (0-100) in seconds, interpolated linearly."""
        return float(np.percentile(self.times, q))

    @property
    def p50(self) -> float:
        """Median, in seconds."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """90th percentile, in seconds."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """99th percentile, in seconds; with fewer than 100 samples it is close to the largest one."""
        return self.percentile(99)

    @property
    def p50_ms(self) -> float:
        """Median, in milliseconds."""
        return 1e3 * self.p50

    @property
    def p90_ms(self) -> float:
        """90th percentile, in milliseconds."""
        return 1e3 * self.p90

    @property
    def p99_ms(self) -> float:
        """99th percentile, in milliseconds."""
        return 1e3 * self.p99

    @property
    def mean(self) -> float:
        """Mean, in seconds; one outlier moves it, so prefer `p50`."""
        return float(np.mean(self.times))

    @property
    def iqr(self) -> float:
        """Distance between the quartiles, in seconds."""
        return self.percentile(75) - self.percentile(25)

    @property
    def outliers(self) -> int:
        """Samples more than 1.5 interquartile ranges outside the quartiles (Tukey's rule, as pytest-benchmark)."""
        low, high = self.percentile(25) - 1.5 * self.iqr, self.percentile(75) + 1.5 * self.iqr
        return sum(not low <= t <= high for t in self.times)

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """The samples behind the statistics, in milliseconds."""
        return tuple(1e3 * t for t in self.times)

    @property
    def per_second(self) -> float:
        """Inputs per second at the median: the figure of the offline scenario."""
        return self.batch / self.p50 if self.p50 > 0 else float("inf")

    @property
    def busy(self) -> bool:
        """Whether something else held the core: median wall time over 1.3 x median CPU time, on one thread.

        A call that waits (a GPU, a neural engine, a disk) looks the same; time it with clock="wall".
        """
        if not self.cpu_s or not self.samples_s or self.threads > 1:
            return False
        cpu = float(np.median(self.cpu_s))
        return float(np.median(self.samples_s)) > BUSY * cpu

    @property
    def note(self) -> str:
        """A label for tables: empty, or what to know before quoting the numbers. No number in it differs from row to
        row, so that a report can say it once for all.
        """
        if not self.cpu_s or not self.samples_s:
            return ""
        wall, cpu = float(np.median(self.samples_s)), float(np.median(self.cpu_s))
        if self.busy:
            return f"machine busy or call waiting: wall time is over {BUSY}x CPU time" if cpu else "no CPU time"
        if self.threads == 1 and cpu > BUSY * wall:
            return f"not on one thread: CPU time is over {BUSY}x wall time"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads them back."""
        return asdict(self) | {"samples_s": list(self.samples_s), "cpu_s": list(self.cpu_s)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Latency:
        """The inverse of `to_dict`."""
        tuples = {key: tuple(float(t) for t in values[key]) for key in ("samples_s", "cpu_s")}
        return Latency(**{**values, **tuples})


@dataclass(frozen=True)
class Ratio:
    """How many times as long one call takes as another: the median of paired ratios and its interval.

    `low` and `high` hold the true median with probability `level` (order statistics, no distribution assumed).
    """

    value: float
    low: float
    high: float
    pairs: int
    level: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 outside."""
        return self.low > 1 or self.high < 1

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def latency(
    run: Callable[..., Any],
    x: Any = None,
    *,
    warmup: int = 5,
    rounds: int = 30,
    min_seconds: float = 0.0,
    max_seconds: float = 60.0,
    threads: int | None = None,
    clock: Clock | None = None,
) -> Latency:
    """Time `run(x)` (or `run()` when x is None), a function or a Session.

    Args:
        run: what to call. Below about 20 us a call, reading the clocks is a visible part of it.
        x: the input; its first dimension is the batch.
        warmup: calls before timing starts: caches, lazy initialisation, branch predictors.
        rounds: timed calls.
        min_seconds: go on after `rounds` until this much wall time is spent.
        max_seconds: stop early after this much wall time (at least one sample is kept).
        threads: threads that `run` uses; default: its `threads` attribute, or 1.
        clock: "cpu" or "wall"; default: CPU time on one thread, wall time otherwise.
    """
    _check_counts(warmup, rounds)
    call = run if x is None else partial(run, x)
    for _ in range(warmup):
        call()
    wall: list[float] = []
    cpu: list[float] = []
    start = time.perf_counter()
    while True:
        _sample(call, wall, cpu)
        spent = time.perf_counter() - start
        if spent >= max_seconds or (len(wall) >= rounds and spent >= min_seconds):
            break
    batch = int(x.shape[0]) if len(getattr(x, "shape", ())) > 1 else 1
    return _make(wall, cpu, warmup, _threads(run, threads), clock, batch)


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 30,
    warmup: int = 5,
    threads: int | None = None,
    clock: Clock | None = None,
    seed: int = 0,
) -> dict[str, Latency]:
    """Time several calls in turn, one of each per round, so that drift and noise hit all alike.

    The order within a round is shuffled (reproducibly, by `seed`), because a call can leave caches warm for the next.
    Samples of the same round are pairs: compare two of the results with `ratio`.
    """
    _check_counts(warmup, rounds)
    rng = random.Random(seed)
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(warmup + rounds):
        for name in rng.sample(list(calls), len(calls)):
            if i < warmup:
                calls[name]()
            else:
                _sample(calls[name], wall[name], cpu[name])
    return {n: _make(wall[n], cpu[n], warmup, _threads(calls[n], threads), clock) for n in calls}


def ratio(a: Latency, b: Latency, *, level: float = 0.95) -> Ratio:
    """Median of a/b over the rounds of one `interleaved` run, with its interval.

    Below 1, `a` is faster. With fewer than six pairs no 95 % interval exists: the one returned then spans all pairs and
    carries the level it really has.
    """
    if len(a.times) != len(b.times) or a.clock != b.clock:
        raise InputError(
            f"{len(a.times)} samples of {a.clock} time can't be paired with {len(b.times)} of {b.clock} time.",
            "a ratio is taken round by round, so that both calls saw the same machine.",
            "time both in one call: interleaved({'a': f, 'b': g}).",
        )
    pairs = sorted(s / t for s, t in zip(a.times, b.times, strict=True) if t > 0)
    n = len(pairs)
    if not n:
        raise InputError(
            "every sample is 0 s.",
            "the clock is too coarse for a call this short.",
            "time a loop of 100 calls instead.",
        )
    tail, k = 2.0**-n, 0  # tail: the chance that at most k of n samples lie below the true median
    while k + 1 < n - k - 1 and 2 * (tail + comb(n, k + 1) / 2**n) <= 1 - level:
        k += 1
        tail += comb(n, k) / 2**n
    return Ratio(float(np.median(pairs)), pairs[k], pairs[n - 1 - k], n, max(0.0, 1 - 2 * tail))


def load_per_core() -> float | None:
    """One-minute load average per core; None where the system has none."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def _sample(call: Callable[[], Any], wall: list[float], cpu: list[float]) -> None:
    w0, c0 = time.perf_counter(), time.process_time()
    call()
    c1, w1 = time.process_time(), time.perf_counter()
    wall.append(w1 - w0)
    cpu.append(c1 - c0)


def _make(
    wall: list[float], cpu: list[float], warmup: int, threads: int, clock: Clock | None, batch: int = 1
) -> Latency:
    scenario: Scenario = "offline_batch" if batch > 1 else "single_stream"
    return Latency(
        tuple(wall), tuple(cpu), warmup, threads, batch, scenario, clock or ("cpu" if threads == 1 else "wall")
    )


def _threads(run: object, threads: int | None) -> int:
    found = threads if threads is not None else getattr(run, "threads", 1)
    return found if isinstance(found, int) else 1


def _check_counts(warmup: int, rounds: int) -> None:
    if warmup < 0 or rounds < 1:
        raise InputError(
            f"warmup={warmup} and rounds={rounds} can't be measured.",
            "at least one timed call is needed, and no call can be left out that never ran.",
            "use warmup >= 0 and rounds >= 1 (30 is a good start).",
        )
