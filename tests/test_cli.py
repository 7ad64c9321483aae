"""The command: exit codes, three-line errors, and each command on a real (small) bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_lab import data, flow
from edge_lab.bundle.folder import Bundle
from edge_lab.cli import main as cli
from edge_lab.core.errors import EdgeLabError, ExportError
from edge_lab.flow import check
from edge_lab.results.result import Failure, RunResult, TargetResult, Verdict

MODEL = """
import torch

def build():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1800, 10)
    return torch.nn.Sequential(*layers)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network exported by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "my_model.py").write_text(MODEL)
    arguments = [f"{folder}/my_model.py:build", "--input", "1x3x32x32", "--out", str(folder / "out")]
    assert cli.main(["export", *arguments, "--target", "linux-torchscript-fp32"]) == 0
    return next((folder / "out").glob("*/torchscript-fp32"))


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Skip the process of its own that measures start-up: it imports torch, and other tests cover it."""
    monkeypatch.setattr(check, "_fresh", lambda row, path: (row, check.Line("fresh process", True, "skipped")))
    monkeypatch.chdir(tmp_path)  # no budgets.toml here


def made_up_run(**more: object) -> RunResult:
    eager = TargetResult("eager-fp32", "pytorch", "fp32", size_mb=20.0, p50_ms=20.0)
    good = TargetResult("linux-onnx-fp32", "onnx", "fp32", size_mb=19.0, p50_ms=10.0)
    run = RunResult("m", "random", "noise", 4, 0, (eager, good), {}, {}, "?", "2026-01-01T00:00:00Z", 1.0)
    return replace(run, **more)


def fake_flow(monkeypatch: pytest.MonkeyPatch, result: RunResult | BaseException) -> dict[str, object]:
    """Replace the flow, and return what the command passed to it."""
    seen: dict[str, object] = {}

    def run(model: object, **arguments: object) -> RunResult:
        seen.update(arguments, model=model)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(flow, "run", run)
    return seen


def test_alone_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli._COMMANDS)


@pytest.mark.parametrize("command", sorted(cli._COMMANDS))
def test_every_command_has_help_with_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "example:" in shown
    assert "--debug" in shown
    example = cli._COMMANDS[command][1]
    assert example in shown
    assert cli._parser().parse_args(shlex.split(example)[1:]).run


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["rnu"], "did you mean `edge-lab run`?"),
        (["run", "--input", "3,,4"], "argument --input: '3,,4' is not a shape; write it like 1x3x224x224"),
        (["run", "--jobs", "-1"], "--jobs"),
        (["run", "--limit", "0"], "argument --limit: '0' is not a whole number of at least 1"),
        (["run", "--targets", "andriod-xnnpack-int8"], "android-xnnpack-int8"),
        (["run", "--targets", ","], "names no target"),
        (["run", "--nonsense"], "--nonsense"),
        (["run", "eficientnet_lite0"], "Did you mean 'efficientnet_lite0'?"),
        (["export", "tinynet"], "--target"),
        (["export", "tinynet", "--target", "linux-onx-fp32"], "linux-onnx-fp32"),
        (["check", "nowhere"], "no bundle at nowhere"),
        (["check", "nowhere", "--budget", "none.toml"], "there is no budget file none.toml"),
        (["bench", "nowhere"], "no bundle at nowhere"),
        (["report", "nowhere.json"], "there is no run at nowhere.json"),
        (["compare", "a.json", "b.json"], "a.json can't be read"),
        (["compare", "a.json", "b.json", "--fail", "speed:5%"], "median, p90"),
        (["targets", "windows-*"], "windows-*"),
        (["models", "xyz*"], "no model matches"),
    ],
)
def test_wrong_usage_is_2_and_says_what_to_do(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "fix:" in shown
    assert "Traceback" not in shown


def test_an_error_is_three_lines_and_debug_shows_it_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_flow(monkeypatch, ExportError("it broke.", "a reason.", "a fix."))
    assert cli.main(["run"]) == 2
    assert capsys.readouterr().err == "edge-lab: it broke.\n  why: a reason.\n  fix: a fix.\n"
    with pytest.raises(EdgeLabError):
        cli.main(["run", "--debug"])


def test_run_passes_its_arguments_and_writes_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = fake_flow(monkeypatch, made_up_run())
    argv = [
        "run",
        "my_model.py:build",
        "--input",
        "1x3x64x64",
        "--targets",
        "ios-coreml-fp*,linux-onnx-fp32",
        "--out",
        "o",
    ]
    assert cli.main([*argv, "--images", "photos", "--limit", "3", "--jobs", "0", "--report", "deep/page.html"]) == 0
    assert seen["targets"] == ["ios-coreml-fp16", "ios-coreml-fp32", "linux-onnx-fp32"]
    assert (seen["model"], seen["input_shape"], seen["limit"], seen["jobs"]) == (
        "my_model.py:build",
        (1, 3, 64, 64),
        3,
        0,
    )
    saved = RunResult.load("o/run.json")
    assert saved.command.startswith(
        "edge-lab run my_model.py:build --input 1x3x64x64 --targets 'ios-coreml-fp*,linux-onnx-fp32'"
    )
    assert "</html>" in Path("deep/page.html").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    assert "linux-onnx-fp32" in shown
    assert "deep/page.html" in shown


def test_run_uses_budgets_toml_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    seen = fake_flow(monkeypatch, made_up_run())
    assert cli.main(["run"]) == 0
    assert seen["budget"] is None
    Path("budgets.toml").touch()
    assert cli.main(["run"]) == 0
    assert seen["budget"] == Path("budgets.toml")


def test_run_fails_if_nothing_came_out_and_strict_if_anything_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    eager, good = made_up_run().rows
    failed = TargetResult("a-b-fp32", "onnx", "fp32", status="failed", failure=Failure("w", "y", "f"))
    over = replace(good, verdicts=(Verdict("max_size_mb", 19.0, 1.0, False, "MB"),))
    for rows, plain, strict in [
        ((eager, good), 0, 0),
        ((eager, good, failed), 0, 1),
        ((eager, over), 0, 1),
        ((eager, failed), 1, 1),
    ]:
        fake_flow(monkeypatch, made_up_run(rows=rows))
        assert (cli.main(["run"]), cli.main(["run", "--strict"])) == (plain, strict)


def test_ctrl_c_is_130_and_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_flow(monkeypatch, KeyboardInterrupt())
    assert cli.main(["run", "--out", "here"]) == 130
    shown = capsys.readouterr().err.strip()
    assert "\n" not in shown
    assert "Finished bundles in here are kept. Run the same command again" in shown


def test_a_real_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; from edge_lab.cli import main as cli; from edge_lab import flow\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job inherits "ignore"
        "def run(*a, **k):\n    print('started', flush=True); time.sleep(60)\n"
        "flow.run = run; sys.exit(cli.main(['run']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "Traceback" not in said


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m edge_lab targets | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert done.stdout.startswith("target")
    assert done.stderr == ""


def test_check_passes_a_good_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no budgets.toml here
    assert cli.main(["check", str(bundle)]) == 0
    shown = capsys.readouterr().out
    for name in ("intact", "runs here", "golden", "fresh process", "size"):
        assert f"PASS  {name}" in shown
    assert re.search(r"golden: \d+ of \d+ within tolerance", shown)
    assert "fit to ship" in shown


def test_check_fails_a_damaged_bundle(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    program = Bundle.load(broken).program_path
    program.write_bytes(program.read_bytes()[:-1] + b"x")
    assert cli.main(["check", str(broken)]) == 1
    assert "FAIL  intact" in capsys.readouterr().out


@pytest.mark.usefixtures("no_child")
def test_check_fails_answers_that_changed(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    loaded = Bundle.load(changed)
    expected = changed / loaded.golden[2].outputs[0]
    expected.write_bytes(b"\x00\x00\x80\x3f" * (expected.stat().st_size // 4))
    loaded.save()  # with checksums that fit: only running it can tell
    assert cli.main(["check", str(changed)]) == 1
    shown = capsys.readouterr().out
    assert "PASS  intact" in shown
    assert "FAIL  golden" in shown


@pytest.mark.usefixtures("no_child")
def test_check_fails_a_budget_and_strict_wants_everything_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = tmp_path / "budgets.toml"
    budget.write_text("[default]\nmax_size_mb = 0.001\n")
    assert cli.main(["check", str(bundle), "--budget", str(budget)]) == 1
    assert re.search(r"FAIL  size 0\.\d+ MB, limit ≤ 0\.00100 MB", capsys.readouterr().out)
    budget.write_text("[default]\nmin_delegated = 0.5\n")
    assert cli.main(["check", str(bundle), "--budget", str(budget)]) == 0
    assert cli.main(["check", str(bundle), "--budget", str(budget), "--strict"]) == 1


@pytest.mark.usefixtures("no_child")
def test_check_against_another_bundle_measures_ratios_and_agreement(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = tmp_path / "budgets.toml"
    budget.write_text("[default]\nmax_size_ratio = 1.0\nmax_p50_ratio = 100\nmin_agreement = 100\nmin_sqnr_db = 100\n")
    arguments = ["check", str(bundle), "--against", str(bundle), "--images", "photos", "--limit", "4"]
    assert cli.main([*arguments, "--budget", str(budget), "--strict"]) == 0
    shown = capsys.readouterr().out
    assert "PASS  size ratio 1.00 x" in shown
    assert "PASS  agreement 100 %" in shown


def test_bench_and_compare(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    assert cli.main(["bench", str(bundle), "--rounds", "8", "--json", str(before)]) == 0
    assert "single_stream, 1 thread: 8 samples, interleaved, CPU time" in capsys.readouterr().out
    document = json.loads(before.read_text())
    entry = document["measurements"][0]
    assert len(entry["wall_s"]) == len(entry["cpu_s"]) == 8
    assert entry["memory"]["peak_mb"] > entry["memory"]["delta_mb"] > 0
    entry["cpu_s"] = [1.2 * t for t in entry["cpu_s"]]
    after.write_text(json.dumps(document))
    assert cli.main(["compare", str(before), str(after)]) == 2  # the stated percentiles are not those of the samples
    assert "its own samples give" in capsys.readouterr().err
    entry["summary"] = {name: 1.2 * value for name, value in entry["summary"].items()}
    after.write_text(json.dumps(document))
    assert cli.main(["compare", str(before), str(after)]) == 1
    assert "+20.0 %" in capsys.readouterr().out
    assert cli.main(["compare", str(before), str(after), "--fail", "median:25%"]) == 0
    assert cli.main(["compare", str(before), str(after), "--fail", "size:0%"]) == 0
    assert cli.main(["compare", str(after), str(before)]) == 0  # faster is no regression
    capsys.readouterr()
    assert cli.main(["bench", "--replay", str(after)]) == 0
    assert "RECORDED" in (shown := capsys.readouterr().out)
    assert "Nothing was measured now" in shown


def test_bench_refuses_a_busy_machine_if_told_to(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge_lab.results import readiness as busy

    monkeypatch.setattr(busy, "gate", lambda *a, **k: busy.judge(0.9, None))
    file = tmp_path / "a.json"
    assert cli.main(["bench", str(bundle), "--when-busy", "refuse", "--json", str(file)]) == 2
    assert "this machine is busy" in capsys.readouterr().err
    assert not file.exists()
    assert cli.main(["bench", str(bundle), "--rounds", "3", "--json", str(file)]) == 0
    assert "machine busy" in capsys.readouterr().out
    assert json.loads(file.read_text())["gate"]["state"] == "busy"
    assert cli.main(["compare", str(file), str(file)]) == 0
    assert "other processes use" in capsys.readouterr().err


def test_compare_counts_a_lost_target_and_a_lost_number(tmp_path: Path) -> None:
    run = made_up_run()
    lost = replace(run.rows[1], p50_ms=None)
    run.save(tmp_path / "a.json")
    replace(run, rows=run.rows[:1]).save(tmp_path / "fewer.json")
    replace(run, rows=(run.rows[0], lost)).save(tmp_path / "none.json")
    worse = replace(run.rows[1], agreement=90.0)
    replace(run, rows=(run.rows[0], worse)).save(tmp_path / "worse.json")
    replace(run, rows=(run.rows[0], replace(worse, agreement=99.0))).save(tmp_path / "better.json")
    a = str(tmp_path / "a.json")
    assert cli.main(["compare", a, a]) == 0
    assert cli.main(["compare", a, str(tmp_path / "fewer.json")]) == 1
    assert cli.main(["compare", a, str(tmp_path / "none.json")]) == 1
    pair = [str(tmp_path / "better.json"), str(tmp_path / "worse.json")]
    assert cli.main(["compare", *pair, "--fail", "agreement:1%"]) == 1
    assert cli.main(["compare", *pair[::-1], "--fail", "agreement:1%"]) == 0


def test_compare_says_that_two_machines_were_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = replace(made_up_run(), machine={"cpu": "EPYC", "load": "0.1"})
    run.save(tmp_path / "here.json")
    replace(run, machine={"cpu": "Cortex-A76", "load": "0.2"}).save(tmp_path / "there.json")
    here, there = str(tmp_path / "here.json"), str(tmp_path / "there.json")
    assert cli.main(["compare", here, here]) == 0
    assert "warning" not in capsys.readouterr().err
    assert cli.main(["compare", here, there]) == 0
    assert "two machines" in (warning := capsys.readouterr().err)
    assert "Cortex-A76" in warning


def test_report_draws_a_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_run().save(tmp_path / "run.json")
    assert cli.main(["report", str(tmp_path)]) == 0  # a folder: the run.json in it
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert cli.main(["report", str(tmp_path / "run.json"), "-o", str(tmp_path / "b.html")]) == 0
    assert (tmp_path / "b.html").is_file()
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("### m:")
    (tmp_path / "run.json").write_text('{"rows": 3}')
    assert cli.main(["report", str(tmp_path)]) == 2


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["targets", "ios-coreml-*"]) == 0
    assert ["ios-coreml-fp16", "mlpackage", "fp16"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert cli.main(["models", "efficientnet*"]) == 0
    assert capsys.readouterr().out == "efficientnet_lite0\n"
    assert cli.main(["data"]) == 0
    shown = capsys.readouterr().out
    assert all(name + ":" in shown for name in data.sets())
    assert shown.count("licence:") == len(data.sets())


@pytest.mark.real_data
def test_the_licence_of_a_set_that_is_not_shipped_is_the_one_the_set_says() -> None:
    from edge_lab.data.catalog import licence

    for name in ("cifar10", "imagenet-sample"):
        assert data.load(name, limit=1).licence == licence(name)[0]
