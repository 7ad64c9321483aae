"""A file of measurements as a table in the terminal."""

from __future__ import annotations

from edge_lab.measure.record import Firmware, Measurement, Measurements
from edge_lab.report.findings import number
from edge_lab.report.text import aligned

_HEAD = ["", "threads", "p50 ms", "p90 ms", "p99 ms", "per s", "load ms", "first ms", "peak MB", "added MB", "size MB"]
_CLOCK = {"cpu": "CPU time", "wall": "wall time"}


def table(found: Measurements) -> str:
    """One line for each measurement, then how it was measured and what to know before quoting it."""
    joules = any(item.energy for item in found)
    rows = [_row(label, item, joules) for label, item in zip(found.labels, found, strict=True)]
    head = _HEAD + (["mJ each"] if joules else [])
    lines = [found.heading, "", *aligned([head, *rows], left=1), ""]
    lines += [f"{kind}: {text}" for kind, text in how(found)]
    lines += [_firmware(label, item.firmware) for label, item in zip(found.labels, found, strict=True) if item.firmware]
    lines += [f"note: {reason}" for reason in found.gate.reasons]
    lines += [f"note {item.name}: {note}" for item in found for note in item.notes]
    return "\n".join(lines)


def _firmware(label: str, cost: Firmware) -> str:
    return (
        f"firmware {label}: {cost.instructions:,} instructions ({cost.per_mac:.2f} per MAC), "
        f"flash {cost.flash_bytes:,} bytes, RAM {cost.ram_bytes:,} bytes"
    )


def _row(label: str, item: Measurement, joules: bool) -> list[str]:
    times, start, memory = item.latency, item.start, item.memory
    cells = [times.p50_ms, times.p90_ms, times.p99_ms, times.per_second]
    if times.scenario == "emulated":
        cells = [None] * 4  # type: ignore[list-item]  # how long an emulator took is no property of the program
    cells += [start.load_ms, start.first_ms] if start else [None, None]  # type: ignore[list-item]
    cells += [memory.peak_mb, memory.delta_mb] if memory else [None, None]  # type: ignore[list-item]
    cells += [None if item.size_bytes is None else item.size_bytes / 1e6]  # type: ignore[list-item]
    each = item.energy.joules if item.energy else None
    return [label, str(times.threads), *map(number, cells), *([number(each and 1e3 * each)] if joules else [])]


def how(found: Measurements) -> list[tuple[str, str]]:
    """Each kind of measurement once: how many samples, which clock."""
    seen: dict[tuple[str, str], None] = {}
    for item in found:
        times = item.latency
        bound = "" if item.pinned_cpus is None else ", bound to as many cores"
        kind = f"{times.scenario}, {times.threads} thread" + ("s" if times.threads > 1 else "")
        if times.scenario == "emulated":
            seen["emulated", "a program for another device ran in an emulator: instructions are counted, not times"] = (
                None
            )
            continue
        seen[kind, f"{len(times.samples_s)} samples, interleaved, {_CLOCK[times.clock]}{bound}"] = None
    for energy in (item.energy for item in found if item.energy):
        seen["energy", " ".join(part for part in (energy.tier, energy.source, energy.reason) if part)] = None
    return list(seen)
