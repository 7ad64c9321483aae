"""The spine: one model to every target, and what each of them costs."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab.bundle.spec import ModelSpec
from edge_lab.core.errors import EdgeLabError, ExportError
from edge_lab.data import ImageSet
from edge_lab.data.folders import left_out
from edge_lab.flow.coverage import COVERAGE_TARGETS, Cell, Coverage, coverage
from edge_lab.flow.inputs import Pictures, image_set, pictures_of
from edge_lab.flow.jobs import EAGER, Answer, Request, read_outputs, work
from edge_lab.flow.kept import NAME, kept
from edge_lab.flow.progress import Progress
from edge_lab.flow.rows import Measured, examples, rows
from edge_lab.flow.workers import Done, run_isolated
from edge_lab.results.budget import Budgets, load_budget
from edge_lab.results.readiness import gate
from edge_lab.results.result import RunResult
from edge_lab.zoo import Model

__all__ = ["COVERAGE_TARGETS", "DEFAULT_TARGETS", "Cell", "Coverage", "coverage", "run"]

DEFAULT_TARGETS = (
    "android-xnnpack-int8",  # the longest first, so that two workers end together
    "android-xnnpack-fp32",
    "linux-onnx-int8",
    "ios-coreml-fp16",
    "linux-onnx-fp32",
    "linux-torchscript-fp32",
    "linux-pt2-fp32",
)
_ROUNDS = 30


def run(
    model: str | Model,
    *,
    targets: Sequence[str] | None = None,
    images: str | ImageSet | None = None,
    calibration: str | ImageSet | Sequence[np.ndarray] | None = None,
    input_shape: tuple[int, ...] | None = None,
    weights: str = "default",
    out: Path | str = "artifacts",
    budget: Path | Budgets | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    progress: bool = True,
    allow_divergence: bool = False,
) -> RunResult:
    """Export a model to each target, run each program in its own engine, compare, time, and hold against budgets.

    Args:
        model: a zoo name, "torchvision:NAME", "timm:NAME", "my_model.py:build", or a Model.
        targets: names from `edge_lab.targets()`; default: one for every format.
        images: a data set name or a folder. Default: the ImageNet sample if $EDGE_LAB_DATA holds it and the model
            knows ImageNet, otherwise photos that come with the package.
        calibration: what int8 is calibrated with: a set name, a folder, or arrays. Default: shipped photos.
        input_shape: (N, C, H, W), for files whose function returns a bare module.
        weights: see `edge_lab.create`.
        out: where bundles go, and measurements.json beside them: every sample of both clocks.
        budget: a budgets.toml, or Budgets. Default: the package's defaults.
        limit: at most so many images (evenly spread).
        jobs: worker processes; default: one per core, at most 4. 0 runs everything in this process.
        progress: show a line per step on stderr.
        allow_divergence: write programs that answer differently from PyTorch, too; see `edge_lab.to`.

    Returns:
        A RunResult whose first row is eager PyTorch. A target that could not be built, or whose program answers
        differently from PyTorch on these inputs, has status "failed" and says why; the others still come out.

    Raises:
        EdgeLabError: the model or the images are unusable, or no target came out for the same reason.
    """
    from edge_lab.export import target

    started = time.monotonic()
    show = Progress(progress)
    goals = [target(name) for name in (targets or DEFAULT_TARGETS)]
    limits = budget if isinstance(budget, Budgets) else load_budget(budget) if budget else Budgets()
    built = _model(model, weights, input_shape)
    show(f"{built.spec.name}, weights: {built.spec.weights}")
    if built.spec.assumed:
        show(f"preprocessing: {built.spec.assumed}")
    pictures = pictures_of(built, images, limit, calibration)
    show(f"{len(pictures.x)} inputs from {pictures.name}")
    if pictures.images is not None and pictures.images.others:
        show(left_out(pictures.images.others))
    if any(goal.precision == "int8" for goal in goals):
        show(f"int8 is calibrated with {_calibrated_with(calibration, built.spec)}")
    with tempfile.TemporaryDirectory(prefix="edge-lab-") as folder:
        requests = [
            replace(request, allow_divergence=allow_divergence)
            for request in _requests(built, [g.name for g in goals], pictures, calibration, Path(out), Path(folder))
        ]
        home = Path(out) / built.spec.name.replace("/", "_").replace(":", "_")
        done = _work(requests, jobs, home, show)
        outputs = {r.target: read_outputs(r.outputs) for r in requests if r.outputs.exists()}
    if EAGER not in outputs:
        raise done[EAGER].error or ExportError("the model did not run in PyTorch.", "no output was written.", "run it.")
    show("timing, one thread, interleaved")
    before = gate()
    timings = _timings(built, pictures, {t: d.value for t, d in done.items() if d.value and d.value.ran})
    measured = Measured(built, goals, done, outputs, pictures.targets, pictures.name, timings)
    table = rows(measured, limits)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    _record(table)
    kept(measured, table, before.worst(gate()), pictures.name, command).save(Path(out) / NAME)
    return RunResult(
        model=built.spec.name,
        weights=built.spec.weights,
        dataset=pictures.name,
        images=len(pictures.x),
        skipped_images=pictures.images.skipped if pictures.images else 0,
        rows=table,
        machine=_facts()[0],
        versions=_facts()[1],
        command=command,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=time.monotonic() - started,
        examples=examples(pictures.images, outputs, built.spec) if pictures.images else (),
        has_labels=any(row.top1 is not None for row in table),
        preprocessing=built.spec.assumed,
    )


def _calibrated_with(calibration: str | ImageSet | Sequence[np.ndarray] | None, spec: ModelSpec) -> str:
    if calibration is None:
        shipped = "recordings" if spec.audio is not None else "photos"
        return f"shipped {shipped}, not with the inputs of this run (--calibration FOLDER takes yours)"
    if isinstance(calibration, (str, ImageSet)):
        return image_set(calibration).name
    return "the arrays that were given"


def _model(model: str | Model, weights: str, input_shape: tuple[int, ...] | None) -> Model:
    if isinstance(model, Model):
        return model
    from edge_lab.zoo import create

    return create(model, weights=weights, input_shape=input_shape)


def _requests(
    model: Model,
    targets: Sequence[str],
    pictures: Pictures,
    calibration: str | ImageSet | Sequence[np.ndarray] | None,
    out: Path,
    folder: Path,
) -> list[Request]:
    np.save(folder / "inputs.npy", pictures.x)
    given: Any = image_set(calibration).take(32) if isinstance(calibration, (str, ImageSet)) else calibration
    if given is not None and not isinstance(given, ImageSet):
        given = tuple(given)
    return [
        Request(model.origin or model, name, folder / "inputs.npy", folder / f"{i}.npz", out, given)
        for i, name in enumerate([*targets, EAGER])
    ]


def _work(requests: list[Request], jobs: int | None, folder: Path, show: Progress) -> dict[str, Done[Answer]]:
    workers = min(os.cpu_count() or 1, 4) if jobs is None else jobs
    done: dict[str, Done[Answer]] = {}
    steps = _here(requests) if workers == 0 else run_isolated(work, requests, workers=workers, log=folder / "log.txt")
    for step in steps:
        name = requests[step.index].target
        done[name] = step
        show.step(len(done), len(requests), name, _told(step))
    return done


def _here(requests: list[Request]) -> Any:
    for index, request in enumerate(requests):
        try:
            yield Done(index, work(request), None)
        except EdgeLabError as error:
            yield Done(index, None, error)


def _told(step: Done[Answer]) -> str:
    if step.error is not None:
        return f"FAILED: {step.error.why}"
    assert step.value is not None
    if step.value.bundle is None:
        return "reference outputs"
    how = "bundle reused" if step.value.reused else f"exported in {step.value.seconds:.0f} s"
    return how if step.value.ran else f"{how}; {step.value.notes[0]}"


def _timings(model: Model, pictures: Pictures, answers: dict[str, Answer]) -> dict[str, Any]:
    from edge_lab.formats.runtime import eager, load
    from edge_lab.measure.timing import interleaved

    x = pictures.x[: model.spec.input.shape[0]]
    sessions = {name: load(a.bundle) if a.bundle else eager(model) for name, a in answers.items()}
    return dict(interleaved({n: partial(s.run, x) for n, s in sessions.items()}, rounds=_ROUNDS, threads=1))


def _record(table: Sequence[Any]) -> None:
    """Keep the measured quality in each bundle, for apps and for `edge-lab check`."""
    from edge_lab.bundle.folder import Bundle
    from edge_lab.core.files import locked

    for row in table:
        if row.status == "ok" and row.bundle:
            with locked(Path(row.bundle)):
                Bundle.load(row.bundle, verify=False).record(
                    **{k: getattr(row, k) for k in ("top1", "top5", "agreement", "answers", "sqnr_db", "size_mb")}
                )


def _facts() -> tuple[dict[str, str], dict[str, str]]:
    from edge_lab.measure.host import machine, versions

    return machine(), versions()
