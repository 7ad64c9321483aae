"""Twelve photos that come with the package, and crops of them for calibration and for parity checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lab.core.files import sha256
from edge_lab.data.images import ImageSet, hash_of
from edge_lab.data.splitmix import Stream
from edge_lab.signals.image import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SOURCE = "photos that scikit-image, scikit-learn, matplotlib and scipy carry; see assets/provenance.json"
CROPS = 120  # of each kind
SHORTEST = 256  # pixels, short side of a crop


@lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """Contents of assets/provenance.json: package, author and licence of every shipped file."""
    result: dict[str, Any] = json.loads((ASSETS / "provenance.json").read_text(encoding="utf-8"))
    return result


@lru_cache(maxsize=1)
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet class names in index order, as torchvision (BSD-3-Clause) spells them."""
    return tuple(json.loads((ASSETS / "imagenet_classes.json").read_text(encoding="utf-8")))


def photos() -> ImageSet:
    """The twelve whole photos, for demos and golden vectors.

    Longest side at most 640. Four have ImageNet labels (chelsea, coffee, rocket, grace_hopper); of the others no class
    is a fair answer, so their targets are (). Too few, and too often used as examples, to measure accuracy on.
    Licences: public domain, CC0, and CC BY 2.0 (china by danielbuechele, flower by vultilion).
    """
    entries = provenance()["photos"]
    files = tuple(str(ASSETS / "photos" / f"{entry['name']}.jpg") for entry in entries)
    return ImageSet(
        name="photos",
        labels=imagenet_classes(),
        targets=tuple(tuple(entry["imagenet"]) for entry in entries),
        names=tuple(entry["name"] for entry in entries),
        licence=_licences(entries),
        source=SOURCE,
        fingerprint=hash_of("photos", *(sha256(Path(file)) for file in files)),
        read=_WholePhotos(files),
    )


def crops(used_for: str) -> ImageSet:
    """120 natural crops, 20 from each of six photos: other place, scale, shape and mirroring each time.

    "crops" (parity and agreement) and "calibration" are kept apart by photo: no photo gives crops to both. Short side
    at least 256, shape between 3:4 and 4:3, about half mirrored. The same crops everywhere: integer arithmetic chooses
    them. Targets are (): a crop need not show what its photo shows. Licences as for "photos".
    """
    entries = [entry for entry in provenance()["photos"] if entry["used_for"] == used_for]
    files = tuple(str(ASSETS / "photos" / f"{entry['name']}.jpg") for entry in entries)
    order = _order(used_for, len(files))
    boxes = tuple(_box(used_for, k, files[photo], photo) for k, photo in enumerate(order))
    return ImageSet(
        name=used_for,
        labels=imagenet_classes(),
        targets=((),) * CROPS,
        names=tuple(f"{entries[box.photo]['name']}-{k // len(files):02d}" for k, box in enumerate(boxes)),
        licence=_licences(entries),
        source="crops of " + SOURCE,
        fingerprint=hash_of(used_for, *(sha256(Path(file)) for file in files), *map(str, boxes)),
        read=_Crops(files, boxes),
    )


@dataclass(frozen=True)
class Box:
    """Where a crop lies: index of the photo, pixels, and whether it is mirrored."""

    photo: int
    left: int
    top: int
    width: int
    height: int
    mirrored: bool


def _order(used_for: str, photos: int) -> list[int]:
    """Index of the photo of each crop: every photo once in each group, in an order that changes from group to group.

    So both the first n crops and n evenly spread ones mix the photos.
    """
    stream = Stream(used_for)
    return [int(photo) for _ in range(CROPS // photos) for photo in stream.order(photos)]


def _box(used_for: str, k: int, file: str, photo: int) -> Box:
    from PIL import Image

    with Image.open(file) as image:  # reads the header only
        width, height = image.size
    stream = Stream(f"{used_for}/{k}")
    short = stream.between(SHORTEST, min(width, height))
    long = short * stream.between(100, 133) // 100
    w, h = (long, short) if stream.between(0, 1) else (short, long)
    w, h = min(w, width), min(h, height)
    return Box(photo, stream.between(0, width - w), stream.between(0, height - h), w, h, bool(stream.between(0, 1)))


@dataclass(frozen=True)
class _WholePhotos:
    files: tuple[str, ...]

    def __call__(self, index: int) -> Image:
        return read_image(self.files[index])


@dataclass(frozen=True)
class _Crops:
    files: tuple[str, ...]
    boxes: tuple[Box, ...]

    def __call__(self, index: int) -> Image:
        from PIL import ImageOps

        box = self.boxes[index]
        image = _photo(self.files[box.photo])
        cut = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        return ImageOps.mirror(cut) if box.mirrored else cut


@lru_cache(maxsize=12)
def _photo(file: str) -> Image:
    return read_image(file)


def _licences(entries: list[dict[str, Any]]) -> str:
    return "; ".join(f"{entry['name']}: {entry['licence']} ({entry['author']})" for entry in entries)
