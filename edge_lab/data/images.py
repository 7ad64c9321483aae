"""ImageSet: named, labelled images that decode when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edge_lab.core.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Reader = Callable[[int], "Image"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with what is known about them. Cheap to make: an image is decoded when it is asked for.

    `images[i]` is a PIL image in RGB; `len(images)`, iteration and negative indices work as in a tuple.

    Attributes:
        name: the name that `load` knows it by, or the folder it was read from.
        labels: class names; `targets` are indices into it. Empty if the set has no classes.
        targets: for each image every class index that is a right answer; () where none is known.
        names: for each image a name that is unique within the set.
        licence: who may do what with the images.
        source: where they come from.
        fingerprint: hex hash that changes when any image, label or the order changes.
        read: gives image i; called with 0 <= i < len(names). Can be pickled, so workers can read too.
        skipped: how many files were left out because they could not be read.
        others: files of kinds that are not read, by ending ("" for none): (ending, how many), most first.
        array: all images as uint8 (N, H, W, 3) if they are already in memory, else None.
    """

    name: str
    labels: tuple[str, ...]
    targets: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    licence: str
    source: str
    fingerprint: str
    read: Reader = field(repr=False)
    skipped: int = 0
    others: tuple[tuple[str, int], ...] = ()
    array: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {self.name!r}, which has {len(self)}")
        return self.read(int(index) % len(self))

    def __iter__(self) -> Iterator[Image]:
        return (self.read(i) for i in range(len(self)))

    def __repr__(self) -> str:
        left_out = f", {self.skipped} skipped" if self.skipped else ""
        return f"ImageSet({self.name!r}, {len(self)} images, {len(self.labels)} classes{left_out})"

    @property
    def y(self) -> np.ndarray:
        """int64 array of shape (N,): the first accepted class of each image, -1 where none is known."""
        return np.array([accepted[0] if accepted else -1 for accepted in self.targets], np.int64)

    @property
    def pixels(self) -> np.ndarray:
        """All images as one uint8 array of shape (N, H, W, 3).

        It may be read-only, because everyone who loads the set shares it; `torch.tensor(images.pixels)` copies it.

        Raises:
            DataError: the images differ in size, so they do not fit one array.
        """
        if self.array is not None:
            return self.array
        arrays = [np.asarray(image) for image in self]
        shapes = {a.shape for a in arrays}
        if len(shapes) > 1:
            raise DataError(
                f"the {len(self)} images of {self.name!r} do not fit one array.",
                f"they have {len(shapes)} different sizes.",
                "preprocess them one by one: spec.preprocess(image, spec) for image in images.",
            )
        return np.stack(arrays)

    def take(self, n: int) -> ImageSet:
        """At most n images, spread evenly over the whole set, always the same ones. With n >= len: the set itself."""
        if n < 1:
            raise InputError(f"{n} images were asked for.", "a set has at least one image.", "ask for 1 or more.")
        return self if n >= len(self) else self.subset([i * len(self) // n for i in range(n)])

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The images at these indices, in this order."""
        chosen = tuple(int(i) for i in indices)
        if not chosen or not all(0 <= i < len(self) for i in chosen):
            raise InputError(
                f"{self.name!r} has no such subset.",
                f"indices must lie in 0..{len(self) - 1} and there must be at least one.",
                f"check the indices; there are {len(self)} images.",
            )
        return replace(
            self,
            targets=tuple(self.targets[i] for i in chosen),
            names=tuple(self.names[i] for i in chosen),
            fingerprint=hash_of(self.fingerprint, *map(str, chosen)),
            read=_Chosen(self.read, chosen),
            array=None if self.array is None else self.array[list(chosen)],
        )


@dataclass(frozen=True)
class _Chosen:
    """Reads image i of a subset."""

    read: Reader
    indices: tuple[int, ...]

    def __call__(self, index: int) -> Image:
        return self.read(self.indices[index])


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Reads images out of a uint8 array of shape (N, H, W, 3)."""

    array: np.ndarray

    def __call__(self, index: int) -> Image:
        """Image i in RGB."""
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.array[index]))


def hash_of(*parts: str) -> str:
    """Hex SHA-256 of text parts; ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
