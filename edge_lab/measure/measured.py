"""A bundle's facts beside what was measured of it."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from edge_lab.measure.record import Engine, Measurement

if TYPE_CHECKING:
    from edge_lab.bundle.folder import Bundle
    from edge_lab.measure.timing import Latency


def measurement_of(bundle: Bundle, latency: Latency, **more: Any) -> Measurement:
    """The measurement of a bundle's program.

    Args:
        bundle: what ran.
        latency: how long it took.
        more: fields of Measurement that the bundle does not know: start, memory, energy, quality, pinned_cpus, notes.
    """
    facts: dict[str, Any] = {
        "model": bundle.spec.name,
        "target": bundle.target,
        "format": bundle.runtime.format,
        "precision": bundle.quantization.scheme,
        "size_bytes": bundle.program_bytes,
        "delegated": bundle.runtime.delegated,
        "notes": (latency.note,) if latency.note else (),
    }
    return Measurement(bundle.name, Engine(bundle.runtime.package, installed(bundle)), latency, **(facts | more))


def installed(bundle: Bundle) -> str | None:
    """The installed version of a bundle's engine; None if it is not installed."""
    try:
        return metadata.version(bundle.runtime.package)
    except metadata.PackageNotFoundError:
        return None
