"""What the engines are tried on, and what int8 is calibrated with."""

from __future__ import annotations

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


def tried(model: Model, images: ImageSet | None, limit: int | None, apart: ImageSet | None = None) -> Tried:
    """The inputs to measure on: `images` less those that calibrated, at most `limit` (100) of them, evenly spread.

    By default the ImageNet sample where it is, else the shipped crops: of other photos than those that calibrate.

    Args:
        model: its spec says how to preprocess.
        images: a set, or None for the default.
        limit: how many at most.
        apart: what int8 is calibrated with; where it is of the same set, its images are left out.

    Raises:
        InputError: images for a model that takes ready tensors, or none are left.
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
    chosen = _without(images or _default(model), apart).take(limit or _LIMIT)
    ready = prepare(chosen, spec)
    known = spec.task == "classify" and chosen.labels and chosen.labels == spec.labels
    return Tried(ready.x, ready.targets if known else ((),) * len(ready), chosen.name)


def _default(model: Model) -> ImageSet:
    crops = data.load("crops")
    there = given("imagenet_sample.zip") or given("imagenet_sample_even.zip")
    return data.load("imagenet-sample") if there and model.spec.labels == crops.labels else crops


def _without(images: ImageSet, apart: ImageSet | None) -> ImageSet:
    if apart is None or apart.name != images.name:
        return images
    taken = set(apart.names)
    left = [i for i, name in enumerate(images.names) if name not in taken]
    if not left:
        raise InputError(
            f"{images.name} has {len(images)} images, and int8 is calibrated with all of them.",
            "what calibrates must not also be measured: int8 would look better than it is.",
            "calibrate with others (--calibration FOLDER|SET), or measure on others (--images FOLDER|SET).",
        )
    return images.subset(left)


def calibration(model: Model, images: ImageSet | None) -> ImageSet | None:
    """The same 32 images for everyone's int8; None for a model that takes no images."""
    if model.spec.preprocess is None:
        return None
    if images is not None:
        return images.take(CALIBRATION_IMAGES)
    found = default_calibration(model.spec)
    assert isinstance(found, ImageSet)  # it has a preprocessing, so it takes images
    return found
