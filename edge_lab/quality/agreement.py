"""Do two engines give the same answer? Agreement of the answers and SQNR of the raw outputs, on real inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np

from edge_lab.bundle.spec import Task
from edge_lab.core.errors import InputError
from edge_lab.core.numbers import sqnr_db


class Runs(Protocol):
    """Anything with a Session's `run`: a preprocessed input in, a tuple of outputs out."""

    def run(self, x: np.ndarray, /) -> tuple[np.ndarray, ...]:
        """All outputs for one input."""
        ...


@dataclass(frozen=True)
class Parity:
    """How close outputs are to a reference, over `n` inputs.

    `agreement` is the percentage of equal answers (argmax), None where the task has no argmax. `sqnr_db` is the signal
    to quantization noise ratio over all values: inf if every value is equal, -inf if any value of either side is NaN or
    infinite (`nonfinite` counts those) or if the reference is all zero. `worst` is the input with the largest error.
    """

    agreement: float | None
    sqnr_db: float
    max_abs: float
    mean_abs: float
    worst: int
    n: int
    nonfinite: int = 0

    def answers(self, task: Task) -> int | None:
        """How many answers `agreement` counts; None where it counts pixels or nothing."""
        return self.n if self.agreement is not None and task != "segment" else None

    @property
    def note(self) -> str:
        """Empty, or what makes the comparison void."""
        return f"{self.nonfinite} output values are NaN or infinite" if self.nonfinite else ""


def parity(reference: np.ndarray, outputs: np.ndarray, *, task: Task = "classify") -> Parity:
    """Compare outputs with a reference of the same shape; the first axis counts the inputs.

    SQNR = 10 log10(sum(ref^2) / sum((ref - x)^2)), in float64 over all values.

    Args:
        reference: (N, classes) for "classify" and "keyword", (N, classes, H, W) for "segment" (one answer per pixel),
            (N, ...) otherwise.
        outputs: the same shape.
        task: decides what an answer is.
    """
    if reference.shape != outputs.shape or reference.size == 0:
        raise InputError(
            f"outputs of shape {outputs.shape} can't be compared with a reference of shape {reference.shape}.",
            "both need one output per input, and at least one input.",
            "compute both with outputs_of(session, inputs) on the same inputs.",
        )
    ref, out = reference.astype(np.float64), outputs.astype(np.float64)
    bad = ~(np.isfinite(ref) & np.isfinite(out))
    nonfinite = int(bad.sum())
    with np.errstate(invalid="ignore"):
        error = np.where(bad, inf, np.abs(ref - out))
    per_input = error.reshape(len(error), -1)
    noise = float(np.square(error).sum())
    signal = float(np.square(ref[~bad]).sum())
    return Parity(
        agreement=_agreement(ref, out, bad, task),
        sqnr_db=sqnr_db(signal, noise),
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        worst=int(per_input.max(axis=1).argmax()),
        n=len(ref),
        nonfinite=nonfinite,
    )


def outputs_of(session: Runs, inputs: Iterable[np.ndarray], *, output: int = 0) -> np.ndarray:
    """Run every input, one at a time, and stack one of the outputs: (1, ...) each becomes (N, ...).

    Args:
        session: a Session.
        inputs: preprocessed arrays, each with a batch axis.
        output: which of the model's outputs.
    """
    return _stacked([np.asarray(session.run(x)[output]) for x in inputs], output)


def every_output(session: Runs, inputs: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The same for all outputs of the model, each stacked to (N, ...)."""
    rows = [session.run(x) for x in inputs]
    return tuple(_stacked([row[i] for row in rows], i) for i in range(len(rows[0]) if rows else 1))


def _stacked(rows: list[np.ndarray], output: int) -> np.ndarray:
    if not rows:
        raise InputError(
            "there are no inputs.", "an empty folder or an empty selection was given.", "pass at least one image."
        )
    if len({row.shape[1:] for row in rows}) > 1:
        raise InputError(
            f"output {output} changes its shape from input to input.",
            "its size depends on the picture (a detector that filters its boxes, for example).",
            "compare the part before the filter: wrap backbone and head in a module of their own.",
        )
    return np.concatenate(rows)


def _agreement(ref: np.ndarray, out: np.ndarray, bad: np.ndarray, task: Task) -> float | None:
    """Percentage of equal argmax; an answer that rests on a NaN or an infinity never agrees."""
    if task not in ("classify", "keyword", "segment") or ref.ndim < 2:
        return None
    axis = 1 if task == "segment" else -1
    same = (ref.argmax(axis) == out.argmax(axis)) & ~bad.any(axis)
    return float(100 * same.mean())
