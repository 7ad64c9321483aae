"""Every runtime beside every other: do they all compute the same thing?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edge_lab.bundle.spec import Task
from edge_lab.core.errors import InputError
from edge_lab.core.numbers import EQUAL_DB, finite_db
from edge_lab.quality.agreement import Parity, Runs, outputs_of, parity

if TYPE_CHECKING:
    from edge_lab.data import ImageSet


@dataclass(frozen=True)
class ParityMatrix:
    """Parity of each pair. `cells[i][j]` takes `names[i]` as the reference and compares `names[j]` with it."""

    names: tuple[str, ...]
    cells: tuple[tuple[Parity, ...], ...]

    def of(self, name: str, reference: str | None = None) -> Parity:
        """One cell; without a reference, the first name is it."""
        row = self.names.index(reference) if reference is not None else 0
        return self.cells[row][self.names.index(name)]

    def __str__(self) -> str:
        width = max(len(name) for name in self.names)
        lines = [f"{'against ' + self.names[0]:{width}}  {'agreement':>9}  {'SQNR':>8}  {'max error':>10}  worst input"]
        for name, cell in zip(self.names[1:], self.cells[0][1:], strict=True):
            agreement = "" if cell.agreement is None else f"{cell.agreement:.1f} %"
            lines.append(
                f"{name:{width}}  {agreement:>9}  {_decibels(cell.sqnr_db):>8}  {cell.max_abs:10.2g}  {cell.worst:11}"
            )
        return "\n".join(lines)

    def plot(self, *, value: Literal["sqnr_db", "agreement"] = "sqnr_db", ax: Any = None) -> Any:
        """Draw all pairs as a map of SQNR in dB (or of agreement in percent); returns the matplotlib Axes."""
        import matplotlib.pyplot as plt

        count = len(self.names)
        if ax is None:
            _, ax = plt.subplots(figsize=(0.62 * count + 2.2, 0.46 * count + 1.4), layout="constrained")
        numbers = np.array([[_number(getattr(cell, value)) for cell in row] for row in self.cells])
        low, high = (0.0, 120.0) if value == "sqnr_db" else (90.0, 100.0)
        ax.imshow(numbers, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for i in range(count):
            for j in range(count):
                text = "=" if numbers[i, j] >= EQUAL_DB else "" if np.isnan(numbers[i, j]) else f"{numbers[i, j]:.0f}"
                dark = numbers[i, j] > (low + 0.6 * (high - low))
                ax.text(j, i, text, ha="center", va="center", color="white" if dark else "#333", fontsize=8)
        ax.set_xticks(range(count), self.names, rotation=40, ha="right")
        ax.set_yticks(range(count), self.names)
        ax.tick_params(length=0)
        ax.set_title("SQNR of each pair, dB" if value == "sqnr_db" else "same first answer, %", loc="left")
        return ax

    def worst_inputs(self, images: ImageSet) -> Any:
        """Draw, for each program, the picture on which it is furthest from the first; returns the matplotlib Figure.

        Args:
            images: what the inputs were prepared from, in the same order.
        """
        import matplotlib.pyplot as plt

        others = list(zip(self.names[1:], self.cells[0][1:], strict=True))
        if len(images) != others[0][1].n:
            raise InputError(
                f"{len(images)} images were given, {others[0][1].n} inputs were compared.",
                "the worst input is known by its place.",
                "pass the images that the inputs were prepared from.",
            )
        columns = min(5, len(others))
        rows = -(-len(others) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.1 * columns, 2.5 * rows), squeeze=False, layout="constrained"
        )
        for ax in axes.flat:
            ax.axis("off")
        for ax, (name, cell) in zip(axes.flat, others, strict=False):
            ax.imshow(images[cell.worst])
            ax.set_title(f"{name}\nno. {cell.worst}, off by {cell.max_abs:.2g}", fontsize=8)
        return figure


def parity_matrix(
    sessions: Mapping[str, Runs], inputs: Iterable[np.ndarray], *, task: Task = "classify"
) -> ParityMatrix:
    """Run every session on every input and compare each pair of them.

    Args:
        sessions: by name; the first is what the printed table compares with. At least two.
        inputs: preprocessed arrays, each with a batch axis. Real ones: on noise a dead program can look alive.
        task: decides what an answer is (see `parity`).
    """
    if len(sessions) < 2:
        raise InputError(
            f"there are {len(sessions)} sessions to compare.",
            "a matrix needs two or more.",
            'pass a dictionary such as {"eager": edge_lab.eager(model), "onnx": edge_lab.load(bundle)}.',
        )
    rows = list(inputs)
    outputs = {name: outputs_of(session, rows) for name, session in sessions.items()}
    cells = tuple(tuple(parity(a, b, task=task) for b in outputs.values()) for a in outputs.values())
    return ParityMatrix(tuple(sessions), cells)


def _number(value: float | None) -> float:
    if value is None:
        return float("nan")
    return finite_db(value)


def _decibels(value: float) -> str:
    return f"{value:.1f} dB" if isfinite(value) else "equal" if value > 0 else "no signal"
