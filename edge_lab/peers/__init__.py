"""Peers in one table: the same model, the same images, the same run, in every engine that is there.

    table = edge_lab.peers.compare("efficientnet_lite0")
    print(table); table.plot().savefig("roofline.png"); table.measured.save("today.json")

Each engine has a process of its own, in the environment that holds it (`python tools/peers.py env peers|litert`). One
that crashes, hangs or is not installed is a row that says so.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab.core.numbers import finite_db
from edge_lab.data import ImageSet
from edge_lab.measure.host import machine, versions
from edge_lab.measure.peaks import bytes_moved, flops
from edge_lab.measure.record import Engine, Measurement, Measurements, Quality, now
from edge_lab.peers.engines import PEERS, Peer, choose
from edge_lab.peers.inputs import Tried, calibration, tried
from edge_lab.peers.peak import Peaks, peaks
from edge_lab.peers.prepare import Program, programs
from edge_lab.peers.rounds import PATIENT, Limits, Seen, measure
from edge_lab.peers.table import PeerRow, PeerTable
from edge_lab.quality.accuracy import score
from edge_lab.quality.agreement import outputs_of, parity
from edge_lab.results.readiness import fit
from edge_lab.zoo import Model, create

__all__ = ["PEERS", "Peaks", "Peer", "PeerRow", "PeerTable", "Program", "choose", "compare", "compare_programs"]

_ENOUGH_LABELS = 20  # below that a percentage of right answers says nothing


def compare(
    model: str | Model,
    *,
    engines: Sequence[str] | None = None,
    images: ImageSet | None = None,
    calibrate: ImageSet | None = None,
    limit: int | None = None,
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
    out: Path | str = "artifacts",
    command: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> PeerTable:
    """Run one model in every engine and measure them side by side.

    Args:
        model: a zoo name, "torchvision:NAME", "timm:NAME", "my_model.py:build", or a Model.
        engines: names of engines or rows, or patterns; None: all of them.
        images: what to run. Default: the ImageNet sample where it is, else crops of shipped photos; for a model that
            hears, shipped recordings.
        calibrate: what int8 is calibrated with, 32 of them. Default: crops of other shipped photos.
        limit: at most so many images (100).
        threads: numbers of threads, each measured with fresh processes.
        rounds: turns of each engine, of three timed calls each.
        out: programs are kept here, by content.
        command: to be recorded; default: that of this process.
        log: gets a line for every stage.

    Raises:
        EdgeLabError: the model, the images or the names of engines are unusable. An engine's failure is a row.
    """
    chosen = choose(engines)
    built = create(model) if isinstance(model, str) else model
    calibrated = calibration(built, calibrate)
    inputs = tried(built, images, limit, calibrated)
    source = f"{len(calibrated)} inputs of {calibrated.name}" if calibrated else "nothing"
    made = programs(built, chosen, calibrated or (), out=Path(out), log=log)
    return compare_programs(built, made, inputs, source, threads=threads, rounds=rounds, command=command, log=log)


def compare_programs(
    model: Model,
    made: Sequence[Program],
    inputs: Tried,
    source: str,
    *,
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
    command: str | None = None,
    extra: Sequence[Path] = (),
    limits: Limits = PATIENT,
    log: Callable[[str], None] = lambda _: None,
) -> PeerTable:
    """The measuring half of `compare`, for programs that are there; `extra` are files with further engines."""
    date, before = now(), fit("label")
    found: dict[int, list[Seen]] = {}
    limits_of_cpu: list[Peaks] = []
    with tempfile.TemporaryDirectory(prefix="edge-lab-peers-") as name:
        folder = Path(name)
        np.save(folder / "one.npy", np.ascontiguousarray(inputs.x[:1]))
        np.save(folder / "all.npy", inputs.x)
        for count in threads:
            first = peaks(count)
            found[count] = measure(
                made,
                count,
                rounds,
                folder=folder,
                outputs=count == threads[0],
                extra=extra,
                limits=limits,
                log=log,
            )
            limits_of_cpu.append(first.best(peaks(count)))
    from edge_lab.formats.runtime import eager

    reference = outputs_of(eager(model), (inputs.x[i : i + 1] for i in range(len(inputs.x))))
    work = flops(model.module, model.spec.input.shape)
    rows = tuple(_row(i, found, limits_of_cpu, reference, inputs, model, work) for i in range(len(made)))
    measured = Measurements(
        "edge-lab",
        command if command is not None else shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        date,
        machine(),
        before.worst(fit("label")),
        versions() | {row.engine: row.version for row in rows if row.version},
        tuple(_measurements(rows, found, model, inputs)),
    )
    return PeerTable(
        model=model.spec.name,
        weights=model.spec.weights,
        rows=rows,
        measured=measured,
        peaks=tuple(limits_of_cpu),
        flops=work,
        weight_bytes=sum(p.nbytes for p in (*model.module.parameters(), *model.module.buffers())),
        moved_bytes=bytes_moved(model.module, model.spec.input.shape),
        rounds=rounds,
        dataset=inputs.name,
        images=len(inputs.x),
        calibration=source,
    )


def _row(
    i: int,
    found: dict[int, list[Seen]],
    limits: Sequence[Peaks],
    reference: np.ndarray,
    inputs: Tried,
    model: Model,
    work: int,
) -> PeerRow:
    runs = {count: seen[i] for count, seen in found.items()}
    first = next(iter(runs.values()))
    program, peer = first.program, first.program.peer
    quality = _quality(first, reference, inputs, model)
    p50 = {n: t.p50_ms for n, one in runs.items() if (t := one.latency(n))}
    tops = {p.threads: p.of(peer.roof) for p in limits}
    start, memory = first.start, first.memory
    notes = list(peer.notes) if first.version else []
    notes += _ties(first, reference, model)
    notes += [f"{n} thread(s): {t.note}" for n, one in runs.items() if (t := one.latency(n)) and t.note]
    problems = {one.problem: None for one in runs.values() if one.problem}
    return PeerRow(
        peer,
        first.version,
        program.size_bytes / 1e6 if program.path else None,
        start.import_ms if start else None,
        start.load_ms if start else None,
        p50,
        {n: work / (1e6 * ms * top) for n, ms in p50.items() if (top := tops[n])},
        memory.peak_mb if memory else None,
        memory.delta_mb if memory else None,
        **quality,
        problem=program.missing or "; ".join(problems),
        notes=tuple(notes),
    )


def _quality(one: Seen, reference: np.ndarray, inputs: Tried, model: Model) -> dict[str, Any]:
    outputs = one.outputs
    if outputs is None:
        return {}
    if outputs.size != reference.size:
        one.problem = one.problem or f"its output has shape {outputs.shape}, not {reference.shape}"
        return {}
    outputs = outputs.reshape(reference.shape)
    close = parity(reference, outputs, task=model.spec.task)
    labelled = model.spec.task in ("classify", "keyword") and sum(bool(t) for t in inputs.targets) >= _ENOUGH_LABELS
    return {
        "top1": score(outputs, inputs.targets).top1 if labelled else None,
        "agreement": close.agreement,
        "sqnr_db": finite_db(close.sqnr_db),
        "images": len(outputs),
    }


def _ties(one: Seen, reference: np.ndarray, model: Model) -> list[str]:
    """What to know of an engine whose scores are so coarse that the best is shared: agreement counts the first."""
    outputs = one.outputs
    if model.spec.task != "classify" or outputs is None or outputs.shape != reference.shape or reference.ndim != 2:
        return []
    best = outputs.max(axis=1)
    tied = int(np.sum(np.sum(outputs == best[:, None], axis=1) > 1))
    if tied <= 0.01 * len(outputs):
        return []
    among = 100 * float(np.mean(outputs[np.arange(len(outputs)), reference.argmax(axis=1)] == best))
    return [
        f"its scores are coarse: for {tied} of {len(outputs)} inputs two classes share the best one, and the first "
        f"of them counts; were all of them right, agreement would be {among:.1f} %"
    ]


def _measurements(
    rows: Sequence[PeerRow], found: dict[int, list[Seen]], model: Model, inputs: Tried
) -> list[Measurement]:
    made = []
    for count, seen in found.items():
        for row, one in zip(rows, seen, strict=True):
            if (times := one.latency(count)) is None:
                continue
            quality = None
            if row.images:
                quality = Quality(inputs.name, row.images, row.top1, None, row.agreement, row.sqnr_db)
            made.append(
                Measurement(
                    name=f"{model.spec.name}/{row.name}",
                    engine=Engine(row.engine, row.version),
                    latency=times,
                    model=model.spec.name,
                    target=None if row.peer.convert else row.peer.target,
                    format=one.program.format,
                    precision=row.precision,
                    size_bytes=one.program.size_bytes,
                    delegated=one.program.delegated,
                    start=one.start,
                    memory=one.memory,
                    quality=quality,
                    pinned_cpus=one.pinned,
                    notes=row.notes,
                )
            )
    return made
