"""Several image sets as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_lab.core.errors import InputError
from edge_lab.data.images import ImageSet, Reader, hash_of

if TYPE_CHECKING:
    from PIL.Image import Image


def concat(name: str, *sets: ImageSet) -> ImageSet:
    """One set after the other, under a new name.

    Raises:
        InputError: the sets have different class names, so that one target index would mean two things.
    """
    if len({s.labels for s in sets}) != 1:
        raise InputError(
            f"{' and '.join(s.name for s in sets) or 'no sets'} can't be joined.",
            "their class names differ, so a target index would mean two things.",
            "join sets with the same labels.",
        )
    return ImageSet(
        name=name,
        labels=sets[0].labels,
        targets=tuple(t for s in sets for t in s.targets),
        names=tuple(f"{s.name}/{n}" for s in sets for n in s.names),
        licence="; ".join(dict.fromkeys(s.licence for s in sets)),
        source="; ".join(dict.fromkeys(s.source for s in sets)),
        fingerprint=hash_of(*(s.fingerprint for s in sets)),
        read=_Joined(tuple(s.read for s in sets), tuple(len(s) for s in sets)),
        skipped=sum(s.skipped for s in sets),
    )


@dataclass(frozen=True)
class _Joined:
    readers: tuple[Reader, ...]
    sizes: tuple[int, ...]

    def __call__(self, index: int) -> Image:
        for read, size in zip(self.readers, self.sizes, strict=True):
            if index < size:
                return read(index)
            index -= size
        raise IndexError(index)
