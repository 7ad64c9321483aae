"""Any folder of images as an ImageSet."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.core.errors import DataError
from edge_lab.data.images import ImageSet, hash_of
from edge_lab.signals.damage import damage, opened
from edge_lab.signals.image import decode_picture, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def folder(path: Path | str, labels: Sequence[str] = ()) -> ImageSet:
    """All images below a folder, in the order of their names.

    Reads .jpg, .jpeg, .png, .webp and .bmp in any case, in sub-folders too; names that start with a dot are not looked
    at, and other files are counted by their endings (`others`). Every image is decoded once here (JPEGs at reduced
    size, in threads), so `skipped` is right from the start and a later read doesn't fail: expect about a minute for
    10,000 camera photos.

    Args:
        path: the folder.
        labels: class names. An image below a sub-folder of such a name gets that class as its target; of nested names
            the innermost counts, of classes with one name each. Images elsewhere get ().

    Raises:
        DataError: there is no such folder, no image in it, or none that can be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root}.",
            "it is a file." if root.exists() else "nothing exists at that path.",
            "check the path; it should name a folder that holds the images.",
        )
    files, others = _find(root)
    if not files:
        raise DataError(
            f"no images were found in {root}.",
            f"no file in it or below it ends in {', '.join(ENDINGS)}" + (f"; {left_out(others)}." if others else "."),
            "put some images there, or name the folder that has them.",
        )
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        checked = list(pool.map(_check, files))
    good = [(file, found.digest) for file, found in zip(files, checked, strict=True) if not found.problem]
    if not good:
        raise DataError(
            f"none of the {len(files)} images in {root} can be read.",
            f"{files[0].name}: {checked[0].problem}",
            "open one in an image viewer; save them again as JPEG or PNG.",
        )
    names = tuple(file.relative_to(root).as_posix() for file, _ in good)
    index: dict[str, tuple[int, ...]] = {}
    for i, label in enumerate(labels):
        index[_composed(label)] = (*index.get(_composed(label), ()), i)
    targets = tuple(_target(name, index) for name in names)
    return ImageSet(
        name=str(root),
        labels=tuple(labels),
        targets=targets,
        names=names,
        licence="not known: your own files",
        source=str(root),
        fingerprint=hash_of("folder", *names, *(digest for _, digest in good), *map(str, targets)),
        read=_Files(tuple(str(file) for file, _ in good)),
        skipped=len(files) - len(good),
        others=others,
    )


def left_out(others: Sequence[tuple[str, int]]) -> str:
    """In words which files were not looked at, and how an iPhone's become pictures."""
    kinds = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others)
    heic = {".heic", ".heif"}.intersection(ending for ending, _ in others)
    way = " (on Debian: apt install libheif-examples, then heif-convert in.heic out.jpg)" if heic else ""
    return f"left out, of other kinds: {kinds}{way}"


def _find(root: Path) -> tuple[list[Path], tuple[tuple[str, int], ...]]:
    """The images, and how many other files of each ending there are."""
    found, others = list[Path](), Counter[str]()
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(ENDINGS):
                found.append(Path(parent) / name)
            else:
                others[Path(name).suffix.lower()] += 1
    return sorted(found, key=lambda file: file.relative_to(root).as_posix()), tuple(others.most_common())


def _composed(text: str) -> str:
    """Letters with accents as one character: macOS stores names of files in two, and labels seldom are."""
    return unicodedata.normalize("NFC", text)


def _target(name: str, index: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    for part in reversed(name.split("/")[:-1]):
        if found := index.get(_composed(part)):
            return found
    return ()


@dataclass(frozen=True)
class _Checked:
    digest: str
    problem: str


def _check(file: Path) -> _Checked:
    """Hash a file and decode it; a JPEG at an eighth of its size, which still reads it to the end."""
    try:
        data = file.read_bytes()
        if problem := damage(data):
            return _Checked("", problem)
        if not data.startswith(b"\xff\xd8"):
            decode_picture(data, file.name)
        else:
            with opened(data) as image:
                image.draft("RGB", (image.width // 8 or 1, image.height // 8 or 1))
                image.load()
    except DataError as error:
        return _Checked("", error.why)
    except Exception as error:  # Pillow's readers raise what they like
        return _Checked("", str(error) or type(error).__name__)
    return _Checked(hashlib.sha256(data).hexdigest(), "")


@dataclass(frozen=True)
class _Files:
    files: tuple[str, ...]

    def __call__(self, index: int) -> Image:
        return read_image(self.files[index])
