"""The work of one target, as a worker process does it: export, run on every input, measure in a fresh process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edge_lab.core.errors import BundleError, EdgeLabError, InputError, MissingTool
from edge_lab.data import ImageSet
from edge_lab.formats.runtime import Session
from edge_lab.measure.cold import Fresh
from edge_lab.quality.agreement import every_output
from edge_lab.zoo import Model

EAGER = "eager"


@dataclass(frozen=True)
class Request:
    """One target of one model. `model` is an origin that `create` takes, or the Model itself.

    `inputs` is a .npy file of preprocessed inputs (N, ...); all outputs are written to `outputs`, an .npz file.
    """

    model: str | Model
    target: str
    inputs: Path
    outputs: Path
    out: Path
    calibration: ImageSet | tuple[np.ndarray, ...] | None
    allow_divergence: bool = False


@dataclass(frozen=True)
class Answer:
    """What became of it: seconds of export, whether outputs were written, start-up and memory, remarks."""

    seconds: float
    ran: bool
    bundle: Path | None = None
    reused: bool = False
    fresh: Fresh | None = None
    notes: tuple[str, ...] = ()


def work(request: Request) -> Answer:
    """Do all of it. EdgeLabErrors mean that the target did not come out."""
    import torch

    torch.set_num_threads(1)  # the other core belongs to the other worker
    model = _model(request.model) if isinstance(request.model, str) else request.model
    if request.target == EAGER:
        from edge_lab.formats.runtime import eager

        _run(eager(model), request)
        return Answer(0.0, True)
    return _target(model, request)


def _target(model: Model, request: Request) -> Answer:
    from edge_lab.export import build
    from edge_lab.formats.coreml.mil.run import ENGINE, run_or_interpret
    from edge_lab.measure.cold import fresh

    clock = time.perf_counter()
    built = build(
        model,
        request.target,
        calibration=request.calibration,
        out=request.out,
        allow_divergence=request.allow_divergence,
    )
    seconds, bundle, reused = time.perf_counter() - clock, built.bundle, built.reused
    try:
        session = run_or_interpret(bundle)
        _run(session, request)
    except MissingTool as error:
        return Answer(seconds, False, bundle.path, reused, notes=(f"converted, not run: {error.why}",))
    except BundleError as error:  # an operator that the interpreter does not know
        return Answer(seconds, False, bundle.path, reused, notes=(f"converted, not compared: {error.what}",))
    except InputError as error:
        return Answer(seconds, False, bundle.path, reused, notes=(error.what,))
    if session.engine == ENGINE:
        return Answer(seconds, False, bundle.path, reused, notes=(f"answers by {ENGINE} of the file, not by Core ML",))
    notes: tuple[str, ...] = ()
    measured = None
    try:
        measured = fresh(bundle.path)
    except EdgeLabError as error:
        notes = (f"start-up and memory not measured: {error.why}",)
    return Answer(seconds, True, bundle.path, reused, measured, notes)


@lru_cache(maxsize=1)
def _model(origin: str) -> Model:
    from edge_lab.zoo import create

    return create(origin)


def _run(session: Session, request: Request) -> None:
    inputs = batches(np.load(request.inputs, "r"), session.spec.input.shape[0])
    np.savez(request.outputs, *every_output(session, (np.asarray(x) for x in inputs)))


def batches(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows (n * size, ...) as the inputs of a model that takes `size` of them at a time."""
    return [x[i : i + size] for i in range(0, len(x), size)]


def read_outputs(file: Path) -> tuple[np.ndarray, ...]:
    """What a job wrote: each output (N, ...), in the model's order."""
    with np.load(file) as stored:
        return tuple(stored[f"arr_{i}"] for i in range(len(stored.files)))
