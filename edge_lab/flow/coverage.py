"""Coverage: which formats take this model, what stays outside the delegate, and does each program compute the same?

Nothing is timed (that is `flow.run`'s business), so the answer comes in the time of the exports.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import Task
from edge_lab.core.errors import DivergenceError, EdgeLabError, InputError
from edge_lab.data import ImageSet
from edge_lab.export.gate import caution, compare, limits_of, refusal
from edge_lab.flow.inputs import pictures_of
from edge_lab.flow.jobs import batches, read_outputs
from edge_lab.flow.workers import Done, run_isolated
from edge_lab.formats.coreml.mil.run import ENGINE, run_or_interpret
from edge_lab.formats.runtime import Session
from edge_lab.quality.agreement import every_output, parity
from edge_lab.report.text import aligned
from edge_lab.zoo import Model

COVERAGE_TARGETS = ("linux-onnx-fp32", "linux-xnnpack-fp32", "linux-pt2-fp32", "ios-coreml-fp16")
_INPUTS = 8

Compared = Literal["run", "interpreted", "no"]


@dataclass(frozen=True)
class Cell:
    """One model in one format.

    Attributes:
        target: name of the target.
        exported: whether a program was written.
        diverges: whether a program was made that answers differently from PyTorch, by more than its precision
            explains; then it is not written.
        note: empty, or what `export.gate.caution` says of the program.
        compared: how its outputs came about: it was "run" in its own engine, "interpreted" (Core ML away from a Mac:
            a check of the file, not of a device), or "no".
        why: empty; or why there is no program, or why it was not compared.
        fix: what to change.
        delegated: share of operators inside the delegate, 0 to 1; None where there is no such thing.
        left: names of the operators outside.
        agreement: percent of equal answers with eager PyTorch; None if not compared, or if the task has no answers.
        sqnr_db: signal to noise ratio of the output that is furthest from eager PyTorch's, -200 to 200 dB; None: not
            compared.
        size_mb: of the program, in 1e6 bytes.
    """

    target: str
    exported: bool
    compared: Compared = "no"
    why: str = ""
    fix: str = ""
    delegated: float | None = None
    left: tuple[str, ...] = ()
    agreement: float | None = None
    sqnr_db: float | None = None
    size_mb: float | None = None
    diverges: bool = False
    note: str = ""


@dataclass(frozen=True)
class Coverage:
    """A model in several formats; `inputs` counts what outputs were compared on. `print` shows a table.

    `preprocessing` says what was assumed of it; empty if it was given.
    """

    model: str
    weights: str
    inputs: int
    cells: tuple[Cell, ...]
    preprocessing: str = ""

    def __getitem__(self, target: str) -> Cell:
        """The cell of a target."""
        return next(cell for cell in self.cells if cell.target == target)

    def __str__(self) -> str:
        head = ["", "target", "size MB", "delegated", "agree %", "SQNR dB"]
        rows = [[_mark(c), c.target, *_numbers(c)] for c in self.cells]
        lines = [f"{self.model} ({self.weights} weights), {self.inputs} inputs"]
        lines += [*([f"preprocessing: {self.preprocessing}"] if self.preprocessing else []), ""]
        lines += aligned([head, *rows], left=2)
        for cell in self.cells:
            if cell.compared == "interpreted":
                lines.append(
                    f"\nnote {cell.target}: computed by a reference interpretation of the file, not by a device"
                )
            if cell.note:
                lines.append(f"\nnote {cell.target}: {cell.note}")
            if cell.left:
                lines.append(f"\nnote {cell.target}: outside the delegate: {', '.join(cell.left)}")
            if cell.why:
                word = "another answer" if cell.diverges else "not compared" if cell.exported else "no program"
                lines.append(f"\n{cell.target}: {word}\n  why: {cell.why}\n  fix: {cell.fix}")
        return "\n".join(lines)


def coverage(
    model: str | Model,
    targets: Sequence[str] = COVERAGE_TARGETS,
    *,
    inputs: str | ImageSet | Iterable[np.ndarray] | None = None,
    out: Path | str = "artifacts",
    jobs: int | None = None,
    show: Callable[[str], None] | None = None,
    allow_divergence: bool = False,
) -> Coverage:
    """Export a model to each target and compare each program with PyTorch.

    Args:
        model: a Model, or a name that `create` takes.
        targets: names from `edge_lab.targets()`.
        inputs: real ones: a data set name, a folder, an ImageSet, or preprocessed arrays (1, ...). Default: eight
            shipped photos and crops; seeded noise for a model without preprocessing.
        out: where bundles go; they are reused.
        jobs: processes; a converter that crashes then costs one cell. Default: one, or none for a model that only lives
            here (its `origin` is None): then everything happens in this process.
        show: is called with a line for each target that is done.
        allow_divergence: write programs that answer differently from PyTorch, too; their cells say `diverges`.

    Raises:
        InputError: no such model or target, unusable inputs, or a model whose outputs can't be compared.
    """
    from edge_lab.export import target

    built = _built(model)
    goals = [target(name).name for name in targets]
    arrays = _arrays(built, inputs)
    reference = _outputs(_eager(built), arrays)
    ready = built.spec.preprocess is None and built.spec.audio is None
    calibration = None if inputs is None or not ready else tuple(arrays)
    jobs = (1 if built.origin else 0) if jobs is None else jobs
    with tempfile.TemporaryDirectory(prefix="edge-lab-") as folder:
        file = Path(folder) / "arrays.npz"
        np.savez(file, np.stack(arrays), *reference)
        known = (jobs and built.origin) or built
        requests = [Request(known, goal, file, Path(out), calibration, allow_divergence) for goal in goals]
        cells = {}
        for done in _cells(requests, jobs, Path(out) / "coverage.log"):
            goal = goals[done.index]
            cells[goal] = done.value or Cell(goal, False, why=_why(done.error), fix=_fix(done.error))
            if show:
                show(f"{goal}: {cells[goal].why or 'done'}")
    found = tuple(cells[goal] for goal in goals)
    return Coverage(built.spec.name, built.spec.weights, len(arrays), found, built.spec.assumed)


@dataclass(frozen=True)
class Request:
    """One cell's work: a Model or its origin, a target, the .npz with inputs and reference, and where bundles go."""

    model: str | Model
    target: str
    arrays: Path
    out: Path
    calibration: tuple[np.ndarray, ...] | None = None
    allow_divergence: bool = False


def cell(request: Request) -> Cell:
    """Export one target and compare it. A failure is a cell too, never an exception."""
    from edge_lab.export import to

    model = _built(request.model)
    inputs, *reference = read_outputs(request.arrays)
    try:
        bundle = to(
            model,
            request.target,
            calibration=request.calibration,
            out=request.out,
            allow_divergence=request.allow_divergence,
        )
    except DivergenceError as error:
        why = f"{error.what} {error.why}"
        return Cell(request.target, False, why=why, fix=error.fix, sqnr_db=error.sqnr_db, diverges=True)
    except EdgeLabError as error:
        return Cell(request.target, False, why=error.why, fix=error.fix)
    return compared(bundle, request.target, inputs, tuple(reference), model.spec.task)


def compared(bundle: Bundle, target: str, inputs: np.ndarray, reference: tuple[np.ndarray, ...], task: Task) -> Cell:
    """The cell of a bundle that was written.

    Args:
        bundle: of the target.
        target: its name.
        inputs: (n, 1, ...), preprocessed.
        reference: every output of eager PyTorch for them, (n, ...).
        task: decides what an answer is.
    """
    runtime, size = bundle.runtime, bundle.program_bytes / 1e6
    try:
        session, how = _session(bundle)
        outputs = _outputs(session, inputs)
    except EdgeLabError as error:
        why = f"{error.what} {error.why}"
        return Cell(target, True, "no", why, error.fix, runtime.delegated, runtime.operators, size_mb=size)
    close = parity(reference[0], outputs[0], task=task)
    found = compare([output.name for output in bundle.outputs], [reference], [outputs], limits_of(bundle))
    worst = min(output.sqnr_db for output in found)
    agreement, note = close.agreement, caution(bundle)
    c = Cell(target, True, how, close.note, "", runtime.delegated, runtime.operators, agreement, worst, size, note=note)
    if all(output.ok for output in found):
        return c
    refused = refusal(bundle, found, f"on {len(inputs)} inputs; those of its golden cases passed")
    return replace(c, why=f"{refused.what} {refused.why}", fix=refused.fix, diverges=True)


def _session(bundle: Bundle) -> tuple[Session, Compared]:
    session = run_or_interpret(bundle)
    return session, "interpreted" if session.engine == ENGINE else "run"


def _outputs(session: Session, inputs: Sequence[np.ndarray] | np.ndarray) -> tuple[np.ndarray, ...]:
    return every_output(session, (np.asarray(x) for x in inputs))


def _eager(model: Model) -> Session:
    from edge_lab.formats.runtime import eager

    return eager(model)


def _built(model: str | Model) -> Model:
    if isinstance(model, Model):
        return model
    from edge_lab.zoo import create

    return create(model)


def _arrays(model: Model, inputs: str | ImageSet | Iterable[np.ndarray] | None) -> list[np.ndarray]:
    if inputs is None or isinstance(inputs, (str, ImageSet)):
        chosen = pictures_of(model, inputs, _INPUTS if inputs is None else None)
        return batches(chosen.x, model.spec.input.shape[0])
    arrays = [model.spec.input.check(x) for x in inputs]
    if not arrays:
        raise InputError("there are no inputs.", "an empty selection was given.", "pass at least one.")
    return arrays


def _cells(requests: list[Request], jobs: int, log: Path) -> Iterable[Done[Cell]]:
    if jobs:
        return run_isolated(cell, requests, workers=jobs, log=log)
    return (Done(index, cell(request), None) for index, request in enumerate(requests))


def _why(error: EdgeLabError | None) -> str:
    return error.why if error else "it ended without an answer."


def _fix(error: EdgeLabError | None) -> str:
    return error.fix if error else "report it with the model."


def _mark(c: Cell) -> str:
    return "FAIL" if not c.exported or c.diverges else ("OK" if c.compared != "no" else "----")


def _numbers(c: Cell) -> tuple[str, ...]:
    texts = (
        (c.size_mb, "{:.2f}"),
        (c.delegated and 100 * c.delegated, "{:.0f} %"),
        (c.agreement, "{:.1f}"),
        (c.sqnr_db, "{:.1f}"),
    )
    return tuple("–" if value is None else form.format(value) for value, form in texts)
