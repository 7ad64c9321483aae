"""Energy, only where it can be measured. There are no estimates here: a made-up joule looks just like a real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """Joules per call of the whole processor package (every process on it), or the reason why there are none."""

    tier: Literal["measured (RAPL)", "not available"]
    joules: float | None = None
    watts: float | None = None
    reason: str = ""


def energy(
    call: Callable[[], object], *, min_seconds: float = 2.0, max_calls: int = 1_000_000, root: Path = POWERCAP
) -> Energy:
    """Run `call` for at least `min_seconds` and divide what the RAPL counters say by the number of calls.

    RAPL counts the whole package, so run nothing else, and compare with `energy(lambda: time.sleep(0.01))` to see what
    idling costs.

    Args:
        call: the work.
        min_seconds: the counters tick about once a millisecond; a long run makes that error small.
        max_calls: ends the loop for calls that are very short.
        root: where the kernel shows its power counters.
    """
    domains = _packages(root)
    if not domains:
        return Energy("not available", reason=f"no RAPL counters under {root} (virtual machine, or not Linux on x86)")
    try:
        before = [_read(domain / "energy_uj") for domain in domains]
        start, calls = time.perf_counter(), 0
        while calls < max_calls and (calls == 0 or time.perf_counter() - start < min_seconds):
            call()
            calls += 1
        seconds = time.perf_counter() - start
        after = [_read(domain / "energy_uj") for domain in domains]
        spans = [_read(domain / "max_energy_range_uj") + 1 for domain in domains]
    except PermissionError:
        return Energy("not available", reason="RAPL counters are readable by root only: sudo chmod a+r energy_uj")
    joules = sum((b - a) % span for a, b, span in zip(before, after, spans, strict=True)) / 1e6
    return Energy("measured (RAPL)", joules / calls, joules / seconds)


def _packages(root: Path) -> list[Path]:
    """Package domains (intel-rapl:0, ...), not the sub-domains inside them; AMD uses the same names."""
    return sorted(p for p in root.glob("intel-rapl:*") if p.name.count(":") == 1 and (p / "energy_uj").exists())


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
