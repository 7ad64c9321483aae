"""Pareto front and recommendation: nobody on the front is beaten, and the choice is never a slow one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from edge_lab.cli import main as cli
from edge_lab.core.errors import InputError
from edge_lab.decide import Candidate, from_file, from_measurements, from_run, pareto, pareto_plot, recommend, unique
from edge_lab.measure import Budget, Engine, Gate, Latency, Measurement, Measurements, Quality, ratio
from edge_lab.results.result import RunResult, TargetResult

NO_LIMITS = Budget(max_size_mb=None, required=())


def one(name: str, size: float, ms: float, top1: float = 90.0, **more: object) -> Candidate:
    more = {"precision": "int8-static", "images": 100} | more
    return Candidate(name, "engine", size_mb=size, p50_ms=ms, top1=top1, agreement=99.0, **more)  # type: ignore[arg-type]


def table(rng: random.Random) -> list[Candidate]:
    """A made-up field with ties, near ties and holes."""
    count = rng.randint(1, 12)
    return [
        one(
            f"c{i}",
            rng.choice([5.0, 5.1, 10.0, 20.0]),
            rng.choice([4.0, 4.1, 4.19, 4.3, 8.0, 8.2, rng.uniform(3, 20)]),
            rng.choice([90.0, 89.5, 89.0, 88.0, 80.0, rng.uniform(60, 95)]),
            images=rng.choice([20, 100, 1000]),
        )
        for i in range(count)
    ]


def test_the_front_is_what_nobody_beats() -> None:
    small, fast, good = one("small", 1, 9), one("fast", 9, 1), one("good", 9, 9, 99.0)
    worse, twin, hole = one("worse", 2, 10, 89.0), one("twin", 1, 9), replace(one("hole", 1, 1), p50_ms=None)
    found = pareto([worse, good, fast, hole, small, twin])
    assert {c.name for c in found.front} == {"small", "twin", "fast", "good"}
    assert [c.name for c in found.beaten] == ["worse"]
    assert [c.name for c in found.unknown] == ["hole"]
    assert pareto([replace(small, p50_ms=float("nan"))]).front == ()


@pytest.mark.parametrize("seed", range(40))
def test_front_of_any_field(seed: int) -> None:
    field = table(random.Random(seed))
    found = pareto(field, ("size_mb", "p50_ms", "top1"))
    assert len(found.front) + len(found.beaten) == len(field)

    def beats(a: Candidate, b: Candidate) -> bool:
        x, y = (a.size_mb, a.p50_ms, -a.top1), (b.size_mb, b.p50_ms, -b.top1)  # type: ignore[operator]
        return x != y and all(p <= q for p, q in zip(x, y, strict=True))  # type: ignore[operator]

    assert not any(beats(a, b) for a in field for b in found.front)
    assert all(any(beats(a, b) for a in found.front) for b in found.beaten)


@pytest.mark.parametrize("seed", range(200))
def test_nothing_as_accurate_is_more_than_5_percent_faster_than_the_choice(seed: int) -> None:
    field = table(random.Random(seed))
    choice = recommend(field, NO_LIMITS).choice
    assert choice is not None
    rivals = [c for c in field if c.top1 >= choice.top1]  # type: ignore[operator]
    assert choice.p50_ms <= 1.05 * min(c.p50_ms for c in rivals) * (1 + 1e-12)  # type: ignore[type-var, operator]
    best = max(c.top1 for c in field)  # type: ignore[type-var]
    assert best - choice.top1 <= max(1.0, *(c.step for c in field)) + 1e-9  # type: ignore[operator]


def test_a_chain_of_near_ties_does_not_add_up() -> None:
    field = [one("a", 9, 1.0), one("b", 8, 1.04), one("c", 7, 1.08), one("d", 6, 1.12)]
    found = recommend(field, NO_LIMITS)
    assert found.choice is field[1]  # the smaller of those within 5 % of the fastest; c is not
    assert [c.name for c in found.equals] == ["a"]
    assert [c.name for c in found.slower] == ["c", "d"]
    assert "a is as good within 5 %" in found.reason


def test_among_equals_accuracy_counts_only_by_whole_images() -> None:
    field = [one("half an image", 9, 1.0, 90.5), one("small", 5, 1.0, 90.0)]
    assert recommend(field, NO_LIMITS).choice is field[1]
    field = [one("two images", 9, 1.0, 92.0), one("small", 5, 1.0, 90.0)]
    found = recommend(field, NO_LIMITS, max_loss=5)
    assert found.choice is field[0]
    assert "more accurate (92.0 %)" in found.reason


@pytest.mark.parametrize(("noise", "said"), [(0.0, "Round by round: 1.10x"), (0.5, "can't be told apart")])
def test_a_difference_that_the_rounds_do_not_show_is_called_that(noise: float, said: str) -> None:
    rng = random.Random(3)

    def timed(name: str, ms: float) -> Candidate:
        samples = tuple(ms / 1e3 * (1 + noise * rng.uniform(-1, 1)) for _ in range(20))
        return replace(one(name, 5, ms), sitting="today", latency=Latency(samples, samples, 1))

    fast, slow = timed("fast", 1.0), timed("slow", 1.1)
    found = recommend([slow, fast], NO_LIMITS)
    assert found.choice is fast  # whatever the doubt: never the slower median by more than 5 %
    assert said in found.reason
    elsewhere = replace(slow, sitting="yesterday")
    assert "ound by round" not in recommend([elsewhere, fast], NO_LIMITS).reason


def test_what_breaks_a_limit_is_turned_down_with_that_limit() -> None:
    field = [one("big", 60, 1), one("wrong", 5, 2, 70.0), one("good", 5, 3), one("untimed", 5, 1, p90_ms=None)]
    field[3] = replace(field[3], p50_ms=None)
    found = recommend(field)
    assert found.choice is field[2]
    assert found.reason == "It is the only one of them that keeps the budget: 3 ms."
    why = {r.candidate.name: r.why for r in found.rejected}
    assert why["big"] == "size mb 60 MB, at most 50 is allowed."
    assert why["wrong"] == "it loses 20.0 points of accuracy, 1.0 are allowed."
    assert why["untimed"] == "its latency was not measured."


def test_if_nothing_fits_the_nearest_is_named() -> None:
    found = recommend([one("far", 90, 1), one("near", 55, 1)])
    assert found.choice is None
    assert found.reason.startswith("Nothing keeps the budget. Nearest is near, which misses by 10 %")
    with pytest.raises(InputError, match="nothing to choose"):
        recommend([])


def test_ratios_refer_to_eager_pytorch() -> None:
    eager = one("eager", 20, 10, precision="fp32")
    eager = replace(eager, engine="eager")
    field = [eager, one("ort", 20, 5, precision="fp32"), one("slow", 5, 12)]
    found = recommend(field, Budget(max_p50_ratio=1.1))
    assert {r.candidate.name for r in found.rejected} == {"slow"}


def test_agreement_stands_in_for_top1_if_not_all_have_labels() -> None:
    field = [one("a", 5, 1), replace(one("b", 5, 2), top1=None, agreement=100.0)]
    assert recommend(field, NO_LIMITS, max_loss=0.5).choice is field[0]  # 99 of 100: one image
    assert recommend([replace(c, images=1000) for c in field], NO_LIMITS, max_loss=0.5).choice is not None
    assert recommend([replace(c, images=1000) for c in field], NO_LIMITS, max_loss=0.5).choice.name == "b"  # type: ignore[union-attr]


def test_a_run_keeps_one_clock_and_no_other_is_made_up() -> None:
    rows = tuple(
        TargetResult(name, "onnx", "fp32", p50_ms=ms, samples_ms=(ms, 1.01 * ms, 0.99 * ms) * 4)
        for name, ms in (("a", 5.0), ("b", 5.001))
    )
    run = RunResult("m", "default", "photos", 12, 0, rows, {}, {}, "c", "2026-11-23T08:00:00Z", 1.0)
    timed = from_run(run)
    assert timed[0].latency is not None
    assert (timed[0].latency.clock, len(timed[0].latency.cpu_s), timed[0].latency.samples_s) == ("cpu", 12, ())
    assert (timed[0].latency.busy, timed[0].latency.note) == (False, "")
    assert ratio(timed[1].latency, timed[0].latency).pairs == 12  # type: ignore[arg-type]
    assert from_run(replace(run, rows=(replace(rows[0], samples_ms=()),)))[0].latency is None


def test_names_are_told_apart() -> None:
    assert [c.name for c in unique([one("a", 1, 1), one("a", 2, 2), one("b", 1, 1)])] == ["a", "a #2", "b"]


def measured(*items: tuple[str, float, float]) -> Measurements:
    quality = Quality("photos", 100, top1=90.0, agreement=99.0, sqnr_db=25.0)
    made = [
        Measurement(
            name,
            Engine("e"),
            Latency((ms / 1e3,) * 9, (ms / 1e3,) * 9, 1),
            size_bytes=round(mb * 1e6),
            precision="int8-static",
            target="linux-e-int8",
            quality=quality,
        )
        for name, mb, ms in items
    ]
    two = replace(made[0], latency=replace(made[0].latency, threads=2, clock="wall"))
    return Measurements("t", "c", "2026-11-23T08:00:00Z", {}, Gate("quiet"), {}, (*made, two))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measured(("m/a", 5, 3), ("m/b", 6, 2)).save(tmp_path / "m.json")
    assert [c.name for c in from_file(tmp_path / "m.json")[1]] == ["m/a", "m/b"]  # one thread only
    assert cli.main(["decide", "m.json", "--plot", "p.png"]) == 0
    shown = capsys.readouterr().out
    assert "recommended: m/b" in shown
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["decide", "m.json", "--objective", "size"]) == 0
    assert "recommended: m/a" in capsys.readouterr().out
    (tmp_path / "b.toml").write_text("[default]\nmax_size_mb = 1\n")
    assert cli.main(["decide", "m.json", "--budget", "b.toml"]) == 1
    assert "recommended: none of them" in capsys.readouterr().out
    for wrong in (["nowhere.json"], ["b.toml"], ["m.json", "--threads", "4"], ["m.json", "--platform", "ios"]):
        assert cli.main(["decide", *wrong]) == 2
        assert "fix:" in capsys.readouterr().err


def test_the_picture_names_the_front_only() -> None:
    import matplotlib.pyplot as plt

    field = from_measurements(measured(("m/a", 5, 3), ("m/b", 6, 2), ("m/c", 7, 4)))
    axes = pareto_plot(pareto(field), choice=field[0])
    assert {t.get_text() for t in axes.texts} == {"a", "b"}
    plt.close(axes.figure)
    with pytest.raises(InputError, match="is no objective"):
        pareto(field, ("beauty",))
