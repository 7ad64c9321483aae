"""The one signal to noise ratio, where it is not a number."""

from __future__ import annotations

import re
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

import edge_lab
from edge_lab.core.numbers import EQUAL_DB, finite_db, sqnr_between, sqnr_db


@pytest.mark.parametrize(
    ("signal", "noise", "decibels"),
    [
        (100, 1, 20),
        (1, 0, inf),
        (0, 0, inf),
        (0, 1, -inf),
        (1, inf, -inf),
        (1, nan, -inf),
        (inf, 1, -inf),
        (nan, 0, -inf),
    ],
)
def test_the_ratio_of_two_sums(signal: float, noise: float, decibels: float) -> None:
    assert sqnr_db(signal, noise) == pytest.approx(decibels)


def test_the_ratio_of_two_arrays() -> None:
    x = np.array([[3.0, -4.0]], np.float16)
    assert sqnr_between(x, x.ravel()) == inf
    assert sqnr_between(x, x + np.array([0.5, 0], np.float32)) == pytest.approx(20)
    assert sqnr_between(0 * x, x) == -inf
    for bad in (inf, nan):
        spoiled = np.array([[bad, -4.0]])
        assert sqnr_between(x, spoiled) == sqnr_between(spoiled, x) == sqnr_between(spoiled, spoiled) == -inf
    large = np.array([60000], np.float16)  # its square is no float16
    assert sqnr_between(large, 0.9 * large) == pytest.approx(20, abs=0.1)


def test_what_is_written_is_finite() -> None:
    assert [finite_db(v) for v in (inf, -inf, 41.5)] == [EQUAL_DB, -EQUAL_DB, 41.5]


def test_nothing_else_counts_decibels_or_states_the_ratio_of_equals() -> None:
    package = Path(edge_lab.__file__).parent
    own = re.compile(r"log10\(signal|EQUAL_DB = ")
    again = [str(f.relative_to(package)) for f in package.rglob("*.py") if own.search(f.read_text(encoding="utf-8"))]
    assert set(again) <= {"core/numbers.py", "export/golden.py"}
