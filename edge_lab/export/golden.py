"""Golden vectors: a few real inputs with their preprocessed tensor and expected output, written into the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edge_lab.bundle.folder import Bundle, Golden, Reference, Scheme
from edge_lab.bundle.spec import ModelSpec, preprocess
from edge_lab.capture.diagnose import diagnose
from edge_lab.core.errors import BundleError, EdgeLabError, ExportError, MissingTool
from edge_lab.signals.audio import Sound, write_wav

if TYPE_CHECKING:
    from PIL.Image import Image

Outputs = tuple[np.ndarray, ...]
How = Literal["run", "interpreted", "no"]
Case = tuple[str | None, str, np.ndarray]  # file of the encoded input or None, file of the tensor, the tensor

# What another CPU may differ by, as a share of the largest output: float rounding order, two steps of 255 for int8.
# Weight-only programs compute in floats, dynamic ones round activations to 8 bits however few the weights have.
_RELATIVE: dict[Scheme, float] = {
    "fp32": 1e-3,
    "fp16": 2e-2,
    "bf16": 5e-2,
    "int8-static": 1e-2,
    "int8-dynamic": 1e-2,
    "int4-dynamic": 1e-2,
    "int8-weights": 1e-3,
    "int4-weights": 1e-3,
    "palette6": 1e-3,
    "palette4": 1e-3,
}


def write_inputs(images: Sequence[Any], spec: ModelSpec, folder: Path) -> list[Case]:
    """Store inputs under `folder/golden`.

    Args:
        images: PIL images (stored as PNG, which every decoder reads alike), Sounds (stored as 16-bit WAV), or ready
            float32 tensors.
        spec: how to preprocess them.
        folder: the bundle being written.

    Returns:
        Per case: file of the encoded image or None, file of the tensor, and the tensor.
    """
    (folder / "golden").mkdir(exist_ok=True)
    cases = []
    for i, image in enumerate(images):
        picture: str | None = None
        if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or spec.preprocess is None):
            x = image
        elif isinstance(image, Sound):
            picture = f"golden/{i}.wav"
            write_wav(folder / picture, image)
            x = preprocess(folder / picture, spec)
        else:
            picture = f"golden/{i}.png"
            _shrink(image, spec).save(folder / picture, optimize=True)
            x = preprocess(folder / picture, spec)
        tensor = f"golden/{i}.input.bin"
        _little_endian(x).tofile(folder / tensor)
        cases.append((picture, tensor, x))
    return cases


def _shrink(image: Image, spec: ModelSpec) -> Image:
    """Small enough to ship, but still larger than the model's input, so that resizing is part of the test."""
    assert spec.preprocess is not None
    short = round(spec.preprocess.resize * 1.25)
    if min(image.size) <= short:
        return image
    factor = short / min(image.size)
    return image.resize((round(image.width * factor), round(image.height * factor)))


def answers(bundle: Bundle, inputs: Sequence[np.ndarray]) -> tuple[How, list[Outputs]]:
    """What a program answers, and how that came about: it ran, its file was interpreted, or neither can be done here.

    Raises:
        ExportError: the program was written, but its engine refuses it; or it returns more than the model.
    """
    from edge_lab.formats.coreml.mil.run import BACKENDS, interpret
    from edge_lab.formats.runtime import load

    how: How = "run"
    try:
        session = load(bundle)
    except MissingTool:
        if bundle.runtime.backend not in BACKENDS:
            return "no", []
        try:
            how, session = "interpreted", interpret(bundle)
        except BundleError:  # an operator that the interpreter does not know
            return "no", []
    except BundleError as error:
        named = diagnose(error, bundle.spec.name, bundle.target)
        known = "--debug" not in named.fix
        raise ExportError(
            f"the program for {bundle.target} was written but can't be loaded.",
            named.why if known else error.why,
            named.fix if known else error.fix,
        ) from error
    try:
        found = [session.run(x) for x in inputs]
    except BundleError:
        if how == "run":
            raise
        return "no", []  # an operator used in a way that the interpreter does not know
    except EdgeLabError:
        raise
    except Exception as error:  # engines raise what they like
        last = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(
            f"the program for {bundle.target} was written but can't be run.",
            f"{bundle.runtime.package} stops at the first input: {last.strip()[:300]}",
            "take another target of this platform, or write what that operator does with other torch functions.",
        ) from error
    if len(found[0]) != len(bundle.outputs):
        raise ExportError(
            f"the program for {bundle.target} returns {len(found[0])} tensors, the model {len(bundle.outputs)}.",
            "the model changes its input in place, which this format returns as one more output.",
            "work on a copy (x = x.clone()) at the start of forward.",
        )
    return how, found


def write_expected(
    bundle: Bundle, cases: Sequence[Case], reference: Sequence[Outputs], how: How, found: Sequence[Outputs]
) -> tuple[Golden, ...]:
    """Store expected outputs, and how far a device's may be from them.

    The PyTorch model's own are always there. A program that rounds is held to what it answered here, which is stored
    beside them; a float32 program is held to the model.

    Args:
        bundle: the draft.
        cases: of `write_inputs`.
        reference: the model's outputs for each case.
        how: of `answers`.
        found: the program's outputs for each case; empty if it could not be compared.

    Raises:
        ExportError: the program gives NaN or infinity where the model does not.
    """
    scheme = bundle.quantization.scheme
    own = scheme != "fp32" and how != "no"
    kinds: dict[How, Reference] = {"run": "self", "interpreted": "interpreted", "no": "eager"}
    golden = []
    for i, ((picture, tensor, _), wanted) in enumerate(zip(cases, reference, strict=True)):
        outputs = found[i] if found else wanted
        if all(np.isfinite(w).all() for w in wanted) and not all(np.isfinite(out).all() for out in outputs):
            raise _not_finite(bundle)
        expected = outputs if own else wanted
        files = _store(bundle, i, "", expected)
        relative = _RELATIVE[scheme] * (5 if how == "no" else 1)
        atols = tuple(_tolerance(e, out, relative) for e, out in zip(expected, outputs, strict=True))
        several = atols if len(atols) > 1 else None
        eager = _store(bundle, i, ".eager", wanted) if own else None
        golden.append(Golden(picture, tensor, files, max(atols), kinds[how] if own else "eager", several, eager))
    return tuple(golden)


def _store(bundle: Bundle, i: int, kind: str, arrays: Outputs) -> tuple[str, ...]:
    files = tuple(f"golden/{i}.{spec.name}{kind}.bin" for spec in bundle.outputs)
    for file, array in zip(files, arrays, strict=True):
        _little_endian(array).tofile(bundle.path / file)
    return files


def _tolerance(expected: np.ndarray, here: np.ndarray, relative: float) -> float:
    """A share of the largest value of this output, or twice what the program is off on this machine."""
    wide = expected.astype(np.float64)
    scale = float(np.abs(wide).max(initial=0.0, where=np.isfinite(wide)))
    apart = np.abs(wide - here.astype(np.float64)) if expected.shape == here.shape else np.zeros(1)
    return max(1e-6, relative * scale, 2 * float(apart.max(initial=0.0, where=np.isfinite(apart))))


def _not_finite(bundle: Bundle) -> ExportError:
    half = bundle.quantization.scheme == "fp16"
    return ExportError(
        f"the program for {bundle.target} gives NaN or infinity where the model does not.",
        "a number left the range of its type: float16 ends at 65504."
        if half
        else "its arithmetic divides by zero or overflows where PyTorch's does not.",
        "use the fp32 target, or scale the activations down." if half else "take another target of this platform.",
    )


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
