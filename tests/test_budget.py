"""Budgets: the shipped file is valid, limits hold exactly, mistakes in the file are found."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest

from edge_lab.core.errors import InputError
from edge_lab.measure import Budget, TargetResult, Verdict, check, load_budget, passed

SHIPPED = Path(__file__).resolve().parent.parent / "budgets.toml"
EAGER = TargetResult("eager", "torch", "fp32", size_mb=18.6, top1=88.0, p50_ms=20.0, agreement=100, sqnr_db=inf)
INT8 = replace(
    EAGER,
    target="android-xnnpack-int8",
    precision="int8-static",
    size_mb=4.95,
    top1=87.0,
    p50_ms=7.0,
    agreement=96.0,
    sqnr_db=25.0,
    delegated=1.0,
)


def _by_name(verdicts: tuple[Verdict, ...]) -> dict[str, Verdict]:
    return {v.name: v for v in verdicts}


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_budgets_are_the_promised_ones() -> None:
    budgets = load_budget(SHIPPED)
    fp32, fp16, int8 = (budgets.of("any", p) for p in ("fp32", "fp16", "int8-static"))
    assert (fp32.max_size_mb, fp32.min_agreement, fp32.min_sqnr_db) == (50, 100, 60)
    assert (fp16.min_agreement, fp16.min_sqnr_db, fp16.max_size_mb) == (99, 35, 50)
    assert (int8.max_size_ratio, int8.min_delegated) == (0.28, 0.9)


def test_a_good_int8_program_passes_and_each_fault_fails_its_own_limit() -> None:
    budgets = load_budget(SHIPPED)
    verdicts = check(INT8, EAGER, budgets)
    assert passed(verdicts)
    assert all(v.ok for v in verdicts)
    faults = {
        "max_size_mb": {"size_mb": 51.0},
        "max_size_ratio": {"size_mb": 6.0},
        "max_p50_ratio": {"p50_ms": 40.0},
        "max_top1_loss": {"top1": 80.0},
        "min_agreement": {"agreement": 70.0},
        "min_sqnr_db": {"sqnr_db": 7.0},
        "min_delegated": {"delegated": 0.2},
    }
    for name, change in faults.items():
        verdicts = check(replace(INT8, **change), EAGER, budgets)  # type: ignore[arg-type]
        assert _by_name(verdicts)[name].ok is False, name
        assert not passed(verdicts)


def test_a_limit_that_is_met_exactly_holds() -> None:
    budget = Budget(max_size_mb=50, max_size_ratio=0.28, min_sqnr_db=60)
    row = replace(EAGER, size_mb=0.28 * 18.6, sqnr_db=60.0)
    assert all(v.ok for v in check(row, EAGER, budget))


@pytest.mark.parametrize("value", [nan, -inf])
def test_nan_and_minus_infinity_never_pass(value: float) -> None:
    (verdict,) = check(replace(EAGER, sqnr_db=value), None, Budget(max_size_mb=None, min_sqnr_db=10))
    assert verdict.ok is False


def test_what_cannot_be_measured_has_no_verdict_unless_it_is_required() -> None:
    row = replace(INT8, sqnr_db=None)
    (verdict,) = check(row, EAGER, Budget(max_size_mb=None, min_sqnr_db=12))
    assert (verdict.ok, verdict.value) == (None, None)
    assert passed((verdict,))
    (verdict,) = check(row, EAGER, Budget(max_size_mb=None, min_sqnr_db=12, required=("min_sqnr_db",)))
    assert verdict.ok is False


def test_without_a_reference_ratios_are_not_measurable() -> None:
    verdicts = _by_name(check(INT8, None, load_budget(SHIPPED)))
    assert verdicts["max_p50_ratio"].ok is None
    assert verdicts["max_top1_loss"].ok is None
    assert verdicts["max_size_mb"].ok


def test_a_loss_of_one_image_in_ten_is_not_called_a_loss() -> None:
    budget = Budget(max_size_mb=None, max_top1_loss=1.0)
    row = replace(EAGER, top1=78.0)
    assert check(row, EAGER, budget)[0].ok is False
    (verdict,) = check(row, EAGER, budget, labelled=10)
    assert (verdict.ok, verdict.limit) == (True, 10)
    assert check(row, EAGER, budget, labelled=500)[0].limit == 1


def test_one_other_answer_of_a_few_is_no_broken_program_unless_all_are_asked_for() -> None:
    row, near = replace(EAGER, agreement=100 - 100 / 76, answers=76), Budget(max_size_mb=None, min_agreement=99)
    assert check(row, EAGER, near)[0].ok
    assert check(replace(row, agreement=100 - 200 / 76), EAGER, near)[0].ok is False
    assert check(replace(row, answers=None), EAGER, near)[0].ok is False  # how many there were is not known
    assert check(replace(row, agreement=98.8, answers=500), EAGER, near)[0].ok is False
    assert check(row, EAGER, Budget(max_size_mb=None, min_agreement=100))[0].ok is False


def test_a_failed_target_has_no_verdicts() -> None:
    assert check(replace(EAGER, status="failed"), EAGER, Budget()) == ()


def test_the_most_specific_table_wins_key_by_key(tmp_path: Path) -> None:
    file = _file(
        tmp_path, '[default]\nmax_size_mb=40\nmin_sqnr_db=1\n[fp32]\nmin_sqnr_db=60\n[target."a-b"]\nmin_sqnr_db=70\n'
    )
    budgets = load_budget(file)
    assert [budgets.of(t, "fp32").min_sqnr_db for t in ("a-b", "c")] == [70, 60]
    assert budgets.of("a-b", "fp32").max_size_mb == 40
    assert budgets.of("c", "fp16").min_sqnr_db == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default]\nmax_sise_mb = 5", "did you mean 'max_size_mb'"),
        ("[int8]\nmax_size_mb = 5", "unknown table 'int8'"),
        ("max_size_mb = 5", "unknown table 'max_size_mb'"),
        ("[default]\nmax_size_mb = '5'", "must be a number"),
        ("[default]\nmax_size_mb = true", "must be a number"),
        ("[default]\nmin_sqnr_db = nan", "must be a number"),
        ("[default]\nrequired = 'max_size_mb'", "a list of limit names"),
        ("[default]\nrequired = ['sqnr']", "unknown required limit 'sqnr'"),
        ("[target.android]\nspeed = 1", "unknown key in"),
        ("[target]\nmax_size_mb = 1", "target.max_size_mb is not a table"),
        ("[default\n", "can't be read as TOML"),
    ],
)
def test_mistakes_in_the_file_are_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        load_budget(_file(tmp_path, text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no budget file"):
        load_budget(tmp_path / "none.toml")
