"""The data set handwriting: whole, in shares, and apart."""

from __future__ import annotations

import numpy as np

from edge_lab import data
from edge_lab.data.digits import sprites
from edge_lab.data.photos import provenance

SPLITS = ("train", "val", "test")


def test_every_digit_is_in_one_split() -> None:
    counts = provenance()["digits"]["counts"]
    sets = {split: data.load("handwriting", split) for split in SPLITS}
    assert sum(len(s) for s in sets.values()) == sum(counts) == 10_000
    for k, count in enumerate(counts):
        shares = [int((s.y == k).sum()) for s in sets.values()]
        assert sum(shares) == count
        assert abs(shares[0] - 0.8 * count) <= 1
        assert abs(shares[2] - 0.1 * count) <= 1
    rows = sorted(img.tobytes() for s in sets.values() for img in s.pixels[..., 0])
    assert rows == sorted(img.tobytes() for img in sprites())


def test_it_shares_its_splits_with_digits() -> None:
    from edge_lab.data.digits import plan

    everything = sprites()
    for split in SPLITS:
        own = {img.tobytes() for img in data.load("handwriting", split).pixels[..., 0]}
        assert {everything[i].tobytes() for i in np.unique(plan(split).sources)} <= own


def test_it_is_always_the_same_and_in_random_order() -> None:
    test = data.load("handwriting", "test")
    assert test.fingerprint == data.load("handwriting", "test").fingerprint
    assert test.fingerprint != data.load("handwriting", "val").fingerprint
    assert len(set(test.y[:50].tolist())) == 10
    assert test.pixels.shape == (1005, 28, 28, 3)
    assert (test.pixels[..., 0] == test.pixels[..., 2]).all()
