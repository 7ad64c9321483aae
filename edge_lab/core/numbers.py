"""How far outputs are from a reference: the one signal to noise ratio that every room of this package counts in."""

from __future__ import annotations

import math

import numpy as np

EQUAL_DB = 200.0  # written and drawn for "every value is equal": JSON has no infinity, a chart no room for one


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise ratio, 10 log10(signal / noise), in dB.

    Args:
        signal: sum of the squared reference values.
        noise: sum of the squared differences from them.

    Returns:
        inf without noise; -inf without a signal, or if either is infinite or NaN.
    """
    if noise == 0 and math.isfinite(signal):
        return math.inf
    if signal == 0 or not math.isfinite(signal) or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def sqnr_between(reference: np.ndarray, other: np.ndarray) -> float:
    """`sqnr_db` of two arrays, over all values, in float64.

    Args:
        reference: of any shape and any real dtype.
        other: with as many values, in the same order.

    Returns:
        In dB: inf if every value is equal; -inf if a value of either is NaN or infinite, or the reference is all zero.
    """
    exact, close = reference.ravel().astype(np.float64), other.ravel().astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return sqnr_db(float(np.square(exact).sum()), float(np.square(exact - close).sum()))


def finite_db(value: float) -> float:
    """A ratio as it is written to files and drawn: from -EQUAL_DB to EQUAL_DB, so that infinities are finite."""
    return min(max(value, -EQUAL_DB), EQUAL_DB)
