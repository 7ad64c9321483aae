"""The one list of data sets that `load` knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_lab.core.errors import InputError
from edge_lab.data import digits, handwriting, photos, real
from edge_lab.data.images import ImageSet


@dataclass(frozen=True)
class Entry:
    """One set: what it is in a line, its splits, and the function that makes a split.

    `licence` is that of a set that does not come with the package, known before anyone downloads it; None: it comes
    with the package, and its images say.
    """

    about: str
    splits: tuple[str, ...]
    make: Callable[[str], ImageSet]
    licence: str | None = None


_SETS = {
    "digits": Entry("handwritten digits on photo backgrounds, 32x32, 10 classes", digits.SPLITS, digits.digits),
    "handwriting": Entry(
        "handwritten digits as they are, 28x28, grey, 10 classes", digits.SPLITS, handwriting.handwriting
    ),
    "photos": Entry("twelve whole photos, for demos", ("test",), lambda _: photos.photos()),
    "crops": Entry("120 crops of six photos, for parity and agreement", ("test",), lambda _: photos.crops("crops")),
    "calibration": Entry(
        "120 crops of six other photos, to calibrate int8", ("test",), lambda _: photos.crops("calibration")
    ),
    "cifar10": Entry("CIFAR-10, 32x32, 10 classes", ("train", "test"), real.cifar10, real.CIFAR10_LICENCE),
    "imagenette": Entry(
        "Imagenette, ten ImageNet classes, short side 320",
        ("train", "val", "test"),
        real.imagenette,
        real.IMAGENETTE_LICENCE,
    ),
    "imagenet-sample": Entry(
        "one photo of each ImageNet class", ("test",), lambda _: real.imagenet_sample(), real.SAMPLE_LICENCE
    ),
}


def load(name: str, split: str = "test", limit: int | None = None) -> ImageSet:
    """Get a data set by name.

    "digits", "handwriting", "photos", "crops" and "calibration" come with the package. "cifar10", "imagenette" and
    "imagenet-sample" are read from $EDGE_LAB_DATA if they are there, else from the cache folder, else downloaded into
    it. The functions in `edge_lab.data.digits`, `.handwriting`, `.photos` and `.real` say what each set is, how many
    images, whose, under what licence.

    Args:
        name: one of `sets()`.
        split: "train", "val" or "test"; sets that have only one take "test".
        limit: at most so many images, spread evenly over the set (`ImageSet.take`).

    Raises:
        InputError: unknown name or split.
        DataError: the set is not here and could not be downloaded, or is damaged.
    """
    if name not in _SETS:
        raise InputError(
            f"there is no data set {name!r}.",
            f"the known ones are {', '.join(_SETS)}.",
            "use one of these, or data.folder(path) for a folder of your own images.",
        )
    entry = _SETS[name]
    if split not in entry.splits:
        raise InputError(
            f"data set {name!r} has no split {split!r}.",
            f"it has {', '.join(entry.splits)}.",
            f'for example load("{name}", "{entry.splits[-1]}").',
        )
    images = entry.make(split)
    return images if limit is None else images.take(limit)


def sets() -> dict[str, str]:
    """Name of every set, with one line on what it is."""
    return {name: entry.about for name, entry in _SETS.items()}


def licence(name: str) -> tuple[str, bool]:
    """Licence of a set that `sets()` names, and whether it comes with the package; nothing is downloaded for it."""
    entry = _SETS[name]
    return (load(name).licence, True) if entry.licence is None else (entry.licence, False)
