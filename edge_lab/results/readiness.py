"""Is this machine fit to be measured? A latency taken on a busy or hot machine says more about the machine.

The one-minute load average lags and counts processes, not cores; so the gate looks at what the cores did during a
short pause, less what this process did itself. A busy machine is labelled, waited for, or refused: see `fit`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_lab.core.errors import EdgeLabError

State = Literal["quiet", "busy", "hot", "unknown"]
WhenBusy = Literal["label", "wait", "refuse"]
BUSY_SHARE = 0.15  # of all cores taken by others; above it, two threads no longer have a core each
HOT_C = 80.0  # a Raspberry Pi begins to slow down at 80 degrees, and phones earlier
_ORDER: tuple[State, ...] = ("quiet", "unknown", "busy", "hot")


@dataclass(frozen=True)
class Gate:
    """State of the device. `load_per_core`: share (0-1) of its cores that others used; `reasons`: sentences."""

    state: State
    load_per_core: float | None = None
    temperature_c: float | None = None
    reasons: tuple[str, ...] = ()

    def worst(self, other: Gate) -> Gate:
        """Both gates as one: the worse state, the higher figures, the reasons of both."""
        return Gate(
            max(self.state, other.state, key=_ORDER.index),
            _highest(self.load_per_core, other.load_per_core),
            _highest(self.temperature_c, other.temperature_c),
            tuple(dict.fromkeys((*self.reasons, *other.reasons))),
        )


def gate(seconds: float = 0.5, *, thermal: Path = Path("/sys/class/thermal")) -> Gate:
    """Look at the machine for `seconds` while this process sleeps.

    `load_per_core` counts what the hypervisor took away (steal) as used by others. The temperature is the highest that
    the kernel shows; many virtual machines show none, and then nothing is known of heat.
    """
    import psutil

    own = psutil.Process()
    before, mine = psutil.cpu_times(), sum(own.cpu_times()[:2])
    time.sleep(seconds)
    after, mine = psutil.cpu_times(), sum(own.cpu_times()[:2]) - mine
    cores = psutil.cpu_count() or 1
    idle = sum(getattr(after, name, 0.0) - getattr(before, name, 0.0) for name in ("idle", "iowait"))
    others = max(0.0, min(1.0, (seconds * cores - idle - mine) / (seconds * cores)))
    return judge(others, temperature(thermal))


def judge(load_per_core: float | None, temperature_c: float | None) -> Gate:
    """The gate for these two figures; either may be unknown (None)."""
    if temperature_c is not None and temperature_c >= HOT_C:
        why = f"{temperature_c:.0f} degrees C: from {HOT_C:.0f} on, clocks are lowered to cool the chip."
        return Gate("hot", load_per_core, temperature_c, (why,))
    if load_per_core is None:
        return Gate("unknown", None, temperature_c, ("the load of other processes can't be seen here.",))
    if load_per_core > BUSY_SHARE:
        why = f"other processes use over {100 * BUSY_SHARE:.0f} % of the cores."
        return Gate("busy", load_per_core, temperature_c, (why,))
    return Gate("quiet", load_per_core, temperature_c)


def temperature(thermal: Path = Path("/sys/class/thermal")) -> float | None:
    """The highest temperature that the kernel shows, in degrees C; None where it shows none."""
    found = []
    for zone in sorted(thermal.glob("thermal_zone*/temp")):
        try:
            found.append(int(zone.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):
            continue
    return max((t for t in found if 0 < t < 150), default=None)  # some zones report nonsense when they are off


def fit(when_busy: WhenBusy = "label", *, patience_s: float = 120.0, seconds: float = 0.5) -> Gate:
    """The gate before a measurement.

    Args:
        when_busy: "label" measures anyway and says so in the result; "wait" looks again until the machine is quiet or
            `patience_s` are over; "refuse" raises at once.
        patience_s: longest wait, in seconds.
        seconds: how long each look takes.

    Raises:
        EdgeLabError: the machine is busy or hot, and `when_busy` is "refuse", or "wait" and patience ended.
    """
    end = time.monotonic() + patience_s
    while (now := gate(seconds)).state in ("busy", "hot") and when_busy != "label":
        if when_busy == "refuse" or time.monotonic() >= end:
            raise EdgeLabError(
                f"this machine is {now.state}: nothing was measured.",
                " ".join(now.reasons),
                "end what else runs (or let it cool) and try again; or measure all the same with --when-busy label.",
            )
        time.sleep(min(2.0, max(0.0, end - time.monotonic())))
    return now


def _highest(a: float | None, b: float | None) -> float | None:
    return max((x for x in (a, b) if x is not None), default=None)
