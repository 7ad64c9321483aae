"""The parity matrix: each pair compared, the first as reference of the table, and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge_lab
from edge_lab import data, zoo
from edge_lab.core.errors import InputError
from edge_lab.formats.runtime import Session
from edge_lab.measure import parity_matrix, prepare, run_or_interpret
from edge_lab.quality.agreement import Parity
from edge_lab.quality.matrix import ParityMatrix

CHECKPOINT = Path(__file__).parents[1] / "labs" / "checkpoints" / "tinynet-digits.safetensors"
FULL = (
    "linux-torchscript-fp32",
    "linux-lite-fp32",
    "linux-pt2-fp32",
    "linux-onnx-fp32",
    "android-ort-fp32",
    "linux-xnnpack-fp32",
    "ios-coreml-fp32",
)
HALF = ("linux-torchscript-fp16", "linux-onnx-fp16", "linux-xnnpack-fp16", "ios-coreml-fp16", "ios-coreml-pte-fp16")


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


@pytest.mark.slow
def test_all_runtimes_give_one_answer_on_real_pictures(tmp_path: Path) -> None:
    """What docs/results/parity.md says of larger networks, for a small trained one on 100 test digits."""
    model = zoo.create("tinynet", weights=CHECKPOINT)
    digits = data.load("digits", limit=100)
    sessions: dict[str, Session] = {"eager": edge_lab.eager(model)}
    for target in (*FULL, *HALF):
        bundle = edge_lab.to(model, target, golden=digits.take(5), out=tmp_path)
        sessions[target] = run_or_interpret(bundle)
    matrix = parity_matrix(sessions, prepare(digits, model.spec))
    for reference in ("eager", *FULL):
        for name in FULL:
            assert matrix.of(name, reference).sqnr_db >= 60, (name, reference)
            assert matrix.of(name, reference).agreement == 100, (name, reference)
    for name in HALF:
        assert matrix.of(name).sqnr_db >= 35, name
        assert (matrix.of(name).agreement or 0) >= 99, name


def test_the_worst_input_of_each_program_is_shown() -> None:
    import matplotlib

    matplotlib.use("Agg")
    images = data.load("digits", limit=4)
    matrix = parity_matrix({"a": _Scaled(1), "off": _Scaled(1, 3)}, _inputs())
    (ax,) = matrix.worst_inputs(images).axes
    assert ax.get_title() == "off\nno. 3, off by 1"
    np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(images[3]))
    with pytest.raises(InputError, match="5 images were given, 4 inputs"):
        matrix.worst_inputs(data.load("digits", limit=5))


def test_only_equal_outputs_are_drawn_as_equal() -> None:
    near = Parity(100.0, 170.0, 1e-9, 1e-9, 0, 4)  # float64 noise: far less than anyone needs, and not nothing
    same = Parity(100.0, np.inf, 0.0, 0.0, 0, 4)
    ax = ParityMatrix(("a", "b"), ((same, near), (near, same))).plot()
    assert [text.get_text() for text in ax.texts] == ["=", "170", "170", "="]


def test_one_session_is_no_matrix() -> None:
    with pytest.raises(InputError, match="1 sessions"):
        parity_matrix({"a": _Scaled(1)}, _inputs())
