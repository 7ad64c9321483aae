"""The dashboard in JupyterLab, in a real Chromium: what the page shows is what edge_lab computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, LEGIBLE, PATIENCE_MS, STICKS_OUT, at_rest, chromium, jupyterlab, notebook, open_and_run
from machine_tools import tool

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.signals.image import read_image
from edge_lab.widgets import compare

TINYNET = Path(__file__).resolve().parent.parent / "labs" / "checkpoints" / "tinynet-digits.safetensors"
TARGETS = ("linux-onnx-fp32", "linux-onnx-int8", "linux-torchscript-fp32")


@pytest.mark.slow
def test_a_reader_chooses_measures_and_tries_a_picture(tmp_path: Path) -> None:
    executable = tool(*CHROMIUM, package="chromium")
    images = data.load("digits", "val", limit=32)
    model = zoo.create("tinynet", weights=str(TINYNET))
    paths = {
        name: edge_lab.to(model, name, calibration=images, golden=images, out=tmp_path / "out") for name in TARGETS
    }
    picture, broken = tmp_path / "seven.png", tmp_path / "broken.jpg"
    data.load("digits", "test")[7].save(picture)
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    code = "from edge_lab.widgets import dashboard\n\ndashboard('out', rounds=10)"
    notebook(tmp_path / "board.ipynb", code)
    with jupyterlab(tmp_path) as address, chromium(executable) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 1300})
        page.set_default_timeout(PATIENCE_MS)
        outside: list[str] = []
        page.on(
            "request",
            lambda r: None if "127.0.0.1" in r.url or r.url.startswith(("data:", "blob:")) else outside.append(r.url),
        )
        open_and_run(page, address.format("board.ipynb"))
        page.locator('.el-card[data-side="right"][data-label="linux-onnx int8"]').wait_for()
        page.get_by_label("Target", exact=True).select_option("linux-torchscript")
        page.locator('.el-card[data-side="right"][data-label="linux-torchscript fp32"]').wait_for()
        page.get_by_label("Target", exact=True).select_option("linux-onnx")
        page.get_by_label("Precision", exact=True).select_option("int8")
        card = page.locator('.el-card[data-side="right"][data-label="linux-onnx int8"]')
        card.wait_for()
        assert f"{paths['linux-onnx-int8'].program_bytes / 1e6:.3g}" in card.inner_text()
        page.get_by_label("Beside it").select_option("linux-onnx fp32")
        page.get_by_role("button", name="Measure").click()
        page.get_by_text("Latency, every call").wait_for()
        page.locator(".edge-lab circle.dot").nth(19).wait_for()
        assert page.locator(".edge-lab circle.dot").count() == 20
        assert "Top-1" in card.inner_text()
        _upload(page, picture)
        page.locator("figcaption", has_text="seven.png").wait_for()  # the uploader lists the name too
        for side, name in (("left", "linux-onnx-fp32"), ("right", "linux-onnx-int8")):
            assert _answers(page, side) == _expected(paths[name], picture)
        _upload(page, broken)
        error = page.locator(".el-note.bad")
        error.wait_for()
        assert "broken.jpg could not be read as a picture." in error.inner_text()
        assert "Traceback" not in page.locator("body").inner_text()
        page.get_by_role("button", name="Next").click()
        page.get_by_text("2 of 200").wait_for()
        _fits(page)
        assert not outside


def _upload(page: Any, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Your own picture").click()
    chooser.value.set_files(str(file))


def _answers(page: Any, side: str) -> list[tuple[str, str]]:
    rows = page.locator(f'.el-top[data-side="{side}"] li').all()
    return [tuple(row.locator("span").all_inner_texts()) for row in rows]


def _expected(bundle: Bundle, picture: Path) -> list[tuple[str, str]]:
    best = compare.top5(edge_lab.load(bundle), read_image(picture))
    return [(answer.label, f"{100 * answer.score:.1f} %") for answer in best]


def _fits(page: Any) -> None:
    """In both themes text is legible; in a narrow window nothing sticks out."""
    for theme, light in (("JupyterLab Light", "true"), ("JupyterLab Dark", "false")):
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        # The style sheet comes after the attribute: the text has its colour when it is there.
        page.locator(f'body[data-jp-theme-light="{light}"]').wait_for(state="attached")
        page.wait_for_function(
            "light => (Number(getComputedStyle(document.body).color.match(/\\d+/)[0]) < 128) === light",
            arg=light == "true",
        )
        assert not at_rest(page, LEGIBLE, ".edge-lab"), theme
    page.set_viewport_size({"width": 620, "height": 1000})
    assert not at_rest(page, STICKS_OUT, [".edge-lab", 620])
