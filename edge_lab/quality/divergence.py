"""At which layer does an exported program begin to differ from the PyTorch model?

A reader per format runs the program and yields what its layers give; a new format needs a module with one function and
a line in `_READERS`:

    def values(bundle: Bundle, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]

It yields, in the order of execution, every floating-point value that the program computes, with the name of the module
that it came from, as in `named_modules()`. Where that is not known it is "?" for an operator with weights, and "" for
any other. A value that is rounded to integers is given as the next operator reads it, dequantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_lab.bundle.folder import Bundle, Format
from edge_lab.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edge_lab.zoo import Model

_READERS: dict[Format, str] = {
    "mlpackage": "edge_lab.quality.divergence_coreml",
    "onnx": "edge_lab.quality.divergence_onnx",
    "pt2": "edge_lab.quality.divergence_pt2",
}
_HIDDEN: dict[Format, str] = {
    "pte": "a delegate such as XNNPACK runs as one operator; its inner values never come out",
    "aoti": "it is compiled machine code",
    "ort": "its graph is optimised beforehand, and only the original can be extended by outputs",
    "torchscript": "it was frozen: one graph in which no operator says which module it came from",
    "ptl": "it was frozen: one graph in which no operator says which module it came from",
}


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
        from edge_lab.quality.divergence_plot import draw

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


def first_divergence(
    model: Model, bundle: Bundle | Path | str, x: np.ndarray, *, threshold_db: float = 30.0
) -> Divergence:
    """Run the model and an exported program on one input and compare layer by layer.

    Layers are matched by the module names that exporters note in their files; where there are none, those with weights
    by their order and shapes. Batch norms that were folded and activations that were fused are recognised: of the
    values that a fused operator may stand for, the nearest counts.

    Args:
        model: what the program was exported from.
        bundle: an ONNX, .pt2 or Core ML (interpreted) bundle of any precision.
        x: one preprocessed input, float32 of the model's shape; a real picture, as noise excites other channels.
        threshold_db: what still counts as equal: 60 finds faults in fp32, 30 in fp16, 10 to 20 in int8.

    Raises:
        InputError: a format that hides its inside, or an unusable input; nothing to compare.
        BundleError: the program can't be run.
    """
    from edge_lab.quality.divergence_match import compare

    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    if bundle.runtime.format not in _READERS:
        why = _HIDDEN.get(bundle.runtime.format, "this format has no reader")
        raise InputError(
            f"nobody can look inside {bundle.name} ({bundle.runtime.format}).",
            f"{why}.",
            "compare its output with measure.parity, and look for the layer in the .pt2 or .onnx of the same model.",
        )
    if bundle.spec.input.shape != model.spec.input.shape:
        raise _another(model, bundle, f"it takes {bundle.spec.input.shape}, the model {model.spec.input.shape}")
    x = model.spec.input.check(x)
    seen = list(import_module(_READERS[bundle.runtime.format]).values(bundle, x))
    layers, unmatched = compare(model.module, x, seen)
    if not layers:
        raise _another(model, bundle, "neither the names nor the shapes of its values fit")
    return Divergence(bundle.name, threshold_db, layers, unmatched)


def _another(model: Model, bundle: Bundle, why: str) -> InputError:
    return InputError(
        f"{bundle.name} was made from another model than {model.spec.name}.",
        f"{why}.",
        "pass the model that the bundle was exported from.",
    )


def _number(db: float) -> str:
    return "equal" if db == inf else "no number" if db == -inf else f"{db:.1f}"
