"""Energy in labelled tiers: measured by counters, estimated from something else, or not available with the reason.

An estimated joule looks just like a measured one, so the tier travels with the number and nothing is estimated unasked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_lab.core.errors import InputError

POWERCAP = Path("/sys/class/powercap")
Tier = Literal["measured", "estimated", "not available"]


@dataclass(frozen=True)
class Energy:
    """Joules per call, and watts meanwhile.

    `source` says of what: "RAPL" counts the whole processor package, "Pi PMIC" every rail of the board that it reports,
    "Android batterystats" one app by the phone's own model. `reason` says why there is none, or what an estimate
    rests on.
    """

    tier: Tier
    joules: float | None = None
    watts: float | None = None
    reason: str = ""
    source: str = ""


def energy(
    call: Callable[[], object],
    *,
    min_seconds: float = 2.0,
    max_calls: int = 1_000_000,
    root: Path = POWERCAP,
    watts_per_core: float | None = None,
) -> Energy:
    """Run `call` for at least `min_seconds` and divide what the counters say by the number of calls.

    Counters count everything that runs, so run nothing else, and compare with `energy(lambda: time.sleep(0.01))` to see
    what idling costs.

    Args:
        call: the work.
        min_seconds: RAPL ticks about once a millisecond, the Pi is read ten times a second; a long run makes the error
            small.
        max_calls: ends the loop for calls that are very short.
        root: where the kernel shows its power counters (Intel and AMD: RAPL).
        watts_per_core: if nothing can be measured, estimate CPU time x this (data sheet: TDP / cores). Without it there
            is no estimate.
    """
    if domains := _packages(root):
        try:
            return _rapl(call, domains, min_seconds, max_calls)
        except PermissionError:
            reason = "RAPL counters are readable by root only: sudo chmod a+r energy_uj"
    elif shutil.which("vcgencmd") and (first := _pmic()):
        return _pi(call, first, min_seconds, max_calls)
    else:
        reason = f"no RAPL counters under {root} (virtual machine, or not Linux on x86)"
    if watts_per_core is None:
        return Energy("not available", reason=reason)
    cpu, wall, calls = _loop(call, min_seconds, max_calls)
    why = f"CPU time x {watts_per_core:g} W per core as given; {reason}"
    return Energy("estimated", watts_per_core * cpu / calls, watts_per_core * cpu / wall, why)


def pmic_watts(text: str) -> float | None:
    """Sum of volts x amperes over the rails in the answer of `vcgencmd pmic_read_adc` (Raspberry Pi 5).

    None if no rail has both. The 5 V input itself has no current sensor there, so losses of the regulators are missing.
    """
    found = re.findall(r"^\s*(\w+)_([AV])\s+\w+\(\d+\)=([\d.]+)[AV]\s*$", text, re.MULTILINE)
    volts = {name: float(value) for name, kind, value in found if kind == "V"}
    amperes = {name: float(value) for name, kind, value in found if kind == "A"}
    rails = volts.keys() & amperes.keys()
    return sum(volts[name] * amperes[name] for name in rails) if rails else None


def batterystats_energy(text: str, uid: int, *, calls: int, volts: float = 3.85) -> Energy:
    """Energy of one Android app from `adb shell dumpsys batterystats --checkin`, reset before `calls` inferences.

    The phone multiplies times by a table of currents (power_profile.xml); only its sum is held against the battery. So
    this is an estimate, and is called one.

    Args:
        text: what the command printed.
        uid: the app's user id (`adb shell dumpsys package NAME`).
        calls: inferences since the reset.
        volts: nominal voltage of the battery.

    Raises:
        InputError: the text is no check-in, or calls is not positive.
    """
    if calls < 1 or not re.search(r"^9,\d+,[il],", text, re.MULTILINE):
        raise InputError(
            f"no energy per call can be read for {calls} calls.",
            "the text is not what `dumpsys batterystats --checkin` prints." if calls > 0 else "a call count is needed.",
            "adb shell dumpsys batterystats --reset; run the app; adb shell dumpsys batterystats --checkin > file",
        )
    line = re.search(rf"^9,{uid},l,pwi,uid,([\d.]+)", text, re.MULTILINE)
    if line is None:
        return Energy("not available", reason=f"batterystats names no power use of uid {uid}")
    joules = float(line.group(1)) / 1000 * 3600 * volts  # mAh
    why = f"the phone's own model: {line.group(1)} mAh at {volts:g} V over {calls} calls"
    return Energy("estimated", joules / calls, None, why, "Android batterystats")


def _rapl(call: Callable[[], object], domains: list[Path], min_seconds: float, max_calls: int) -> Energy:
    before = [_read(domain / "energy_uj") for domain in domains]
    _, seconds, calls = _loop(call, min_seconds, max_calls)
    after = [_read(domain / "energy_uj") for domain in domains]
    spans = [_read(domain / "max_energy_range_uj") + 1 for domain in domains]
    joules = sum((b - a) % span for a, b, span in zip(before, after, spans, strict=True)) / 1e6
    return Energy("measured", joules / calls, joules / seconds, source="RAPL")


def _pi(call: Callable[[], object], first: float, min_seconds: float, max_calls: int) -> Energy:
    readings, done = [first], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if (now := _pmic()) is not None:
                readings.append(now)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        _, seconds, calls = _loop(call, min_seconds, max_calls)
    finally:
        done.set()
        watcher.join()
    watts = sum(readings) / len(readings)
    return Energy("measured", watts * seconds / calls, watts, f"{len(readings)} readings, mean", "Pi PMIC")


def _pmic() -> float | None:
    try:
        done = subprocess.run(["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return pmic_watts(done.stdout)


def _loop(call: Callable[[], object], min_seconds: float, max_calls: int) -> tuple[float, float, int]:
    """CPU seconds, wall seconds, and how many calls fitted in."""
    start, cpu, calls = time.perf_counter(), time.process_time(), 0
    while calls < max_calls and (calls == 0 or time.perf_counter() - start < min_seconds):
        call()
        calls += 1
    return time.process_time() - cpu, time.perf_counter() - start, calls


def _packages(root: Path) -> list[Path]:
    """Package domains (intel-rapl:0, ...), not the sub-domains inside them; AMD uses the same names."""
    return sorted(p for p in root.glob("intel-rapl:*") if p.name.count(":") == 1 and (p / "energy_uj").exists())


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
