"""`auto` stops at the first recipe that keeps the budget, never leaks, and says how close it came if none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch

import edge_lab
from edge_lab import data, zoo
from edge_lab.cli import main as cli
from edge_lab.compress import AutoResult, CompressionBudget, StaticInt8, auto, quantize
from edge_lab.compress.graphs.quantized import method_of
from edge_lab.compress.qat import training as qat_training
from edge_lab.compress.qat.training import QAT, QATResult
from edge_lab.core.errors import EdgeLabError, ExportError, InputError
from edge_lab.data import ImageSet
from edge_lab.measure import parity
from edge_lab.quality.agreement import outputs_of
from edge_lab.zoo import Model

CHECKPOINT = Path(__file__).parents[1] / "labs" / "checkpoints" / "tinynet-digits.safetensors"
ANY = CompressionBudget(min_sqnr_db=0)
SMALL_MB = 0.0078  # the small network in int8, and its smallest layer in float


@pytest.fixture(scope="module")
def tiny() -> Model:
    return zoo.create("tinynet", weights=str(CHECKPOINT))


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return data.load("digits", "test").take(60)


@pytest.fixture(scope="module")
def hopeless(digits: ImageSet) -> AutoResult:
    return auto(nets.good(), digits.take(16), CompressionBudget(min_sqnr_db=90, max_size_mb=SMALL_MB))


def test_it_stops_at_the_first_recipe_that_keeps_the_budget(tiny: Model, digits: ImageSet) -> None:
    lines: list[str] = []
    result = auto(tiny, digits, CompressionBudget(min_agreement=95, max_top1_loss=2, max_size_mb=0.4), log=lines.append)
    assert result.met
    assert result.require() is result.model
    assert [step.met for step in result.steps] == [True]
    assert result.chosen == 0
    assert (result.evaluated, result.calibrated) == (45, 15)
    assert len(lines) == 2
    assert "keeps the budget" in lines[1]
    assert "kept" in result.table()


@pytest.mark.slow
def test_the_program_is_what_was_evaluated(tiny: Model, digits: ImageSet, tmp_path: Path) -> None:
    calibration = data.load("digits", "train").take(16)
    result = auto(tiny, digits, CompressionBudget(min_agreement=95), calibration=calibration)
    bundle = edge_lab.to(result.model, "android-xnnpack-int8", golden=digits.take(5), out=tmp_path)
    assert bundle.quantization.scheme == "int8-static"
    inputs = [edge_lab.preprocess(image, tiny.spec) for image in digits]
    close = parity(outputs_of(edge_lab.eager(tiny), inputs), outputs_of(edge_lab.load(bundle), inputs))
    quality = result.best.quality
    assert close.sqnr_db == pytest.approx(quality.sqnr_db, abs=1)
    assert close.agreement == pytest.approx(quality.agreement, abs=100 / 60 + 1e-6)
    assert bundle.program_bytes / 1e6 == pytest.approx(quality.size_mb, rel=0.02)


def test_a_budget_that_can_not_be_met_gives_the_closest_int8_network(hopeless: AutoResult) -> None:
    assert not hopeless.met
    assert hopeless.best.distance == min(step.distance for step in hopeless.steps)
    assert "SQNR is" in hopeless.verdict
    assert "below the minimum of 90" in hopeless.verdict
    with pytest.raises(EdgeLabError, match="no recipe keeps the budget") as error:
        hopeless.require()
    assert hopeless.verdict in error.value.why
    operators = {str(node.target) for node in hopeless.model.module.graph.nodes}  # type: ignore[union-attr]
    assert any("quantize_per_tensor" in name for name in operators)  # never the float network


def test_remedies_come_in_rising_order_of_cost(hopeless: AutoResult) -> None:
    recipes = [step.recipe for step in hopeless.steps]
    assert recipes[0].correct_bias is False
    kept = [len(recipe.keep_float) for recipe in recipes]
    assert kept == sorted(kept)
    assert hopeless.chosen > 0
    assert max(kept) == 1  # two worst layers in float would be too large
    mixed = [step.quality.size_mb for step in hopeless.steps if step.recipe.keep_float]
    assert max(mixed) <= SMALL_MB  # too large is not even tried
    assert len({step.remedy for step in hopeless.steps}) == len(hopeless.steps)


def test_only_the_size_is_missed_then_nothing_larger_is_tried(digits: ImageSet) -> None:
    result = auto(nets.good(), digits, CompressionBudget(max_size_mb=0.0001))
    assert not any(step.recipe.keep_float for step in result.steps)
    with pytest.raises(EdgeLabError, match="prune"):
        result.require()


def test_training_is_the_last_resort(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, train = [], qat_training.qat

    def watched(model: Model, learn: ImageSet, watch: ImageSet, config: QAT, **options: object) -> QATResult:
        seen.append((len(learn), len(watch)))
        assert not set(learn.names) & set(watch.names)
        result = train(model, learn, watch, config, **options)
        assert method_of(result.model.module) == "qat"
        return result

    monkeypatch.setattr(qat_training, "qat", watched)
    learn = data.load("digits", "train").take(70)
    result = auto(nets.good(), digits.take(16), CompressionBudget(min_sqnr_db=90), train=learn)
    assert seen == [(63, 7)]
    assert result.steps[-1].remedy == "trained with rounding"
    assert isinstance(result.steps[-1].recipe, QAT)
    assert result.steps[-1].quality.sqnr_db > 20  # it is still the same network
    assert method_of(result.model.module) == "ptq"  # the closest was not the trained one


def test_fused_recipes_are_tried_only_where_there_is_something_to_fuse(hopeless: AutoResult) -> None:
    assert any("fused" in step.remedy for step in hopeless.steps)  # it has ReLU6
    plain = nets.tensor_model(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()))
    result = auto(plain, nets.noise(), CompressionBudget(max_size_mb=1e-6))
    assert not any("fused" in step.remedy for step in result.steps)


def test_any_network_can_be_judged_by_arrays() -> None:
    net = nets.tensor_model(torch.nn.Conv2d(3, 4, 3))
    result = auto(net, nets.noise(count=8), CompressionBudget(min_sqnr_db=20))
    assert result.met
    assert result.best.quality.agreement is result.best.quality.top1_loss is None


def test_what_is_calibrated_is_not_evaluated(tiny: Model) -> None:
    rows = nets.noise(count=9)
    with pytest.raises(InputError, match="1 of 9 evaluation inputs are calibration inputs"):
        auto(tiny, rows, ANY, calibration=rows[:1])
    doubled = rows[:1] * 4 + rows[1:]
    result = auto(tiny, doubled, ANY)  # the copies of a calibration input are left out
    assert (result.evaluated, result.calibrated) == (12 - 4 - 2, 3)


@pytest.mark.parametrize(
    "limits", [{}, {"min_agreement": 101}, {"max_size_mb": 0}, {"min_sqnr_db": float("nan")}, {"min_agreement": -1}]
)
def test_no_budget(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match="no budget"):
        CompressionBudget(**limits)


def test_bad_input_gives_one_clear_error(tiny: Model, digits: ImageSet) -> None:
    unlabelled = replace(digits, targets=((),) * len(digits))
    with pytest.raises(InputError, match="Top-1 loss can't be measured"):
        auto(tiny, unlabelled, CompressionBudget(max_top1_loss=1))
    with pytest.raises(InputError, match="no evaluation inputs"):
        auto(tiny, [], ANY)
    with pytest.raises(InputError, match="evaluation input 0 is float32 \\(1, 3, 8, 8\\)"):
        auto(tiny, [np.zeros((1, 3, 8, 8), np.float32)] * 9, ANY)
    with pytest.raises(InputError, match="too few"):
        auto(tiny, nets.noise(count=7), ANY)
    with pytest.raises(InputError, match="nothing to evaluate"):
        auto(tiny, nets.noise(count=1) * 9, ANY)
    with pytest.raises(InputError, match="NaN or infinity"):
        auto(tiny, [*nets.noise(), np.full(nets.SHAPE, np.inf, np.float32)], ANY)
    with pytest.raises(InputError, match="agreement can't be measured"):
        auto(nets.tensor_model(torch.nn.Conv2d(3, 4, 3)), nets.noise(), CompressionBudget(min_agreement=90))
    with pytest.raises(ExportError, match="nothing in this model"):
        auto(nets.tensor_model(nets.NoWeights()), nets.noise(), ANY)


def test_bad_networks_give_one_clear_error(tiny: Model, digits: ImageSet) -> None:
    broken = zoo.create("tinynet", weights=str(CHECKPOINT))
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        auto(broken, digits, ANY)
    rows = nets.noise(count=4)
    with pytest.raises(InputError, match="already quantized"):
        auto(replace(tiny, module=quantize(tiny.module, rows[0], rows, StaticInt8())), digits, ANY)
    with pytest.raises(EdgeLabError, match="before any compression"):
        auto(nets.tensor_model(nets.Nan(), (1, 8)), [np.ones((1, 8), np.float32) * i for i in range(9)], ANY)


def _command(*more: str) -> list[str]:
    build = f"{Path(__file__).parent / 'nets.py'}:good"
    return ["compress", build, "--images", "digits", "--limit", "12", *more]


def test_the_command_writes_a_bundle_if_the_budget_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(_command("--min-sqnr", "1", "--out", str(tmp_path))) == 0
    shown = capsys.readouterr().out
    assert "kept" in shown
    bundle = edge_lab.Bundle.load(tmp_path / "good-auto" / "xnnpack-int8")
    assert str(bundle.path) in shown
    assert bundle.quantization.scheme == "int8-static"


def test_the_command_fails_and_writes_nothing_if_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(_command("--max-size-mb", "0.0001", "--out", str(tmp_path))) == 1
    shown = capsys.readouterr()
    assert "size missed" in shown.out
    assert "no bundle was written" in shown.err
    assert not list(tmp_path.iterdir())
    assert cli.main(_command()) == 2
    assert "is no budget" in capsys.readouterr().err
