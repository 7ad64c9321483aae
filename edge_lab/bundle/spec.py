"""What a device must know to run a model correctly: input, preprocessing, postprocessing, labels.

The parts are frozen dataclasses; `edge_lab.bundle.folder` writes them to bundle.json. Preprocessing is data, never
code in an app, and is defined so exactly that C++, Kotlin, Swift and C can repeat it bit for bit:

1. decode the image to 8-bit RGB, turned upright (`edge_lab.signals.exif`). Of 16-bit values the high byte counts:
   `v >> 8`. Alpha is dropped, not blended with anything: transparent pixels show the colour that is stored under
   them. Colour profiles (ICC) are not applied, as in the training code of torchvision and timm: the numbers count as
   sRGB. Of animations and pages the first one counts;
2. resize: the short side becomes `resize`, the long side `resize * long // short`, with Pillow's
   antialiased filter (8-bit fixed point, horizontal pass first);
3. crop the centre `crop` = (height, width), offsets `(size - crop) // 2`;
4. per channel in float32: `(pixel * scale - mean) / std`, laid out as NCHW, batch 1.

For recordings the same is said in `edge_lab.signals.audio`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.signals.audio import Audio, Sound, hear
from edge_lab.signals.image import open_picture, picture_of, resize_and_crop

if TYPE_CHECKING:
    from PIL.Image import Image

Task = Literal["classify", "detect", "segment", "keyword", "tensor"]


def contiguous(array: np.ndarray) -> np.ndarray:
    """The same values in C order with the strides of their shape.

    `np.ascontiguousarray` leaves a stride of 0 or any other on an axis of size 1, such as `x[None]` has; engines that
    read raw memory by strides refuse it.
    """
    return np.ascontiguousarray(array).ravel().reshape(array.shape)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor: its name, fixed shape, dtype ("float32", "int64", ...) and layout."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "NCHW"

    def check(self, array: np.ndarray) -> np.ndarray:
        """Return `array` (C-contiguous) if its shape and dtype are right; raise InputError otherwise.

        The first dimension is the batch and may differ.
        """
        if array.dtype != np.dtype(self.dtype):
            raise InputError(
                f"input {self.name!r} has dtype {array.dtype}, the model takes {self.dtype}.",
                "runtimes read raw memory: another dtype would give wrong numbers without an error.",
                f"convert it: x.astype({self.dtype!r}).",
            )
        if array.ndim == len(self.shape) and array.shape[1:] == self.shape[1:]:
            return contiguous(array)
        nhwc = len(self.shape) == 4 and array.shape[1:] == (*self.shape[2:], self.shape[1])
        raise InputError(
            f"input {self.name!r} has shape {tuple(array.shape)}, the model takes {self.shape} ({self.layout}).",
            "the channels are last (NHWC)." if nhwc else "the program was exported for this one shape.",
            "move the channels: x.transpose(0, 3, 1, 2)."
            if nhwc
            else "preprocess images with edge_lab.preprocess(image, spec), or export again with this shape.",
        )


@dataclass(frozen=True)
class Preprocess:
    """From an image to the input tensor; see the module docstring for the exact arithmetic.

    `mean` and `std` are per channel, in the units that `pixel * scale` has.
    """

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    color: Literal["RGB", "BGR", "L"] = "RGB"

    def __post_init__(self) -> None:
        channels = 1 if self.color == "L" else 3
        if not len(self.mean) == len(self.std) == channels or 0 in self.std:
            raise InputError(
                f"preprocess: mean has {len(self.mean)} and std {len(self.std)} values, {self.color} needs {channels}.",
                "one mean and one std per channel are used, and std divides.",
                "give one number per channel, and no std of 0.",
            )
        if self.resize < max(self.crop):
            raise InputError(
                f"preprocess: resize {self.resize} is smaller than crop {self.crop}.",
                "the crop is cut from the resized image.",
                "make resize at least as large as the crop.",
            )


@dataclass(frozen=True)
class Postprocess:
    """From the output tensor to an answer: softmax over the last axis (or not), then the best `top_k`."""

    softmax: bool = True
    top_k: int = 5


@dataclass(frozen=True)
class ModelSpec:
    """A model's name, task and everything around its forward call.

    `weights` says where the weights come from ("imagenet", "digits-in-the-wild", "random", "user", ...), so that
    nobody mistakes an untrained network for a trained one. `assumed` says what was taken for granted about the
    preprocessing because nobody gave it; with another one a network answers wrongly and nothing fails. A model
    takes images (`preprocess`), recordings (`audio`) or ready tensors (neither).
    """

    name: str
    task: Task
    input: TensorSpec
    preprocess: Preprocess | None = None
    postprocess: Postprocess = field(default_factory=Postprocess)
    labels: tuple[str, ...] = ()
    weights: str = "random"
    source: str = ""
    licence: str = ""
    audio: Audio | None = None
    assumed: str = ""

    def __post_init__(self) -> None:
        for number, label in enumerate(self.labels):
            if problem := _why_no_label(label, number == 0):
                raise InputError(f"label {label!r} {problem[0]}.", problem[1], problem[2])

    def with_(self, **changes: object) -> ModelSpec:
        """A copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _why_no_label(label: str, first: bool) -> tuple[str, str, str] | None:
    """What is wrong with a label that would not be the same label in every reader, why, and what to do."""
    if "\n" in label or label.endswith("\r"):
        why, fix = (
            "a bundle keeps its labels in labels.txt, one in each line.",
            "labels=tuple(' '.join(x.split()) for x in labels).",
        )
        return "holds a line break", why, fix
    if first and label.startswith("\ufeff"):
        return (
            "begins with a byte order mark",
            "that belongs to the file it was read from.",
            'open(path, encoding="utf-8-sig").',
        )
    if "\0" in label:
        return (
            "holds a zero byte",
            "text ends there in C and C++.",
            "labels=tuple(x.replace('\\0', '') for x in labels).",
        )
    if any("\ud800" <= letter <= "\udfff" for letter in label):
        why = "half of a surrogate pair is no character: the file was read in another encoding."
        return "can't be written in UTF-8", why, "name the encoding where the labels are read."
    return None


@dataclass(frozen=True)
class Prediction:
    """One answer of a classifier: class index, label, and probability (or raw score without softmax)."""

    index: int
    label: str
    score: float


def preprocess(image: Image | Sound | np.ndarray | Path | str, spec: ModelSpec) -> np.ndarray:
    """Turn an image (path, PIL image of any mode, or uint8 array HxWx3) or a recording into the model's input.

    Recordings are WAV files, Sounds, or float32 samples that have the model's rate already.

    Returns:
        float32 array of the input's shape: (1, C, H, W) of an image, see `Audio` for recordings.
    """
    if spec.audio is not None:
        return hear(image, spec.audio)  # type: ignore[arg-type]
    return _from_image(image, spec)  # type: ignore[arg-type]


def _from_image(image: Image | np.ndarray | Path | str, spec: ModelSpec) -> np.ndarray:
    recipe = spec.preprocess
    if recipe is None:
        raise InputError(
            f"model {spec.name!r} has no preprocessing.",
            f"its task is {spec.task!r} and its spec names none.",
            "give ModelSpec(preprocess=Preprocess(...)), or pass a ready tensor.",
        )
    picture = open_picture(image) if isinstance(image, (str, Path)) else picture_of(image)
    mode: Literal["RGB", "L"] = "L" if recipe.color == "L" else "RGB"
    pixels = resize_and_crop(picture, recipe.resize, recipe.crop, recipe.interpolation, mode)
    if recipe.color == "BGR":
        pixels = pixels[:, :, ::-1]
    f32 = np.float32
    x = (pixels.astype(f32) * f32(recipe.scale) - np.array(recipe.mean, f32)) / np.array(recipe.std, f32)
    return contiguous(x.transpose(2, 0, 1)[None])


def postprocess(output: np.ndarray, spec: ModelSpec) -> list[Prediction]:
    """Turn one classifier output, shape (1, classes) or (classes,), into its best answers, best first."""
    scores = np.asarray(output, dtype=np.float64).reshape(-1)
    if spec.labels and len(spec.labels) != scores.size:
        raise InputError(
            f"the output has {scores.size} scores, the spec has {len(spec.labels)} labels.",
            "this output belongs to another model, or to a batch of several images.",
            "pass one row of the output, with the spec of the same bundle.",
        )
    if spec.postprocess.softmax:
        scores = np.exp(scores - scores.max())
        scores = scores / scores.sum()
    best = np.argsort(-scores, kind="stable")[: spec.postprocess.top_k]
    return [Prediction(int(i), spec.labels[i] if spec.labels else str(i), float(scores[i])) for i in best]
