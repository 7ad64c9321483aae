"""The dashboard without a browser: what there is to choose from, what is measured, what the page says."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import DataError, InputError, MissingTool
from edge_lab.measure import Measurements
from edge_lab.widgets import Choice, Dashboard, catalog, compare, dashboard, page

TINYNET = Path(__file__).resolve().parent.parent / "labs" / "checkpoints" / "tinynet-digits.safetensors"
TARGETS = ("linux-onnx-fp32", "linux-onnx-int8", "linux-torchscript-fp32")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained digits net in three programs."""
    folder = tmp_path_factory.mktemp("bundles")
    model = zoo.create("tinynet", weights=str(TINYNET))
    images = data.load("digits", "val", limit=32)
    for name in TARGETS:
        edge_lab.to(model, name, calibration=images, golden=images, out=folder)
    return folder


def text_of(board: Dashboard, *parts: str) -> str:
    """What a reader sees, without tags and style."""
    html = " ".join(board._html[part].value for part in parts or ("head", "status", "cards", "strip", "answers"))
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.slow
def test_the_catalog_knows_what_is_there_and_how_to_make_the_rest(bundles: Path) -> None:
    found = catalog(bundles)
    assert found.models == ["tinynet"]
    assert found.targets("tinynet") == ["linux-onnx", "linux-torchscript"]
    assert found.precisions("tinynet", "linux-onnx") == ["fp32", "int8"]
    chosen = found.first("tinynet")
    assert chosen.label == "linux-onnx int8"
    assert found.reference(chosen).label == "linux-onnx fp32"
    missing = dict(found.missing("tinynet"))
    assert missing["android-xnnpack-int8"] == f"edge-lab export tinynet --target android-xnnpack-int8 --out {bundles}"
    assert "linux-onnx-int8" not in missing
    with pytest.raises(InputError, match="no bundle of tinynet for linux-pt2 fp32"):
        found.find("tinynet", "linux-pt2", "fp32")


@pytest.mark.slow
def test_a_measurement_holds_both_sides_and_fits_the_schema(bundles: Path, tmp_path: Path) -> None:
    board = dashboard(bundles, rounds=6)
    board.button.click()
    assert board.measured is not None
    pair = board.measured
    assert [m.target for m in pair.measured] == ["linux-onnx-fp32", "linux-onnx-int8"]
    assert pair.close.n == compare.DIGITS
    assert pair.right.quality is not None
    assert pair.right.quality.top1 is not None
    assert pair.right.quality.top1 > 85
    pair.measured.save(tmp_path / "pair.json")
    assert Measurements.load(tmp_path / "pair.json").items == pair.measured.items
    said = text_of(board)
    assert f"{pair.right.latency.p50_ms:.3g}"[:4] in said
    assert "Top-1" in said
    assert "200 inputs" in said
    assert "30 calls" not in said
    assert "6 calls of each" in said


@pytest.mark.slow
def test_answers_are_those_of_the_session(bundles: Path) -> None:
    board = dashboard(bundles)
    image = data.load("digits", "test").take(compare.DIGITS)[1]
    board.forward.click()
    for choice in (board.reference, board.chosen):
        best = compare.top5(edge_lab.load(choice.bundle), image)
        assert f"{100 * best[0].score:.1f} %" in text_of(board, "answers")
    assert "2 of 200" in text_of(board, "answers")
    board.back.click()
    board.back.click()
    assert "200 of 200" in text_of(board, "answers")


@pytest.mark.slow
def test_a_program_that_cannot_run_here_is_said_and_the_other_still_answers(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = compare.open_session

    def only_onnx(choice: Choice) -> edge_lab.Session:
        if choice.target != "linux-onnx":
            raise MissingTool(f"{choice.label} does not run here.", "it is for another system.", "take another one.")
        return usual(choice)

    monkeypatch.setattr(compare, "open_session", only_onnx)
    board = dashboard(bundles)
    board.target.value = "linux-torchscript"
    assert "does not run here. It is for another system." in text_of(board, "cards")
    assert "no answer here" in text_of(board, "answers")
    assert board.button.disabled
    board.target.value = "linux-onnx"
    assert not board.button.disabled
    assert "does not run here" not in text_of(board, "cards")


@pytest.mark.slow
def test_a_damaged_bundle_is_one_sentence(bundles: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundles, tmp_path / "copy")
    (program,) = (tmp_path / "copy" / "tinynet" / "onnx-int8").glob("*.onnx")
    program.write_bytes(program.read_bytes()[:-1])
    board = dashboard(tmp_path / "copy")
    assert "is damaged" in text_of(board, "cards")
    (tmp_path / "copy" / "tinynet" / "onnx-fp32" / "bundle.json").write_text("{", encoding="utf-8")
    found = catalog(tmp_path / "copy")
    assert [name.split(":")[0] for name in found.broken] == ["tinynet/onnx-fp32"]
    assert "1 bundle can&#39;t be read" in page.missing(found, "tinynet")


@pytest.mark.slow
def test_before_a_measurement_the_card_says_what_was_recorded(bundles: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundles, tmp_path / "copy")
    Bundle.load(tmp_path / "copy" / "tinynet" / "onnx-int8").record(top1=91.5, agreement=97.25)
    said = text_of(dashboard(tmp_path / "copy"), "cards")
    assert "91.5" in said
    assert "recorded by the run" in said
    assert "97.2" in said


@pytest.mark.slow
def test_an_error_in_a_callback_is_shown_in_the_page(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = dashboard(bundles)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("<b>engine</b> says no")

    monkeypatch.setattr(compare, "measure", broken)
    board.button.click()
    assert "RuntimeError: &lt;b&gt;engine&lt;/b&gt; says no" in board._html["status"].value
    assert not board.button.disabled
    assert board.progress.layout.display == "none"


def test_a_folder_without_bundles_says_how_to_make_some(tmp_path: Path) -> None:
    board = dashboard(tmp_path / "none")
    assert f"edge-lab run efficientnet_lite0 --out {tmp_path / 'none'}" in text_of(board, "status")


def test_uploads_are_pictures_or_one_sentence() -> None:
    buffer = io.BytesIO()
    data.load("photos")[0].save(buffer, "JPEG")
    assert compare.picture(buffer.getvalue(), "a.jpg").mode == "RGB"
    for content in (b"", b"no picture", buffer.getvalue()[:500]):
        with pytest.raises(DataError) as caught:
            compare.picture(content, "bad.jpg")
        assert "bad.jpg" in caught.value.what
        assert "BytesIO" not in str(caught.value)


@pytest.mark.slow
def test_names_are_escaped(bundles: Path) -> None:
    board = dashboard(bundles)
    images = data.load("digits", "test").take(3)
    hostile = "<img src=x onerror=alert(1)>"
    board._pictures = replace(images, names=(hostile, "b", "c"))
    board._show()
    assert hostile not in board._html["answers"].value
    assert "&lt;img" in board._html["answers"].value
