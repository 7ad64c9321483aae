"""What the engines are tried on, and what int8 is calibrated with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_lab import data
from edge_lab.compress.inputs import CALIBRATION_IMAGES, default_calibration
from edge_lab.data import ImageSet
from edge_lab.data.real import given
from edge_lab.errors import InputError
from edge_lab.measure.accuracy import prepare
from edge_lab.zoo import Model

_LIMIT = 100


@dataclass(frozen=True)
class Tried:
    """Preprocessed inputs (N, C, H, W), their accepted classes (() where none is known), and the set's name."""

    x: np.ndarray
    targets: tuple[tuple[int, ...], ...]
    name: str


def tried(model: Model, images: ImageSet | None, limit: int | None) -> Tried:
    """The inputs to measure on; by default those of `edge-lab run`, and 100 of them at most.

    Raises:
        InputError: images for a model that takes ready tensors.
    """
    spec = model.spec
    if spec.preprocess is None:
        if images is not None:
            raise InputError(
                f"{spec.name} takes a ready tensor, so pictures are no use to it.",
                f"its task is {spec.task!r}, with no preprocessing.",
                "leave --images out, or give the model a Preprocess.",
            )
        count = limit or 16
        x = np.random.default_rng(1).standard_normal((count, *spec.input.shape[1:])).astype(spec.input.dtype)
        return Tried(x, ((),) * count, "seeded noise")
    chosen = (images or _shipped(model)).take(limit or _LIMIT)
    ready = prepare(chosen, spec)
    known = spec.task == "classify" and chosen.labels and chosen.labels == spec.labels
    return Tried(ready.x, ready.targets if known else ((),) * len(ready), chosen.name)


def _shipped(model: Model) -> ImageSet:
    photos = data.load("photos")
    imagenet = model.spec.labels == photos.labels
    if imagenet and (given("imagenet_sample.zip") or given("imagenet_sample_even.zip")):
        return data.load("imagenet-sample")
    return data.concat("photos and crops", photos, data.load("crops"))


def calibration(model: Model, images: ImageSet | None) -> tuple[ImageSet | Sequence[np.ndarray], str]:
    """The same 32 images for everyone's int8, and their name; nothing for a model that takes no images."""
    if model.spec.preprocess is None:
        return (), "nothing"
    chosen = default_calibration(model.spec) if images is None else images.take(CALIBRATION_IMAGES)
    return chosen, f"{len(chosen)} images of {chosen.name}"
