"""A sweep: resumable, shared, and not ended by the death of a worker."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import nets
import pytest

from edge_lab import data
from edge_lab.cli import main as cli
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.results.budget import Budget
from edge_lab.sweep import Evaluator, Scores, Settings, SweepConfig, SweepResult, read, sweep
from edge_lab.sweep.trial import Trial

CHOICES = {"width": (1, 2, 4, 8), "bits": (4, 8, 32)}


@dataclass(frozen=True)
class Pretend:
    """A landscape in place of a network. `deadly` settings kill the process, once: `mark` remembers it."""

    deadly: tuple[int, int] | None = None
    mark: Path | None = None
    slow_s: float = 0.0

    def __call__(self, settings: Settings) -> Scores:
        width, bits = int(settings["width"]), int(settings["bits"])
        if self.deadly == (width, bits) and self.mark and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow_s)
        if (width, bits) == (1, 4):
            raise EdgeLabError("it can't be exported.", "4 bits of nothing.", "use more.")
        return Scores(width * bits / 32, width * (0.5 + bits / 64), 100 - 20 / width - (8 if bits == 4 else 0), 100)


def config(**more: object) -> SweepConfig:
    return SweepConfig(CHOICES, **({"trials": 10} | more))  # type: ignore[arg-type]


def test_a_sweep_finds_a_front_and_a_choice(tmp_path: Path) -> None:
    found = sweep(Pretend(), config(trials=40))
    assert len(found.candidates) == len([t for t in found.trials if t.scores]) == 11  # one of 12 can't be exported
    assert "width=8 bits=8" not in {c.name for c in found.front.beaten}  # the most accurate there is
    assert found.best().choice is not None
    assert [t.why for t in found.failed] == ["4 bits of nothing."]
    found.save(tmp_path / "sweep.json")
    assert SweepResult.load(tmp_path / "sweep.json") == found
    assert str(found).count("\n") >= len(found.candidates)


def test_no_settings_are_evaluated_twice_and_a_small_space_is_tried_whole() -> None:
    calls: list[str] = []

    def evaluate(settings: Settings) -> Scores:
        calls.append(str(settings))
        return Scores(1.0, 1.0, 90.0, 100)

    sweep(evaluate, config(trials=60))
    assert len(calls) == len(set(calls)) == 12


def test_the_same_seed_tries_the_same(tmp_path: Path) -> None:
    runs = [[t.settings for t in sweep(Pretend(), config(trials=6, seed=s)).trials] for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_interrupted_and_run_again_it_goes_on(tmp_path: Path) -> None:
    stored = config(storage=str(tmp_path / "s.journal"))
    lines: list[str] = []

    def stop_after_four(line: str) -> None:
        lines.append(line)
        if len(lines) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(Pretend(), stored, show=stop_after_four)
    first = [t for t in read(stored).trials if t.scores]
    assert 3 <= len(first) <= 4
    again = sweep(Pretend(), stored)
    assert len([t for t in again.trials if t.scores or t.why == "4 bits of nothing."]) == 10
    assert [t for t in again.trials if t.scores][: len(first)] == first


def test_a_killed_process_costs_one_trial_and_its_settings_are_tried_again(tmp_path: Path) -> None:
    deadly = Pretend((8, 32), tmp_path / "mark", slow_s=0.02)
    stored = config(trials=30, workers=2, storage=str(tmp_path / "s.journal"))
    lines: list[str] = []
    found = sweep(deadly, stored, show=lines.append)
    assert (tmp_path / "mark").exists()
    assert any("its trial is tried again" in line for line in lines)
    assert [t.why for t in found.failed if t.settings.get("bits") == 32] == ["its worker was lost"]
    assert any(t.settings == {"width": 8, "bits": 32} for t in found.trials if t.scores)
    assert len(found.candidates) == 11


def test_two_machines_join_one_study(tmp_path: Path) -> None:
    from edge_lab.sweep.study import ask, open_study

    stored = config(storage=f"sqlite:///{tmp_path / 's.db'}", stale_s=0.5)
    elsewhere = open_study(stored, worker=1)
    asked = ask(elsewhere, stored, worker="another:1")  # another machine takes a trial and is switched off
    assert asked is not None
    wanted = asked[1]
    time.sleep(0.6)
    found = sweep(Pretend(), stored)
    assert found.trials[0].why == "its worker was lost"
    assert found.trials[0].settings == wanted
    assert [t.settings for t in found.trials if t.number > 0].count(wanted) == 1
    assert len(found.trials) == 11


def test_a_worker_that_was_taken_for_lost_goes_on_when_it_is_done(tmp_path: Path) -> None:
    stored = config(trials=3, storage=str(tmp_path / "s.journal"), stale_s=0.2)
    lines: list[str] = []

    def slow_once(settings: Settings) -> Scores:
        if not lines:
            from edge_lab.sweep.study import expire, open_study

            time.sleep(0.3)
            expire(open_study(stored, worker=1), 0.2)  # meanwhile another machine gives this trial up
        return Pretend()({"width": 8, **settings, "bits": 32})

    found = sweep(slow_once, stored, show=lines.append)
    assert found.trials[0].why == "its worker was lost"
    assert len([t for t in found.trials if t.scores]) == 3


def test_a_ray_cluster_loses_one_worker_and_one_trial(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    mark = str(tmp_path / "mark")

    def evaluate(settings: Settings) -> Scores:  # nested, so that it travels to the workers by value
        import os

        width, bits = int(settings["width"]), int(settings["bits"])
        if (width, bits) == (8, 32) and not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(1)
        return Scores(width * bits / 32, width * (0.5 + bits / 64), 100 - 20 / width, 100, bundle=str(os.getpid()))

    lines: list[str] = []
    found = sweep(evaluate, config(trials=30, workers=2), ray="local", show=lines.append)
    assert os.path.exists(mark)
    assert sum("its trial is tried again" in line for line in lines) == 1
    assert [t.why for t in found.failed] == ["its worker was lost"]
    assert any(t.settings == {"width": 8, "bits": 32} for t in found.trials if t.scores)
    assert len(found.candidates) == 12
    assert len({t.scores.bundle for t in found.trials if t.scores}) >= 2  # both workers worked


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"choices": {}}, "nothing to try"),
        ({"choices": {"a": ()}}, "'a' has no values"),
        ({"choices": CHOICES, "trials": 0}, "nothing to try"),
    ],
)
def test_a_sweep_of_nothing_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SweepConfig(**wrong)  # type: ignore[arg-type]


def test_a_storage_of_another_study_is_refused(tmp_path: Path) -> None:
    storage = str(tmp_path / "s.journal")
    sweep(Pretend(), config(trials=1, storage=storage))
    with pytest.raises(InputError, match="is of other settings"):
        sweep(Pretend(), SweepConfig({"width": (1, 2)}, trials=1, storage=storage))
    with pytest.raises(InputError, match="can't be opened"):
        sweep(Pretend(), config(storage="nosuch://database"))


def test_a_real_network(tmp_path: Path) -> None:
    """Float and int8 of a small network, whole and with half its channels: smaller every time, and all of them run."""
    images = data.load("photos")
    choices = {"target": ("linux-onnx-fp32", "linux-xnnpack-int8"), "pruned": (0.0, 0.5)}
    evaluate = Evaluator(nets.good(), images, out=tmp_path, rounds=10)
    found = sweep(evaluate, SweepConfig(choices, trials=4))
    assert not found.failed
    sizes = {(c.target, c.pruned): c.size_mb for c in found.candidates}
    assert len(sizes) == 4
    for target in choices["target"]:
        assert sizes[target, 0.5] < sizes[target, 0.0]  # type: ignore[operator]
    right = {(c.target, c.pruned): c.top1 for c in found.candidates}
    assert right["linux-onnx-fp32", 0.0] == 100.0  # it answers as the model that it is
    with pytest.raises(InputError, match="no setting 'colour'"):
        evaluate({"colour": "red"})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(
        "import sys\n" + f"sys.path.insert(0, {str(Path(nets.__file__).parent)!r})\nfrom nets import good\n"
    )
    arguments = ["sweep", "my_model.py:good", "--images", "photos", "--limit", "4", "--targets", "linux-onnx-fp32"]
    assert cli.main([*arguments, "--json", "s.json", "--out", "out"]) == 0
    shown = capsys.readouterr()
    assert "recommended: target=linux-onnx-fp32" in shown.out
    assert "1/1" in shown.err
    assert len(SweepResult.load(tmp_path / "s.json").trials) == 1
    assert cli.main([*arguments, "--workers", "2"]) == 2
    assert "can't share a study" in capsys.readouterr().err


def test_a_sweep_where_nothing_works_ends() -> None:
    def never(settings: Settings) -> Scores:
        raise EdgeLabError("no program.", "nothing works.", "give up.")

    found = sweep(never, config(trials=5))
    assert len(found.failed) == 5
    assert not found.candidates


def test_limits_in_milliseconds_are_not_compared_with_ratios() -> None:
    slow = Scores(1.0, 0.5, 95.0, 100, p50_ms=40.0)  # half the reference's 80 ms
    found = SweepResult((Trial(0, {"width": 1}, slow),), SweepConfig({"width": (1,)}))
    assert found.best(Budget(max_p50_ms=1.0)).choice is None
    kept = found.best(Budget(max_p50_ms=50.0))
    assert kept.choice in found.front
    assert "40 ms" in kept.reason
