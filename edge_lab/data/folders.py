"""Any folder of images as an ImageSet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.data.images import ImageSet, hash_of
from edge_lab.errors import DataError
from edge_lab.image import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def folder(path: Path | str, labels: Sequence[str] = ()) -> ImageSet:
    """All images below a folder, in the order of their names.

    Reads .jpg, .jpeg, .png, .webp and .bmp in any case, in sub-folders too; names that start with a dot are not looked
    at. Every file is decoded once here (JPEGs at reduced size, in threads), so `skipped` is right from the start and a
    later read doesn't fail: expect about a minute for 10,000 camera photos.

    Args:
        path: the folder.
        labels: class names. An image below a sub-folder of such a name gets that class as its target; of nested names
            the innermost counts. Images elsewhere get ().

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
    files = _find(root)
    if not files:
        raise DataError(
            f"no images were found in {root}.",
            f"no file in it or below it ends in {', '.join(ENDINGS)}.",
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
    index = {label: i for i, label in enumerate(labels)}
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
    )


def _find(root: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / n for n in names if n.lower().endswith(ENDINGS) and not n.startswith(".")]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _target(name: str, index: dict[str, int]) -> tuple[int, ...]:
    for part in reversed(name.split("/")[:-1]):
        if part in index:
            return (index[part],)
    return ()


@dataclass(frozen=True)
class _Checked:
    digest: str
    problem: str


def _check(file: Path) -> _Checked:
    """Hash a file and decode it; a JPEG at an eighth of its size, which still reads it to the end."""
    import io

    from PIL import Image

    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (image.width // 8 or 1, image.height // 8 or 1))
            image.load()
    except Exception as error:  # Pillow's readers raise what they like
        return _Checked("", str(error) or type(error).__name__)
    return _Checked(hashlib.sha256(data).hexdigest(), "")


@dataclass(frozen=True)
class _Files:
    files: tuple[str, ...]

    def __call__(self, index: int) -> Image:
        return read_image(self.files[index])
