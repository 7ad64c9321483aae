"""What an export is fed with: inputs that calibrate int8, and others that are recorded and compared on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_lab.bundle.spec import ModelSpec, preprocess
from edge_lab.compress.static.quantize import check_calibration
from edge_lab.core.errors import InputError
from edge_lab.data import ImageSet, SoundSet
from edge_lab.signals.audio import Sound

CASES = 5  # golden cases that a bundle records
Calibration = ImageSet | SoundSet | Iterable[np.ndarray]
GoldenInputs = ImageSet | SoundSet | Sequence[np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """Inputs of one export.

    Attributes:
        golden: pictures, Sounds or ready tensors, at most CASES; recorded, and compared on.
        about: what they are, in words.
        calibration: preprocessed arrays; empty for what needs none.
        source: what those are.
    """

    golden: tuple[Any, ...]
    about: str
    calibration: tuple[np.ndarray, ...] = ()
    source: str | None = None

    def golden_bytes(self) -> list[bytes]:
        """Each golden input as bytes, for a fingerprint."""
        return [_bytes(case) for case in self.golden]


def inputs_of(
    spec: ModelSpec, calibration: Calibration | None, golden: GoldenInputs | None, *, calibrates: bool
) -> Inputs:
    """Choose inputs: those given, else what the package ships.

    Args:
        spec: of the model.
        calibration: given to `to`, or None.
        golden: given to `to`, or None.
        calibrates: whether this export reads ranges from inputs.

    Raises:
        InputError: int8 of a model that takes ready tensors, and no calibration inputs; or unusable ones.
    """
    about = "the golden inputs that were given"
    if golden is None and calibration is not None and not isinstance(calibration, (ImageSet, SoundSet)):
        calibration, held_out = halves(calibration, spec)
        if held_out:
            check_calibration((*calibration, *held_out), np.empty(spec.input.shape, spec.input.dtype))
            golden, about = held_out, "inputs held out of the calibration"
    if golden is None:
        cases, about = _shipped(spec)
    else:
        cases = [golden[i] for i in range(min(len(golden), CASES))]
    arrays, source = _calibrated(calibration, spec) if calibrates else ([], None)
    return Inputs(tuple(cases), f"{len(cases)} of {about}", tuple(arrays), source)


def halves(arrays: Iterable[np.ndarray], spec: ModelSpec) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Given arrays for calibration, and those held out of it to judge by.

    A model that takes ready tensors has no other real inputs: on noise, a program that was calibrated on real ones
    looks worse than it is, and one that was calibrated on noise better. With less than two nothing is held out: the
    same arrays are used twice.
    """
    given = tuple(arrays)
    if spec.preprocess is not None or spec.audio is not None:
        return given, ()
    return (given[::2], given[1::2]) if len(given) > 1 else (given, given)


def _shipped(spec: ModelSpec) -> tuple[list[Any], str]:
    if spec.audio is not None:
        from edge_lab.data import load_sounds

        sounds = load_sounds("spoken-digits")
        return list(sounds.take(CASES)), sounds.name
    if spec.preprocess is None:
        cases = np.split(noise(spec, CASES, seed=0), CASES)
        return cases, "seeded noise (the model takes ready tensors, and none were given)"
    from edge_lab.data import load

    photos = load("photos")
    chosen = photos.take(CASES)
    return [chosen[i] for i in range(CASES)], photos.name


def noise(spec: ModelSpec, count: int, *, seed: int) -> np.ndarray:
    """Normal noise for a model that takes ready tensors: `count` inputs below each other, (count * N, ...).

    Raises:
        InputError: the model takes integers, of which nobody knows what they mean.
    """
    if np.dtype(spec.input.dtype).kind != "f":
        raise InputError(
            f"{spec.name} takes {spec.input.dtype}, and no inputs were given.",
            "token ids and the like have a range and a meaning: noise is none of them.",
            "in Python, pass real ones, each of shape "
            f"{spec.input.shape}: edge_lab.to(model, target, golden=[...]) or coverage(model, inputs=[...]).",
        )
    batch, *rest = spec.input.shape
    return np.random.default_rng(seed).standard_normal((count * batch, *rest)).astype(spec.input.dtype)


def _calibrated(calibration: Calibration | None, spec: ModelSpec) -> tuple[list[np.ndarray], str]:
    from edge_lab.compress.static.inputs import default_calibration

    if calibration is None:
        calibration = default_calibration(spec)
    if isinstance(calibration, (ImageSet, SoundSet)):
        return [preprocess(calibration[i], spec) for i in range(len(calibration))], calibration.name
    return list(calibration), "user"


def _bytes(picture: Any) -> bytes:
    if isinstance(picture, Sound):
        return bytes(f"{picture.rate} ", "ascii") + picture.samples.tobytes()
    return picture.tobytes() if isinstance(picture, np.ndarray) else np.asarray(picture).tobytes()
