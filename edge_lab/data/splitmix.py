"""Random integers that are the same on every platform and in every numpy version.

numpy promises no stable stream for `Generator.integers`, and the data sets made here are compared by hash. SplitMix64
(Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) is a few integer operations.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stream:
    """A stream of random integers that depends on nothing but its seed text."""

    def __init__(self, seed: str) -> None:
        self._state = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")

    def between(self, low: int, high: int) -> int:
        """One integer, low <= it <= high."""
        return int(self.array(1, low, high)[0])

    def array(self, size: int, low: int, high: int) -> np.ndarray:
        """int64 array of shape (size,), low <= each <= high. For small ranges the modulo's bias is negligible."""
        counters = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(self._state)
        self._state = (self._state + size * _GAMMA) & _MASK
        mixed = (counters ^ (counters >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return (mixed % np.uint64(high - low + 1)).astype(np.int64) + low

    def order(self, size: int) -> np.ndarray:
        """A random order of 0..size-1, int64 of shape (size,)."""
        return np.argsort(self.array(size, 0, (1 << 62) - 1), kind="stable")
