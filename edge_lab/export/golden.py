"""Golden vectors: a few real inputs with their preprocessed tensor and expected output, written into the bundle."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.audio import Sound, write_wav
from edge_lab.bundle import Bundle, Golden, Reference, Scheme
from edge_lab.errors import BundleError, ExportError, MissingTool
from edge_lab.spec import ModelSpec, preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

CASES = 5
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


def write_inputs(images: Sequence[Any], spec: ModelSpec, folder: Path) -> list[tuple[str | None, str, np.ndarray]]:
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
        if isinstance(image, np.ndarray) and image.dtype != np.uint8:
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


def write_expected(
    bundle: Bundle, cases: list[tuple[str | None, str, np.ndarray]], reference: list[tuple[np.ndarray, ...]]
) -> tuple[tuple[Golden, ...], float | None]:
    """Store expected outputs: the program's own where it runs here or can be interpreted, else the PyTorch model's.

    Returns:
        The golden cases, and the SQNR in dB of the program against the PyTorch model over them (None: not run here).

    Raises:
        ExportError: the program runs but gives NaN or infinity where the model does not.
    """
    kind, expected = _answers(bundle, [x for _, _, x in cases], reference)
    if len(expected[0]) != len(bundle.outputs):
        raise ExportError(
            f"the program for {bundle.target} returns {len(expected[0])} tensors, the model {len(bundle.outputs)}.",
            "the model changes its input in place, which this format returns as one more output.",
            "work on a copy (x = x.clone()) at the start of forward.",
        )
    golden = []
    for i, ((picture, tensor, _), outputs, wanted) in enumerate(zip(cases, expected, reference, strict=True)):
        if all(np.isfinite(w).all() for w in wanted) and not all(np.isfinite(out).all() for out in outputs):
            raise ExportError(
                f"the program for {bundle.target} gives NaN or infinity.",
                "a number left the range of its type (float16 ends at 65504), or the converter is wrong.",
                "use the fp32 target, or scale the activations down.",
            )
        files = tuple(f"golden/{i}.{spec.name}.bin" for spec in bundle.outputs)
        for file, array in zip(files, outputs, strict=True):
            _little_endian(array).tofile(bundle.path / file)
        scale = max((float(np.abs(out).max()) for out in outputs if out.size), default=1.0)
        relative = _RELATIVE[bundle.quantization.scheme] * (5 if kind == "eager" else 1)
        golden.append(Golden(picture, tensor, files, max(1e-6, relative * scale), kind))
    return tuple(golden), None if kind == "eager" else _sqnr_db(reference, expected)


def _answers(
    bundle: Bundle, inputs: list[np.ndarray], eager: list[tuple[np.ndarray, ...]]
) -> tuple[Reference, list[tuple[np.ndarray, ...]]]:
    """What the program answers, and who says so: an engine, an interpretation of the file, or the PyTorch model."""
    from edge_lab.measure.mil import BACKENDS, interpret
    from edge_lab.runtime import load

    try:
        session = load(bundle)
        return "self", [session.run(x) for x in inputs]
    except MissingTool:
        pass
    except BundleError as error:
        raise ExportError(
            f"the program for {bundle.target} was written but can't be loaded.", error.why, error.fix
        ) from error
    if bundle.runtime.backend in BACKENDS:
        with contextlib.suppress(BundleError):  # an operator that the interpreter does not know
            session = interpret(bundle)
            return "interpreted", [session.run(x) for x in inputs]
    return "eager", eager


def _sqnr_db(reference: list[tuple[np.ndarray, ...]], outputs: list[tuple[np.ndarray, ...]]) -> float:
    """10 log10(sum(ref^2) / sum((ref - x)^2)) over all cases and outputs, at most 200 (every value equal)."""
    pairs = [(r, x) for rs, xs in zip(reference, outputs, strict=True) for r, x in zip(rs, xs, strict=True)]
    signal = sum(float(np.square(r, dtype=np.float64).sum()) for r, _ in pairs)
    noise = sum(float(np.square(r.astype(np.float64) - x).sum()) for r, x in pairs if r.shape == x.shape)
    return min(200.0, 10 * math.log10(signal / noise)) if noise and signal else 200.0


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
