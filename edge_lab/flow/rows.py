"""From what was measured to the rows and pictures of a RunResult."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_lab.bundle.folder import Bundle, ProgramParity
from edge_lab.bundle.spec import ModelSpec, postprocess
from edge_lab.core.errors import EdgeLabError
from edge_lab.core.files import locked
from edge_lab.core.numbers import EQUAL_DB
from edge_lab.data import ImageSet
from edge_lab.export import Target
from edge_lab.export.gate import caution, compare, limits_of, refusal
from edge_lab.flow.jobs import EAGER, Answer
from edge_lab.flow.workers import Done
from edge_lab.measure.timing import Latency
from edge_lab.quality.accuracy import score
from edge_lab.quality.agreement import parity
from edge_lab.results.budget import Budgets, check
from edge_lab.results.result import Example, Failure, TargetResult
from edge_lab.zoo import Model

ENOUGH_LABELS = 20  # below that a percentage of right answers says nothing
_PICTURES = 6


@dataclass(frozen=True)
class Measured:
    """Raw results of a run: per target the worker's answer, every output (N, ...), and timings."""

    model: Model
    goals: Sequence[Target]
    done: Mapping[str, Done[Answer]]
    outputs: Mapping[str, tuple[np.ndarray, ...]]
    targets: tuple[tuple[int, ...], ...]
    dataset: str
    timings: Mapping[str, Latency]


def rows(measured: Measured, budgets: Budgets) -> tuple[TargetResult, ...]:
    """Eager PyTorch first, then one row per target in the order asked for, each with its verdicts."""
    reference = _quality(_eager_row(measured), measured)
    labelled = sum(bool(t) for t in measured.targets)
    found = [reference]
    for goal in measured.goals:
        row = _quality(_row(goal, measured.done[goal.name]), measured)
        found.append(replace(row, verdicts=check(row, reference, budgets, labelled=labelled or None)))
    return tuple(found)


def _eager_row(measured: Measured) -> TargetResult:
    size = sum(t.numel() * t.element_size() for t in measured.model.module.state_dict().values()) / 1e6
    return TargetResult(EAGER, "pytorch", "fp32", size_mb=size, notes=("start-up and memory: see the bundles",))


def _row(goal: Target, done: Done[Answer]) -> TargetResult:
    if done.error is not None or done.value is None or done.value.bundle is None:
        error = done.error or EdgeLabError("no bundle was written.", "the worker gave no answer.", "run it again.")
        failure = Failure(error.what, error.why, error.fix)
        return TargetResult(goal.name, goal.format, goal.scheme, status="failed", failure=failure)
    answer = done.value
    bundle = Bundle.load(done.value.bundle, verify=False)
    row = TargetResult(
        goal.name,
        goal.format,
        bundle.quantization.scheme,
        reused=answer.reused,
        export_s=answer.seconds,
        bundle=str(bundle.path),
        size_mb=bundle.program_bytes / 1e6,
        delegated=bundle.runtime.delegated,
        notes=(*answer.notes, *_partly(bundle), *filter(None, [caution(bundle)])),
    )
    if answer.fresh is None:
        return row
    cold, memory = answer.fresh.cpu, answer.fresh.memory
    return replace(row, load_ms=cold.load_ms, first_ms=cold.first_ms, peak_mb=memory.peak_mb, delta_mb=memory.delta_mb)


def _partly(bundle: Bundle) -> tuple[str, ...]:
    """A remark if a program is called quantized and most of it is not."""
    done, layers = bundle.quantization.quantized, bundle.quantization.layers
    return () if done is None or done == layers else (f"only {done} of {layers} layers are quantized",)


def _quality(row: TargetResult, measured: Measured) -> TargetResult:
    outputs = measured.outputs.get(row.target)
    if outputs is None:
        return row
    task, reference = measured.model.spec.task, measured.outputs[EAGER]
    close = parity(reference[0], outputs[0], task=task)
    row = replace(
        row,
        agreement=close.agreement,
        answers=close.answers(task),
        max_abs=close.max_abs if np.isfinite(close.max_abs) else None,
        notes=(*row.notes, close.note) if close.note else row.notes,
    )
    row = _held_to_the_model(row, reference, outputs, measured)
    labelled = sum(bool(t) for t in measured.targets)
    if task in ("classify", "keyword") and labelled >= ENOUGH_LABELS:
        accuracy = score(outputs[0], measured.targets)
        row = replace(row, top1=accuracy.top1, top5=accuracy.top5)
    timing = measured.timings.get(row.target)
    if timing is None:
        return row
    notes = (*row.notes, timing.note) if timing.note else row.notes
    return replace(row, p50_ms=timing.p50_ms, p90_ms=timing.p90_ms, samples_ms=timing.samples_ms, notes=notes)


def _held_to_the_model(
    row: TargetResult, reference: tuple[np.ndarray, ...], outputs: tuple[np.ndarray, ...], measured: Measured
) -> TargetResult:
    """The gate of `to` on all inputs of this run: SQNR of the output that is furthest off, FAIL below its limit."""
    if row.bundle is None:
        return replace(row, sqnr_db=EQUAL_DB)  # the model beside itself
    bundle = Bundle.load(row.bundle, verify=False)
    names = [output.name for output in bundle.outputs]
    found = compare(names, [reference], [outputs], limits_of(bundle))
    row = replace(row, sqnr_db=min(output.sqnr_db for output in found))
    if all(output.ok for output in found):
        return row
    if bundle.parity is not None and bundle.parity.allowed:
        return row  # its notes say so
    what = f"{len(outputs[0])} of {measured.dataset}"
    with locked(bundle.path):
        bundle.with_parity(ProgramParity("run" if row.target in measured.timings else "interpreted", what, found))
    error = refusal(bundle, found, f"on {what}; those of its golden cases passed")
    return replace(row, status="failed", failure=Failure(error.what, error.why, error.fix))


def examples(images: ImageSet, outputs: Mapping[str, tuple[np.ndarray, ...]], spec: ModelSpec) -> tuple[Example, ...]:
    """A few pictures with every target's three best answers: labelled ones first, then spread over the set."""
    if spec.task != "classify":
        return ()
    known = images.labels == spec.labels
    pool = [i for i, t in enumerate(images.targets) if t and known] or list(range(len(images)))
    count = min(_PICTURES, len(pool))
    chosen = [pool[i * len(pool) // count] for i in range(count)]
    return tuple(_example(i, images, outputs, spec) for i in chosen)


def _example(i: int, images: ImageSet, outputs: Mapping[str, tuple[np.ndarray, ...]], spec: ModelSpec) -> Example:
    answers: dict[str, Any] = {}
    for target, rows_ in outputs.items():
        answers[target] = tuple((p.label, p.score) for p in postprocess(rows_[0][i], spec)[:3])
    accepted = images.targets[i]
    label = " / ".join(images.labels[t] for t in accepted) if accepted and images.labels == spec.labels else None
    return Example(images.names[i], _thumbnail(images, i), label, answers)


def _thumbnail(images: ImageSet, i: int) -> str:
    picture = images[i].copy()
    picture.thumbnail((240, 240))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
