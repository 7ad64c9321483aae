"""The parity matrix: each pair compared, the first as reference of the table, and its picture."""

from __future__ import annotations

import numpy as np
import pytest

from edge_lab.errors import InputError
from edge_lab.measure import parity_matrix


class _Scaled:
    def __init__(self, factor: float, flip: int | None = None) -> None:
        self.factor, self.flip = factor, flip

    def run(self, x: np.ndarray, /) -> tuple[np.ndarray, ...]:
        out = self.factor * x
        if self.flip is not None and int(x.argmax()) == self.flip:
            out = out[:, ::-1]
        return (out,)


def _inputs() -> list[np.ndarray]:
    return [np.eye(4, dtype=np.float32)[i : i + 1] for i in range(4)]


def test_each_pair_is_compared_with_its_own_reference() -> None:
    matrix = parity_matrix({"a": _Scaled(1), "same": _Scaled(1), "half": _Scaled(0.5), "off": _Scaled(1, 3)}, _inputs())
    assert matrix.of("same").sqnr_db == np.inf
    assert matrix.of("half").sqnr_db == pytest.approx(6.02, abs=0.01)  # the error is half the signal
    assert matrix.of("a", reference="half").sqnr_db == pytest.approx(0, abs=0.01)  # ... here, as large as it
    assert matrix.of("off").agreement == 75
    assert matrix.of("off").worst == 3
    text = str(matrix)
    assert "against a" in text
    assert "equal" in text
    assert "75.0 %" in text


def test_the_picture_shows_every_pair() -> None:
    import matplotlib

    matplotlib.use("Agg")
    ax = parity_matrix({"a": _Scaled(1), "b": _Scaled(0.5)}, _inputs()).plot()
    assert sorted(text.get_text() for text in ax.texts) == ["0", "6", "=", "="]


def test_one_session_is_no_matrix() -> None:
    with pytest.raises(InputError, match="1 sessions"):
        parity_matrix({"a": _Scaled(1)}, _inputs())
