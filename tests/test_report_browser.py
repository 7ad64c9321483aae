"""The pages in a real Chromium: a phone and a desk, light and dark. Nothing sticks out, all is legible and offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, LEGIBLE, chromium
from machine_tools import tool
from test_report import made_up, made_up_run

from edge_lab import report
from edge_lab.measure import Engine, Gate, Latency, Measurement, Measurements, Quality
from edge_lab.report.measured_page import measured_html, write_measured
from edge_lab.results.result import Example, Failure, TargetResult

OUTSIDE = """() => [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => `${e.tagName}.${e.className.baseVal ?? e.className} ${e.textContent.slice(0, 40)}`)"""


def a_run() -> Any:
    failed = TargetResult("a-x-fp32", "onnx", "fp32", status="failed", failure=Failure("W.", "because", "do this"))
    rows = (
        made_up("android-xnnpack-int8", 4.94, 5.8, 98.7, delegated=1.0, notes=("a remark",)),
        made_up("android-xnnpack-fp32", 18.6, 10.3),
        made_up("linux-onnx-int8", 5.18, 7.9, 50.0),
        made_up("linux-torchscript-fp32", 18.6, 31.0),
        TargetResult("ios-coreml-fp16", "mlpackage", "fp16", size_mb=9.4),
        failed,
    )
    answers = {r.target: (("a_rather_long_label_of_one_word", 0.91), ("cup", 0.05), ("bowl", 0.01)) for r in rows[:3]}
    return made_up_run(*rows, examples=(Example("coffee", "", "espresso", {"eager-fp32": (("cup", 0.6),), **answers}),))


def some_measurements() -> Measurements:
    items = [
        Measurement(
            f"net/{name}",
            Engine(name.split("-")[0], "1.0"),
            Latency(
                tuple(ms * (1 + i / 90) / 1e3 for i in range(30)), tuple(ms * (1 + i / 99) / 1e3 for i in range(30)), 5
            ),
            "net",
            precision=name.split("-")[1],
            size_bytes=size,
            quality=Quality("pictures", 100, top1, None, top1),
        )
        for name, ms, size, top1 in (
            ("executorch-int8", 6.0, 4_900_000, 88.0),
            ("onnxruntime-fp32", 9.0, 18_600_000, 88.0),
            ("a_peer_with_a_long_name-fp32", 12.0, 19_000_000, 87.0),
        )
    ]
    gate = Gate("busy", 0.4, None, ("other processes use over 15 % of the cores.",))
    return Measurements(
        "edge-lab", "edge-lab bench", "2026-01-01T00:00:00Z", {"cpu": "made up"}, gate, {"torch": "0"}, tuple(items)
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "run": report.write(a_run(), folder / "run.html"),
        "measured": write_measured(some_measurements(), folder / "measured.html"),
    }


def test_both_pages_on_a_phone_and_a_desk_in_both_schemes(pages: dict[str, Path]) -> None:
    executable, wrong = tool(*CHROMIUM, package="chromium"), []
    with chromium(executable) as browser:
        for kind, path in pages.items():
            for width, height in ((390, 844), (1280, 900)):
                for scheme in ("light", "dark"):
                    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                    asked: list[str] = []
                    said: list[str] = []
                    page.on("request", lambda r, asked=asked: asked.append(r.url))
                    page.on("console", lambda m, said=said: said.append(m.text))
                    page.on("pageerror", lambda e, said=said: said.append(str(e)))
                    page.goto(path.as_uri())
                    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                    found = [*page.evaluate(LEGIBLE, "body"), *page.evaluate(OUTSIDE), *said]
                    found += [url for url in asked if url != path.as_uri() and not url.startswith("data:")]
                    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        found.append("the page scrolls sideways")
                    wrong += [f"{kind} {width} {scheme}: {what}" for what in found]
                    page.close()
    assert not wrong, "\n".join(wrong)


def test_the_front_is_drawn_as_decide_finds_it(pages: dict[str, Path]) -> None:
    """int8 XNNPACK is smallest and fastest; eager and fp32 XNNPACK are more accurate; the others are beaten."""
    from edge_lab.report import scatter

    chart = scatter.of_run(a_run())
    assert chart is not None
    front = {p.name for p in chart.points if p.front}
    assert front == {"android-xnnpack-int8", "android-xnnpack-fp32"}
    text = pages["run"].read_text(encoding="utf-8")
    assert text.count("<em>front</em>") == 2
    assert "recommended on these numbers" in pages["measured"].read_text(encoding="utf-8").lower()


def test_a_recommendation_without_accuracy_says_so(pages: dict[str, Path]) -> None:
    found, words = some_measurements(), "says nothing about accuracy"
    assert words not in pages["measured"].read_text(encoding="utf-8")
    assert words in measured_html(replace(found, items=tuple(replace(i, quality=None) for i in found)))


def test_report_draws_what_the_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edge_lab.cli import main as cli

    some_measurements().save(tmp_path / "peers.json")
    a_run().save(tmp_path / "run.json")
    assert cli.main(["report", str(tmp_path / "peers.json")]) == 0
    assert "edge-lab measurements" in (tmp_path / "peers.html").read_text(encoding="utf-8")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "edge-lab report" in (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "other.json").write_text("[1]", encoding="utf-8")
    assert cli.main(["report", str(tmp_path / "other.json")]) != 0
    assert "can't be read" in capsys.readouterr().err
