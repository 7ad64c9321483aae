"""What a model is run on: pictures of a set or a folder, recordings, or noise for a model that takes ready tensors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lab.bundle.spec import ModelSpec
from edge_lab.capture.inputs import Calibration, halves, noise
from edge_lab.core.errors import InputError
from edge_lab.data import ImageSet, SoundSet
from edge_lab.zoo import Model

_LIMITS = {"segment": 8, "detect": 8}  # their outputs are large
_LIMIT = 64


@dataclass(frozen=True)
class Pictures:
    """Images to run on: the ImageSet (None for models that take ready tensors), and their preprocessed array."""

    images: ImageSet | None
    x: np.ndarray
    targets: tuple[tuple[int, ...], ...]
    name: str


def image_set(name: str | Path | ImageSet) -> ImageSet:
    """A data set by name, or a folder of images by path; an ImageSet passes through.

    Raises:
        InputError: the name is that of a data set and of a folder here.
    """
    from edge_lab import data

    if isinstance(name, ImageSet):
        return name
    path = isinstance(name, Path) or os.sep in name or "/" in name
    if not path and name in data.sets() and Path(name).is_dir():
        raise InputError(
            f"{name} is a shipped data set, and a folder here.",
            "which of them you mean can't be told from the name.",
            f"write ./{name} for the folder; for the data set, rename the folder or start from another one.",
        )
    return data.folder(name) if path or (name not in data.sets() and Path(name).exists()) else data.load(str(name))


def pictures_of(
    model: Model, images: str | ImageSet | None, limit: int | None, calibration: Calibration | str | None = None
) -> Pictures:
    """The inputs of a run, at most `limit`; the default for the model where no set is named."""
    from edge_lab import data
    from edge_lab.quality.accuracy import prepare, refuse_pictures

    spec = model.spec
    if spec.preprocess is None:
        if images is not None:
            refuse_pictures(spec, "images")
        if spec.audio is not None:
            return _recordings(spec, limit)
        if calibration is not None and not isinstance(calibration, (str, ImageSet, SoundSet)):
            held_out = np.concatenate(halves(calibration, spec)[1][:limit])
            return Pictures(None, held_out, ((),) * len(held_out), "the calibration inputs, held out of it")
        count = limit or 16
        x = noise(spec, count, seed=1)
        return Pictures(None, x, ((),) * len(x), "seeded noise (the model takes ready tensors)")
    if images is None:
        chosen = _default_images(spec.labels == data.load("photos").labels, limit)
    else:
        chosen = image_set(images)
        chosen = chosen.take(limit) if limit else chosen
    if spec.task in _LIMITS and limit is None:
        chosen = chosen.take(_LIMITS[spec.task])
    inputs = prepare(chosen, spec)
    known = spec.task == "classify" and chosen.labels and chosen.labels == spec.labels
    return Pictures(chosen, inputs.x, inputs.targets if known else ((),) * len(inputs), chosen.name)


def _recordings(spec: ModelSpec, limit: int | None) -> Pictures:
    """The shipped recordings, for a model that hears; labelled if the model's first classes are the digits."""
    from edge_lab import data
    from edge_lab.quality.accuracy import prepare_sounds

    sounds = data.load_sounds("spoken-digits")
    inputs = prepare_sounds(sounds.take(limit) if limit else sounds, spec)
    return Pictures(None, inputs.x, inputs.targets, inputs.name)


def _default_images(imagenet: bool, limit: int | None) -> ImageSet:
    from edge_lab import data
    from edge_lab.data.real import given

    if imagenet and (given("imagenet_sample.zip") or given("imagenet_sample_even.zip")):
        sample = data.load("imagenet-sample")
        return sample.take(limit) if limit else sample
    crops = data.load("crops", limit=None if limit else _LIMIT)
    both = data.concat("photos and crops", data.load("photos"), crops)
    return both.take(limit) if limit else both
