"""What the engines are tried on, and what int8 is calibrated with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edge_lab import data
from edge_lab.capture.inputs import noise
from edge_lab.compress.static.inputs import CALIBRATION_IMAGES, default_calibration
from edge_lab.core.errors import InputError
from edge_lab.data import ImageSet, SoundSet
from edge_lab.data.real import given
from edge_lab.quality.accuracy import prepare, prepare_sounds, refuse_pictures
from edge_lab.zoo import Model

_LIMIT = 100
Given = TypeVar("Given", ImageSet, SoundSet)


@dataclass(frozen=True)
class Tried:
    """Preprocessed inputs (N, ...), their accepted classes (() where none is known), and the set's name."""

    x: np.ndarray
    targets: tuple[tuple[int, ...], ...]
    name: str


def tried(model: Model, images: ImageSet | None, limit: int | None, apart: ImageSet | SoundSet | None = None) -> Tried:
    """The inputs to measure on: `images` less those that calibrated, at most `limit` (100) of them, evenly spread.

    By default the ImageNet sample where it is, else the shipped crops: of other photos than those that calibrate; the
    shipped recordings for a model that hears; seeded noise for one that takes ready tensors.

    Args:
        model: its spec says how to preprocess.
        images: a set, or None for the default.
        limit: how many at most.
        apart: what int8 is calibrated with; where it is of the same set, its images are left out.

    Raises:
        InputError: images for a model that takes none, or none are left.
    """
    spec = model.spec
    if spec.preprocess is None and images is not None:
        refuse_pictures(spec, "--images")
    if spec.audio is not None:
        heard = prepare_sounds(_without(data.load_sounds("spoken-digits"), apart).take(limit or _LIMIT), spec)
        return Tried(heard.x, heard.targets, heard.name)
    if spec.preprocess is None:
        count = limit or 16
        if spec.input.shape[0] != 1:
            raise InputError(
                f"{spec.name} takes a batch of {spec.input.shape[0]}.",
                "the engines are compared on one input at a time.",
                "make the model with a batch of 1.",
            )
        x = noise(spec, count, seed=1)
        return Tried(x, ((),) * count, "seeded noise")
    chosen = _without(images or _default(model), apart).take(limit or _LIMIT)
    ready = prepare(chosen, spec)
    known = spec.task == "classify" and chosen.labels and chosen.labels == spec.labels
    return Tried(ready.x, ready.targets if known else ((),) * len(ready), chosen.name)


def _default(model: Model) -> ImageSet:
    crops = data.load("crops")
    there = given("imagenet_sample.zip") or given("imagenet_sample_even.zip")
    return data.load("imagenet-sample") if there and model.spec.labels == crops.labels else crops


def _without(images: Given, apart: ImageSet | SoundSet | None) -> Given:
    if apart is None or apart.name != images.name:
        return images
    taken = set(apart.names)
    left = [i for i, name in enumerate(images.names) if name not in taken]
    if not left:
        raise InputError(
            f"{images.name} has {len(images)} inputs, and int8 is calibrated with all of them.",
            "what calibrates must not also be measured: int8 would look better than it is.",
            "calibrate with others (--calibration FOLDER|SET), or measure on others (--images FOLDER|SET).",
        )
    return images.subset(left)


def calibration(model: Model, images: ImageSet | None) -> ImageSet | SoundSet | None:
    """The same 32 images for everyone's int8, or every second of the shipped recordings; None: it takes neither.

    Raises:
        InputError: images for a model that does not take any.
    """
    spec = model.spec
    if spec.preprocess is None and images is not None:
        refuse_pictures(spec, "--calibration")
    if images is not None:
        return images.take(CALIBRATION_IMAGES)
    if spec.preprocess is None and spec.audio is None:
        return None
    found = default_calibration(spec)
    return found.take(len(found) // 2) if spec.audio is not None else found  # the others are measured on
