"""The report: right headline, nothing loaded from elsewhere, nothing a label or an error message could inject."""

from __future__ import annotations

import base64
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edge_lab import report
from edge_lab.core.errors import EdgeLabError
from edge_lab.report import charts, findings, scatter
from edge_lab.results.result import Example, Failure, RunResult, TargetResult, Verdict

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=1>\x1b[31m|`"
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 not a real picture").decode()


def made_up(target: str, mb: float, ms: float, agreement: float = 100.0, **more: object) -> TargetResult:
    precision = target.rsplit("-", 1)[1]
    verdicts = (
        Verdict("max_size_mb", mb, 10.0, mb <= 10.0, "MB"),
        Verdict("min_agreement", agreement, 95.0, agreement >= 95.0, "%"),
    )
    row = TargetResult(target, "pte", precision, size_mb=mb, p50_ms=ms, p90_ms=ms * 1.1, agreement=agreement)
    return replace(row, **{"verdicts": verdicts, "samples_ms": tuple(ms + i / 100 for i in range(20)), **more})


def made_up_run(*rows: TargetResult, **more: object) -> RunResult:
    eager = TargetResult("eager-fp32", "pytorch", "fp32", size_mb=20.0, p50_ms=20.0, agreement=100.0, sqnr_db=200.0)
    run = RunResult(
        model="made_up",
        weights="random",
        dataset="noise",
        images=8,
        skipped_images=1,
        rows=(eager, *rows),
        machine={"cpu": "a made-up one"},
        versions={"torch": "0"},
        command="edge-lab run made_up",
        date="2026-01-01T00:00:00Z",
        seconds=75.0,
        has_labels=False,
    )
    return replace(run, **more)


class Page(HTMLParser):
    """Collects every attribute and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.lasttag != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_headline_is_the_smallest_and_the_fastest_that_pass() -> None:
    small, fast = made_up("a-small-int8", 5.0, 9.0), made_up("b-fast-int8", 6.0, 3.0)
    tiny_but_wrong = made_up("c-tiny-int8", 1.0, 1.0, agreement=50.0)
    unproven = TargetResult("d-coreml-fp16", "mlpackage", "fp16", size_mb=0.5)
    run = made_up_run(small, fast, tiny_but_wrong, unproven)
    assert [a.row for a in findings.answers(run)] == [small, fast]
    assert findings.answers(run)[0].against == "4.0× smaller than eager PyTorch"
    assert [findings.state(run, row) for row in run.rows] == ["baseline", "pass", "pass", "over", "unproven"]
    text = Page(report.html(run)).text
    assert "Smallest that passes 5.00 MB a-small-int8" in text
    assert "Fastest that passes 3.00 ms b-fast-int8" in text


def test_a_slower_or_larger_winner_is_not_called_faster_or_smaller() -> None:
    run = made_up_run(made_up("a-big-fp32", 8.0, 40.0))
    run = replace(run, rows=(replace(run.rows[0], size_mb=4.0), *run.rows[1:]))
    assert [a.against for a in findings.answers(run)] == [
        "2.0× larger than eager PyTorch",
        "2.0× slower than eager PyTorch",
    ]


def test_when_nothing_passes_the_page_says_so_and_why() -> None:
    failed = TargetResult("a-x-fp32", "onnx", "fp32", status="failed", failure=Failure("W.", "because", "do this"))
    run = made_up_run(made_up("b-y-int8", 50.0, 1.0), failed)
    assert findings.sentence(run) == "No target passes: of 2, 1 over budget, 1 not exported."
    page = Page(report.html(run)).text
    assert "No target passes" in page
    assert "What W. Why because Fix do this" in page
    assert "FAIL a-x-fp32: W.\n  why: because\n  fix: do this" in report.table(run, color=False)


def test_hostile_text_stays_text() -> None:
    verdict = Verdict(HOSTILE, math.nan, math.inf, None, HOSTILE)
    row = made_up("x-y-int8", 5.0, 5.0)
    row = replace(row, target=HOSTILE, format=HOSTILE, precision=HOSTILE, notes=(HOSTILE,), verdicts=(verdict,))
    failed = TargetResult("f-x-fp32", "onnx", "fp32", status="failed", failure=Failure(HOSTILE, HOSTILE, HOSTILE))
    example = Example(HOSTILE, '"><script>', HOSTILE, {HOSTILE: ((HOSTILE, math.nan),), "empty": ()})
    run = made_up_run(row, failed, examples=(example,), machine={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE})
    run = replace(run, model=HOSTILE, weights=HOSTILE, dataset=HOSTILE, command=HOSTILE, date=HOSTILE)
    page = Page(report.html(run))
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text  # as text, readable
    assert "\x1b" not in report.html(run) + report.table(run, color=False) + report.markdown(run)
    assert "<script" not in report.markdown(run)


def test_numbers_that_are_missing_or_not_finite_show_as_a_dash() -> None:
    nothing = TargetResult("a-none-fp32", "onnx", "fp32")
    nan = TargetResult(
        "b-nan-fp32", "onnx", "fp32", size_mb=math.nan, p50_ms=math.inf, agreement=math.nan, delegated=math.nan
    )
    strange = made_up("c-z-int8", 0.0, 0.0, samples_ms=(math.nan, math.inf, 0.0))
    for rows in ((nothing, nan), (nothing, nan, strange)):
        run = made_up_run(*rows, has_labels=True)
        page = report.html(run)
        assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"[ab]-\w+-fp32", "", page))
        assert "nan" not in report.table(run, color=False).replace("b-nan", "")
    assert findings.number(None) == findings.number(math.nan) == findings.percent(math.inf) == "–"
    assert [findings.number(v) for v in (0.10666, 4.953, 18.83, 110.0, 1234.5, 0)] == [
        "0.107",
        "4.95",
        "18.8",
        "110",
        "1234",
        "0",
    ]
    assert findings.decibels(200.0) == "equal"


def test_a_run_of_eager_only_or_of_one_target_still_draws() -> None:
    assert "no target was asked for" in Page(report.html(made_up_run())).text
    assert "a-b-fp32" in report.html(made_up_run(made_up("a-b-fp32", 1.0, 1.0)))
    with pytest.raises(EdgeLabError, match="no rows"):
        report.html(replace(made_up_run(), rows=()))


def test_nothing_is_loaded_from_anywhere() -> None:
    example = Example("cat", JPEG, "cat", {"eager-fp32": (("cat", 0.9),)})
    page = Page(report.html(made_up_run(made_up("a-b-int8", 5.0, 5.0), examples=(example,))))
    links = [v for name, v in page.attributes if name in ("src", "href", "srcset", "data", "action", "poster") and v]
    assert links == [f"data:image/jpeg;base64,{JPEG}"]
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    text = report.html(made_up_run())
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_a_first_answer_that_differs_from_eager_is_marked() -> None:
    answers = {"b-other-int8": (("dog", 0.6),), "a-same-fp32": (("cat", 0.8),), "eager-fp32": (("cat", 0.9),)}
    page = Page(report.html(made_up_run(examples=(Example("pic", JPEG, "cat", answers),)))).text
    assert page.index("eager-fp32 cat") < page.index(
        "b-other-int8 another"
    )  # eager is read first, in any order of the run
    assert page.count("another answer") == 1
    assert "b-other-int8 another answer dog 60.0" in page


def test_every_raw_sample_is_drawn_or_counted() -> None:
    samples = (*(10.0 + i / 100 for i in range(30)), 500.0)
    run = made_up_run(made_up("a-b-fp32", 5.0, 10.1, samples_ms=samples))
    chart = charts.latency(run)
    assert sum(m.kind == "dot" for m in chart.rows[1].marks) == 30
    assert chart.note == "1 slower sample beyond the axis"
    assert all(0 <= m.at <= 100 for row in chart.rows for m in row.marks)


@pytest.mark.parametrize(("low", "high"), [(0, 22.4), (0, 0.013), (88.3, 100), (0, 4321.0)])
def test_axis_ticks_are_round_and_cover_the_data(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert all(len(f"{t:g}".strip("0").replace(".", "")) <= 4 for t in ticks)


def test_numbers_in_the_scatter_do_not_cover_each_other() -> None:
    places = [(90.0, 50.0), (90.5, 51.0), (91.0, 50.5), (20.0, 80.0), (20.5, 81.0), (90.2, 49.0)]
    offsets = scatter._place_labels(places)
    for width in (270.0, 460.0):
        spots = [(x * width / 100 + dx, y * 2.4 + dy) for (x, y), (dx, dy) in zip(places, offsets, strict=True)]
        apart = [math.dist(a, b) for i, a in enumerate(spots) for b in spots[:i]]
        assert min(apart) >= 18.9


def test_the_terminal_table_is_aligned_and_coloured_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_up_run(made_up("a-long-name-of-a-target-int8", 5.0, 5.0), made_up("b-c-int8", 60.0, 1.0))
    lines = report.table(run, color=False).splitlines()
    head = next(i for i, line in enumerate(lines) if "target" in line)
    column = lines[head].index("p50 ms") + len("p50 ms")
    assert [line[:column].split()[-1] for line in lines[head + 2 : head + 5]] == ["20.0", "5.00", "1.00"]
    assert "b-c-int8: size 60.0 MB, limit ≤ 10.0 MB" in report.table(run, color=False)
    assert "\x1b" in report.table(run, color=True)
    assert "\x1b" not in report.table(run)  # pytest's stdout is no terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in report.table(run)


def test_markdown_is_a_table_that_a_label_cannot_break() -> None:
    rows = [
        line for line in report.markdown(made_up_run(made_up("a|b-int8", 5.0, 5.0))).splitlines() if line[:1] == "|"
    ]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {9}


def test_write_is_whole_or_absent(tmp_path: Path) -> None:
    page = report.write(made_up_run(), tmp_path / "deep" / "r.html")
    assert page.read_text(encoding="utf-8").endswith("</html>\n") or page.read_text(encoding="utf-8").endswith(
        "</html>"
    )
    with pytest.raises(EdgeLabError):
        report.write(replace(made_up_run(), rows=()), page)
    assert "</html>" in page.read_text(encoding="utf-8")
    assert os.listdir(page.parent) == ["r.html"]


def test_a_saved_run_draws_the_same_page(tmp_path: Path) -> None:
    run = made_up_run(made_up("a-b-int8", 5.0, 5.0), examples=(Example("p", JPEG, None, {"a-b-int8": (("x", 0.5),)}),))
    run.save(tmp_path / "run.json")
    assert report.html(RunResult.load(tmp_path / "run.json")) == report.html(run)
