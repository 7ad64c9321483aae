"""At which layer does an exported program begin to differ from the PyTorch model?

A reader per format runs the program and yields what its layers give; a new format needs a module with one function and
a line in `_READERS`:

    def values(bundle: Bundle, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]

It yields, in the order of execution, every floating-point value that the program computes, with the name of the module
that it came from, as in `named_modules()`. Where that is not known it is "?" for an operator with weights, and "" for
any other. A value that is rounded to integers is given as the next operator reads it, dequantized.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_lab.bundle.folder import Bundle, Format
from edge_lab.core.errors import InputError
from edge_lab.quality.layers.report import Divergence

if TYPE_CHECKING:
    from edge_lab.zoo import Model

_READERS: dict[Format, str] = {
    "mlpackage": "edge_lab.quality.layers.coreml",
    "onnx": "edge_lab.quality.layers.onnx",
    "pt2": "edge_lab.quality.layers.pt2",
}
_HIDDEN: dict[Format, str] = {
    "pte": "a delegate such as XNNPACK runs as one operator; its inner values never come out",
    "aoti": "it is compiled machine code",
    "ort": "its graph is optimised beforehand, and only the original can be extended by outputs",
    "torchscript": "it was frozen: one graph in which no operator says which module it came from",
    "ptl": "it was frozen: one graph in which no operator says which module it came from",
}


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
    from edge_lab.quality.layers.match import compare

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
