"""How far each layer of a program is from the model's, as values that print and draw."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerGap:
    """How far one layer's output is from the PyTorch model's.

    Attributes:
        name: as in `model.module.named_modules()`; "" is the network itself. A batch norm and an activation behind a
            layer belong to it: exporters fold them.
        kind: class of the module, or name of the function ("add").
        order: place in the network, from 0.
        sqnr_db: 10 log10(sum(model^2) / sum((model - program)^2)): inf equal, above 100 rounding of float32, 40 to 70
            float16, 10 to 40 int8. It holds the errors of all layers before, too.
    """

    name: str
    kind: str
    order: int
    sqnr_db: float


@dataclass(frozen=True)
class Divergence:
    """The layers of a program beside those of the model, in order of execution. `print(report)` shows the turn.

    Attributes:
        program: name of the bundle.
        threshold_db: what counts as equal.
        layers: all that both sides show.
        unmatched: layers of the program that could not be compared (another shape than in the model).
    """

    program: str
    threshold_db: float
    layers: tuple[LayerGap, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def first(self) -> LayerGap | None:
        """The first layer below the threshold; None: there is none."""
        return next((layer for layer in self.layers if layer.sqnr_db < self.threshold_db), None)

    def table(self, n: int | None = None) -> str:
        """Text for a terminal: all layers, or the n around the first that differs."""
        rows = [("", "layer", "kind", "SQNR, dB")]
        first = self.first
        rows += [
            ("->" if layer is first else "", layer.name or "(top level)", layer.kind, _number(layer.sqnr_db))
            for layer in self._around(n)
        ]
        wide = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{a:{wide[0]}} {b:{wide[1]}}  {c:{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows]
        return "\n".join([*lines, self._summary()])

    def plot(self) -> Figure:
        """Draw the SQNR along the network, with the threshold and the first layer below it.

        Returns:
            A matplotlib Figure; in a notebook it shows itself as the last line of a cell.
        """
        from edge_lab.quality.layers.plot import draw

        return draw(self)

    def __str__(self) -> str:
        return self.table(9)

    def _around(self, n: int | None) -> tuple[LayerGap, ...]:
        if n is None or n >= len(self.layers):
            return self.layers
        middle = self.layers.index(self.first) if self.first else len(self.layers) - 1
        start = min(max(0, middle - n // 2), len(self.layers) - n)
        return self.layers[start : start + n]

    def _summary(self) -> str:
        first = self.first
        if first is None:
            worst = min((layer.sqnr_db for layer in self.layers), default=inf)
            text = f"{self.program}: none of {len(self.layers)} layers is below {self.threshold_db:g} dB"
            text += f" (lowest {_number(worst)})."
        else:
            place = f"layer {first.order + 1} of {len(self.layers)}"
            text = f"{self.program}: first below {self.threshold_db:g} dB at {first.name or first.kind}, {place}."
        return text + (f" Not compared: {', '.join(self.unmatched[:5])}." if self.unmatched else "")


def _number(db: float) -> str:
    return "equal" if db == inf else "no number" if db == -inf else f"{db:.1f}"
