"""Latency, accuracy and parity: the numbers are right, and nothing broken can pass."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edge_lab.bundle.spec import ModelSpec, Preprocess, TensorSpec
from edge_lab.core.errors import InputError
from edge_lab.measure import (
    Latency,
    evaluate,
    interleaved,
    latency,
    outputs_of,
    parity,
    prepare,
    ratio,
    score,
    timing,
)
from edge_lab.quality.accuracy import _key
from edge_lab.signals.audio import Audio, LogMel


def _latency(*cpu: float, wall: tuple[float, ...] | None = None, threads: int = 1) -> Latency:
    return Latency(wall or cpu, cpu, warmup=0, threads=threads)


@dataclass(frozen=True)
class FakeSession:
    """Answers with fixed rows, one per call."""

    rows: list[list[float]]

    def run(self, x: np.ndarray, /) -> tuple[np.ndarray, ...]:
        return (np.array([self.rows[int(x.flat[0])]], np.float32),)


def test_percentiles_iqr_and_outliers_are_the_textbook_values() -> None:
    times = _latency(*(i / 100 for i in range(1, 101)), 9.0)
    assert times.p50 == pytest.approx(0.51)
    assert times.p90 == pytest.approx(0.91)
    assert times.p99_ms == pytest.approx(1000.0)
    assert times.iqr == pytest.approx(0.5)
    assert times.outliers == 1
    assert times.mean > times.p50  # the outlier pulls the mean, not the median


def test_warm_up_calls_are_made_and_not_counted() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    result = latency(call, warmup=3, rounds=7)
    assert (calls, len(result.samples_s), result.warmup) == (10, 7, 3)


def test_min_seconds_adds_rounds_and_max_seconds_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(timing, "time", clock)  # no call takes as long as it says here

    def takes(seconds: float) -> None:
        now[0] += seconds

    assert len(latency(lambda: takes(1), rounds=2, warmup=0, min_seconds=4.5).samples_s) == 5
    assert len(latency(lambda: takes(1), rounds=1000, warmup=0, max_seconds=4.5).samples_s) == 5


def test_a_batch_is_the_offline_scenario_and_counts_every_input() -> None:
    result = latency(lambda x: sum(range(2000)), np.zeros((8, 3)), rounds=3)
    assert (result.scenario, result.batch) == ("offline_batch", 8)
    assert result.per_second == pytest.approx(8 / result.p50)
    assert latency(lambda x: None, np.zeros((1, 3)), rounds=1).scenario == "single_stream"


def test_waiting_is_labelled_busy_and_cpu_time_leaves_it_out() -> None:
    result = latency(lambda: time.sleep(0.01), rounds=3, warmup=0)
    assert result.busy
    assert "busy" in result.note
    assert result.p50 < 0.005 < min(result.samples_s)


def test_hidden_threads_are_labelled() -> None:
    assert "not on one thread" in _latency(0.2, wall=(0.1,)).note
    assert _latency(0.2, wall=(0.1,), threads=2).note == ""


def test_programs_that_were_disturbed_alike_carry_one_remark() -> None:
    assert _latency(0.1, wall=(0.2,)).note == _latency(0.1, wall=(0.5,)).note != ""


def test_several_threads_are_timed_by_the_wall_clock() -> None:
    @dataclass
    class TwoThreads:
        threads: int = 2

        def __call__(self) -> None:
            sum(range(1000))

    result = latency(TwoThreads(), rounds=2)
    assert (result.threads, result.clock) == (2, "wall")
    assert result.times == result.samples_s


def test_interleaved_runs_each_call_once_a_round_in_a_reproducible_shuffled_order() -> None:
    def order(seed: int) -> str:
        log: list[str] = []
        interleaved({n: lambda n=n: log.append(n) for n in "abc"}, rounds=20, warmup=2, seed=seed)  # type: ignore[misc]
        return "".join(log)

    log = order(0)
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert len(rounds) == 22
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 2
    assert log == order(0) != order(1)


def test_ratio_survives_drift_that_hits_both_calls() -> None:
    drift = np.linspace(1, 5, 31)
    result = ratio(_latency(*(2 * drift)), _latency(*drift))
    assert result.value == pytest.approx(2)
    assert (result.low, result.high) == pytest.approx((2, 2))
    assert result.differs
    assert result.level > 0.95


def test_ratio_of_equal_noise_does_not_claim_a_difference_too_often() -> None:
    rng = np.random.default_rng(0)
    claims = sum(ratio(_latency(*rng.uniform(1, 2, 21)), _latency(*rng.uniform(1, 2, 21))).differs for _ in range(400))
    assert claims < 0.08 * 400  # 5 % are expected


def test_ratio_says_its_real_level_with_few_pairs_and_refuses_unpaired_samples() -> None:
    few = ratio(_latency(1, 2, 3), _latency(1, 1, 1))
    assert (few.low, few.high, few.level) == (1, 3, pytest.approx(0.75))
    with pytest.raises(InputError, match="interleaved"):
        ratio(_latency(1, 2), _latency(1))


def test_latency_survives_json() -> None:
    result = latency(lambda: None, rounds=4)
    assert Latency.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_no_rounds_is_an_error() -> None:
    with pytest.raises(InputError, match="rounds=0"):
        latency(lambda: None, rounds=0)


def test_accuracy_accepts_any_listed_class_and_leaves_unlabelled_out() -> None:
    rows = np.eye(7, dtype=np.float32)[[0, 1, 2, 3]] + np.arange(7) / 100
    result = score(rows, [(0,), (9, 1), (), (0,)])
    assert (result.top1, result.labelled, result.n) == (pytest.approx(200 / 3), 3, 4)
    assert result.top5 == pytest.approx(200 / 3)  # class 0 is the last but one in row 3: 3 6 5 4 2 | 1 0


def test_accuracy_of_nothing_labelled_is_none_and_nan_is_wrong() -> None:
    nothing = score(np.zeros((2, 10)), [(), ()])
    assert (nothing.top1, nothing.top5, nothing.labelled) == (None, None, 0)
    assert score(np.full((1, 10), np.nan), [(0,)]).top1 == 0


def test_top5_is_not_reported_where_it_would_always_be_100() -> None:
    assert score(np.eye(3), [(0,), (1,), (2,)]).top5 is None


def test_targets_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="2 targets"):
        score(np.zeros((3, 10)), [(0,), (1,)])


@dataclass(frozen=True)
class FakeImages:
    """Three grey pictures with a counter of how often one was decoded."""

    opened: list[int]
    name: str = "grey"
    targets: tuple[tuple[int, ...], ...] = ((0,), (1,), ())
    fingerprint: str = "f00"

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int, /) -> Image.Image:
        self.opened.append(index)
        return Image.new("RGB", (12, 10), (index, index, index))


SPEC = ModelSpec(
    "m", "classify", TensorSpec("x", (1, 3, 8, 8)), Preprocess(8, (8, 8), (0.0,) * 3, (1.0,) * 3, scale=1.0)
)


def test_inputs_are_preprocessed_once_and_kept(tmp_path: Path) -> None:
    images = FakeImages([])
    first = prepare(images, SPEC, cache=tmp_path)
    assert first.x.shape == (3, 3, 8, 8)
    assert first.x.dtype == np.float32
    assert [x.shape for x in first] == [(1, 3, 8, 8)] * 3
    again = prepare(images, SPEC, cache=tmp_path)
    assert images.opened == [0, 1, 2]
    np.testing.assert_array_equal(first.x, again.x)
    other = SPEC.with_(preprocess=Preprocess(8, (8, 8), (1.0,) * 3, (1.0,) * 3, scale=1.0))
    assert prepare(images, other, cache=tmp_path).x[0, 0, 0, 0] == -1


def test_recordings_of_another_recipe_are_other_inputs(tmp_path: Path) -> None:
    sounds = FakeImages([])
    heard = {hop: SPEC.with_(preprocess=None, audio=Audio(features=LogMel(hop=hop))) for hop in (160, 320)}
    keys = {_key(sounds, spec) for spec in (*heard.values(), SPEC)}
    assert len(keys) == 3


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    images = FakeImages([])
    prepare(images, SPEC, cache=tmp_path)
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:200])
    assert prepare(images, SPEC, cache=tmp_path).x.shape == (3, 3, 8, 8)


def test_evaluate_runs_a_session_over_prepared_inputs() -> None:
    session = FakeSession([[1, 0], [1, 0], [0, 1]])
    result = evaluate(session, prepare(FakeImages([]), SPEC))
    assert (result.top1, result.labelled, result.n) == (50, 2, 3)


def test_sqnr_is_the_defined_ratio() -> None:
    ref = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    result = parity(ref, ref + np.array([[0.1, 0], [0, 0]], np.float32))
    assert result.sqnr_db == pytest.approx(10 * np.log10(50 / 0.01), abs=1e-3)
    assert (result.agreement, result.worst, result.n) == (100, 0, 2)
    assert result.max_abs == pytest.approx(0.1, abs=1e-6)


def test_equal_outputs_are_infinitely_close() -> None:
    x = np.random.default_rng(0).standard_normal((4, 10))
    assert parity(x, x.copy()).sqnr_db == inf


def test_a_dead_model_disagrees() -> None:
    x = np.eye(10, dtype=np.float32)
    dead = parity(x, np.zeros_like(x))
    assert dead.sqnr_db == pytest.approx(0)
    assert dead.agreement == 10


@pytest.mark.parametrize("value", [np.nan, inf, -inf])
def test_nan_and_inf_never_pass(value: float) -> None:
    x = np.eye(4, dtype=np.float32)
    broken = x.copy()
    broken[2, 1] = value
    for ref, out in [(x, broken), (broken, x), (broken, broken)]:
        result = parity(ref, out)
        assert (result.sqnr_db, result.agreement, result.nonfinite, result.worst) == (-inf, 75, 1, 2)
        assert "NaN or infinite" in result.note


def test_segmentation_agrees_per_pixel_and_other_tasks_have_no_answers() -> None:
    ref = np.zeros((1, 2, 2, 2))
    ref[:, 0] = 1
    out = ref.copy()
    out[0, :, 0, 0] = (0, 1)
    assert parity(ref, out, task="segment").agreement == 75
    assert parity(ref, out, task="detect").agreement is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        parity(np.zeros((2, 3)), np.zeros((3, 2)))


def test_outputs_are_stacked_and_no_inputs_is_an_error() -> None:
    session = FakeSession([[1, 0], [0, 1]])
    out = outputs_of(session, [np.zeros((1, 1)), np.ones((1, 1))])
    np.testing.assert_array_equal(out, [[1, 0], [0, 1]])
    with pytest.raises(InputError, match="no inputs"):
        outputs_of(session, [])
