"""How much each layer suffers, as values that print, draw and name the worst."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from edge_lab.compress.static.quantize import StaticInt8
from edge_lab.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CUT = 0.5  # a tensor of which a clamp cuts off more than half of the int8 range is worth a mark


@dataclass(frozen=True)
class LayerSensitivity:
    """What int8 does at one layer: a convolution or linear layer with its activation, an addition, a mean, ...

    SQNR is 10 log10(sum(float^2) / sum((float - int8)^2)) in dB: 40 is very close, 20 good, below 10 poor, inf equal.

    Attributes:
        name: as in `model.module.named_modules()`; an addition has the name of the module it stands in ("" is the
            network itself); "input" is the rounding of the network's input.
        kind: "conv", "depthwise conv", "linear", "add", ...
        order: place in the network, from 0.
        own_db: SQNR of the network's OUTPUT if this layer alone is int8 and all others float: its own damage. Weights
            and output of the layer are rounded; its bias takes back its own shift if the recipe corrects biases.
        output_db: SQNR of this layer's output (after its activation) in the network that is int8 throughout: the error
            that has come together so far, its own and that of all layers before.
        cut: share (0 to 1) of the layer's int8 range that a ReLU or ReLU6 behind it cuts off. Those of the 256 steps
            are wasted: 0 if the layer and its activation are rounded as one unit.
    """

    name: str
    kind: str
    order: int
    own_db: float
    output_db: float
    cut: float = 0.0

    @property
    def has_weights(self) -> bool:
        """Whether this is a convolution or linear layer, which can be kept in float."""
        return self.kind in ("conv", "depthwise conv", "transposed conv", "linear")


@dataclass(frozen=True)
class Sensitivity:
    """The layers of a network, the one that does most damage first. `print(report)` shows the ten worst.

    Attributes:
        model: its name.
        config: the recipe that was looked at.
        layers: sorted by `own_db`, worst first.
        output_db: SQNR of the network's output with all layers in int8.
        images: how many inputs the numbers come from.
    """

    model: str
    config: StaticInt8
    layers: tuple[LayerSensitivity, ...]
    output_db: float
    images: int

    @property
    def in_order(self) -> tuple[LayerSensitivity, ...]:
        """The layers as the data passes them."""
        return tuple(sorted(self.layers, key=lambda layer: layer.order))

    def worst(self, n: int) -> tuple[str, ...]:
        """Names of the n layers with weights that do most damage: for `StaticInt8(keep_float=report.worst(2))`."""
        if n < 0:
            raise InputError(f"the worst {n} layers were asked for.", "a count starts at 0.", "pass 0 or more.")
        names = dict.fromkeys(layer.name for layer in self.layers if layer.has_weights)
        return tuple(names)[:n]

    def table(self, n: int | None = 10) -> str:
        """Text for a terminal: the n worst layers, None for all."""
        width = max(len(row[0]) for row in self._rows(n))
        lines = [f"{a:{width}}  {b:15} {c:>9} {d:>10} {e:>6}" for a, b, c, d, e in self._rows(n)]
        return "\n".join([*lines, self._summary(n)])

    def markdown(self, n: int | None = 10) -> str:
        """The same as a markdown table."""
        head, *rows = ["| " + " | ".join(row) + " |" for row in self._rows(n)]
        return "\n".join([head, "| --- | --- | ---: | ---: | ---: |", *rows, "", self._summary(n)])

    def plot(self, against: Sensitivity | None = None) -> Figure:
        """Draw the SQNR along the network: what has come together at each layer, and each layer's own damage.

        Args:
            against: a report of the same network with another recipe, drawn in grey for comparison.

        Returns:
            A matplotlib Figure of two panels; in a notebook it shows itself as the last line of a cell.
        """
        from edge_lab.compress.sensitive.plot import draw

        return draw(self, against)

    def __str__(self) -> str:
        return self.table()

    def _rows(self, n: int | None) -> list[tuple[str, str, str, str, str]]:
        shown = [
            (
                x.name or "(top level)",
                x.kind,
                _number(x.own_db),
                _number(x.output_db),
                f"{100 * x.cut:.0f} %" if x.cut else "–",
            )
            for x in self.layers[:n]
        ]
        return [("layer", "kind", "alone dB", "so far dB", "cut"), *shown]

    def _summary(self, n: int | None) -> str:
        hidden = len(self.layers) - len(self.layers[:n])
        cut = sum(layer.cut > _CUT for layer in self.layers)
        text = f"{self.model}, all layers in int8: {_number(self.output_db)} dB at the output, {self.images} inputs."
        if hidden:
            text += f" {hidden} more layers do less damage."
        if cut:
            text += f" {cut} layers are rounded before a clamp that cuts off more than half of their range."
        return text


def _number(db: float) -> str:
    return "equal" if db == inf else f"{db:.1f}"
