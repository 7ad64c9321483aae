"""A run's timings as a file of measurements beside run.json, in the form that every other tool writes."""

from __future__ import annotations

from collections.abc import Sequence

from edge_lab.bundle.folder import Bundle
from edge_lab.flow.jobs import EAGER
from edge_lab.flow.rows import Measured
from edge_lab.measure.host import machine, versions
from edge_lab.measure.record import Engine, Measurement, Measurements, Quality, now
from edge_lab.results.readiness import Gate
from edge_lab.results.result import TargetResult

NAME = "measurements.json"


def kept(measured: Measured, table: Sequence[TargetResult], gate: Gate, dataset: str, command: str) -> Measurements:
    """One measurement for each row that was timed; `table` are the rows of `measured`."""
    items = tuple(_item(row, measured, dataset) for row in table if row.target in measured.timings)
    return Measurements("edge-lab", command, now(), machine(), gate, versions(), items)


def _item(row: TargetResult, measured: Measured, dataset: str) -> Measurement:
    images = len(measured.outputs[row.target][0])
    quality = Quality(dataset, images, row.top1, row.top5, row.agreement, row.sqnr_db)
    latency, installed, model = measured.timings[row.target], versions(), measured.model.spec.name
    size = None if row.size_mb is None else round(1e6 * row.size_mb)
    if row.target == EAGER or row.bundle is None:
        engine = Engine("torch", installed.get("torch"))
        return Measurement(
            f"{model}/{row.target}-{row.precision}", engine, latency, model, size_bytes=size, quality=quality
        )
    bundle, answer = Bundle.load(row.bundle, verify=False), measured.done[row.target].value
    fresh = answer.fresh if answer else None
    return Measurement(
        bundle.name,
        Engine(bundle.runtime.package, installed.get(bundle.runtime.package)),
        latency,
        model,
        row.target,
        row.format,
        row.precision,
        size,
        row.delegated,
        fresh.cpu if fresh else None,
        fresh.memory if fresh else None,
        quality=quality,
        notes=row.notes,
    )
