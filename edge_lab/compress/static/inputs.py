"""Inputs for the verbs that look at answers: images, recordings or ready arrays become a list of float32 arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edge_lab.bundle.spec import ModelSpec, preprocess
from edge_lab.core.errors import InputError
from edge_lab.data.images import ImageSet
from edge_lab.data.sounds import SoundSet
from edge_lab.zoo import Model

Inputs = ImageSet | SoundSet | Iterable[np.ndarray]
CALIBRATION_IMAGES = 32


def arrays(inputs: Inputs, model: Model, what: str, limit: int | None = None) -> list[np.ndarray]:
    """Preprocess images or recordings, or check arrays: each float32 with the model's input shape, finite.

    Args:
        inputs: an ImageSet or SoundSet, or arrays of the model's shape.
        model: its spec says how to preprocess.
        what: what the inputs are for, in error messages ("evaluation").
        limit: at most so many, evenly spread.

    Raises:
        InputError: there are none, or one of another shape or dtype, or with NaN.
    """
    if isinstance(inputs, (ImageSet, SoundSet)):
        images = inputs.take(limit) if limit and len(inputs) else inputs
        rows = [preprocess(images[i], model.spec) for i in range(len(images))]
    else:
        rows = list(inputs)
        if limit and len(rows) > limit:
            rows = [rows[i * len(rows) // limit] for i in range(limit)]
    if not rows:
        raise InputError(
            f"there are no {what} inputs for {model.spec.name}.",
            "the set or list is empty.",
            "pass some real images or preprocessed arrays.",
        )
    for i, x in enumerate(rows):
        if not isinstance(x, np.ndarray) or x.shape != model.spec.input.shape or x.dtype != np.float32:
            found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise InputError(
                f"{what} input {i} is {found}.",
                f"{model.spec.name} takes float32 {model.spec.input.shape}.",
                "preprocess images with edge_lab.preprocess(image, model.spec).",
            )
        if not np.isfinite(x).all():
            raise InputError(
                f"{what} input {i} holds NaN or infinity.",
                "nothing can be compared after that.",
                "look at the file, or at what made the array.",
            )
    return rows


def calibration_arrays(calibration: Inputs | None, model: Model) -> list[np.ndarray]:
    """Inputs to calibrate int8 with; None: shipped photos or recordings, as `edge_lab.to` takes."""
    return arrays(default_calibration(model.spec) if calibration is None else calibration, model, "calibration")


def default_calibration(spec: ModelSpec) -> ImageSet | SoundSet:
    """What to calibrate int8 with if nothing was given: 32 crops of shipped photos, or the 40 shipped recordings.

    Raises:
        InputError: the model takes neither images nor recordings.
    """
    from edge_lab.data import load, load_sounds

    if spec.audio is not None:
        return load_sounds("spoken-digits")
    if spec.preprocess is None:
        raise InputError(
            f"{spec.name} has no preprocessing, so no images can calibrate it.",
            "int8 reads the range of every activation from real inputs.",
            "pass calibration=[...]: about 32 real float32 inputs of the model's shape.",
        )
    return load("calibration", limit=CALIBRATION_IMAGES)
