"""The fuzzer: what it draws, and that it finds a converter that is wrong."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def _tool(name: str) -> ModuleType:
    sys.path.append(str(TOOLS))  # at the end: another package may be called `coverage`
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


modules, check, shrink, fuzz = map(_tool, ("fuzz_modules", "fuzz_check", "fuzz_shrink", "fuzz"))
Net, Step = modules.Net, modules.Step
SEED, DRAWN, TRIED, EACH = 7, 64, 16, 3  # 64 are drawn: the first of them are the simplest
CONV = Step("conv", (0,), {"out": 4, "kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": True,
                           "padding_mode": "zeros"})  # fmt: skip
SIGMOID = Step("activation", (1,), {"layer": "nn.Sigmoid()"})
NORM = Step("batch_norm", (2,), {"affine": True, "eps": 1e-3})
NET = Net((1, 3, 12, 12), (CONV, SIGMOID, NORM), (3, 1), "dict", "tricky", (40.0, 5.0), True)


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(modules.nets())
def test_what_is_drawn_runs_is_stored_and_prints_as_code(net: Any) -> None:
    assert modules.from_json(json.loads(json.dumps(modules.to_json(net)))) == net
    if net.second_input:
        return
    module, inputs = modules.make(net)
    twin, _ = modules.make(net)
    assert not module.training
    first, second = (check.answers(m, inputs[:2]) for m in (module, twin))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first[0], second[0], strict=True))
    assert len(first[0]) == len(net.outputs)


def test_every_operator_can_be_drawn() -> None:
    drawn = {step.op for net in fuzz.draw(1, 0) for step in net.steps}
    assert len(set(modules.OPS) - drawn) < 8  # a batch is small, some are rare


def test_same_seed_same_networks() -> None:
    assert fuzz.draw(3, 0, 20) == fuzz.draw(3, 0, 20)
    assert fuzz.draw(3, 0, 20) != fuzz.draw(4, 0, 20)


def test_sqnr_is_of_the_worst_output_and_of_every_shape() -> None:
    big, small = np.full((1, 4), 1000.0), np.array([[1.0, -1.0]])
    assert check.worst_db([[big, small]], [[big, small]]) == 200
    assert check.worst_db([[big, small]], [[big, -small]]) == pytest.approx(-6.02, abs=0.01)
    assert check.worst_db([[big, small]], [[big]]) == -np.inf
    assert check.worst_db([[small]], [[small.T]]) == -np.inf
    assert check.worst_db([[small]], [[small * np.nan]]) == -np.inf


def test_networks_that_say_nothing_are_passed_over() -> None:
    inputs = [np.random.default_rng(i).standard_normal((1, 4)).astype(np.float32) for i in range(4)]

    class Of(torch.nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.forward = function

    assert check.says_nothing(Of(lambda x: x / (x - x)), inputs) == "not finite"
    assert check.says_nothing(Of(lambda x: x * 0 + 1), inputs) == "does not depend on its input"
    assert check.says_nothing(Of(lambda x: (x + 1e5) - 1e5), inputs) == "mostly rounding"
    assert check.says_nothing(Of(lambda x: x.relu()), inputs) is None


def test_a_refusal_needs_three_lines_and_no_postbox() -> None:
    from edge_lab.core.errors import ExportError

    assert not check.badly_said(ExportError("what.", "why.", "fix."))
    assert check.badly_said(ExportError("what.", "", "fix."))
    assert check.badly_said(ExportError("what.", "why.", "run again with --debug"))


def _wrong_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that takes one activation for another."""
    from edge_lab.formats.torchscript import torchscript

    trace = torch.jit.trace

    def broken(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        sigmoid = torch.nn.Sigmoid.forward
        torch.nn.Sigmoid.forward = lambda self, x: torch.nn.functional.hardsigmoid(x)  # type: ignore[method-assign]
        try:
            return trace(module, *args, **kwargs)
        finally:
            torch.nn.Sigmoid.forward = sigmoid  # type: ignore[method-assign]

    monkeypatch.setattr(torch.jit, "trace", broken)
    assert torchscript


def test_it_finds_a_converter_that_is_wrong_and_the_smallest_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without edge_lab's own gate, as if that were broken, too: the comparison is the fuzzer's own."""
    from edge_lab.export import gate

    _wrong_sigmoid(monkeypatch)
    monkeypatch.setattr(gate, "LIMITS", gate.LIMITS | {"fp32": gate.Limit(-200, -200)})
    target = "linux-torchscript-fp32"

    def fails(net: Any) -> bool:
        module, inputs = modules.make(net)
        return not check.says_nothing(module, inputs) and _verdict(module, inputs, net, target) == "wrong"

    assert fails(NET)
    found = shrink.smallest(NET, fails, seconds=60)
    assert [step.op for step in found.steps] == ["activation"]
    assert (found.form, found.names, len(found.outputs)) == ("tensor", "plain", 1)
    module, inputs = modules.make(found)
    monkeypatch.undo()
    assert _verdict(module, inputs, found, target) == "right"


def _verdict(module: torch.nn.Module, inputs: Any, net: Any, target: str) -> str:
    verdict: str = check.check(module, inputs, net.shape, target).verdict
    return verdict


@pytest.mark.slow
def test_the_script_runs_alone(tmp_path: Path) -> None:
    file = tmp_path / "found.py"
    file.write_text(shrink.script(NET, "linux-pt2-fp32"), encoding="utf-8")
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"output {i}: {db} dB, floor 60" for i, db in enumerate(_dbs(done.stdout))]
    assert min(_dbs(done.stdout)) > 100


def _dbs(text: str) -> list[float]:
    return [float(line.split(": ")[1].split(" dB")[0]) for line in text.splitlines()]


def test_results_are_read_again_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    fuzz.write(tmp_path, fuzz.Result("a", NET, {"linux-pt2-fp32": check.Cell("wrong", "1 dB", 1.0)}))
    fuzz.write(tmp_path, fuzz.Result("b", NET, {}, "mostly rounding"))
    fuzz.write(tmp_path, fuzz.Result("a", NET, {"linux-pt2-fp32": check.Cell("right", "", 150.0)}))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"name": "c"')
    known = fuzz.read(tmp_path)
    assert {name: r.passed_over for name, r in known.items()} == {"a": "", "b": "mostly rounding"}
    assert known["a"].net == NET
    assert known["a"].cells["linux-pt2-fp32"].verdict == "right"
    assert "1 networks tried, 1 passed over" in fuzz.summary(known)


def test_a_worker_that_dies_costs_one_target(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_module = _tool("fuzz_worker")
    worker = worker_module.Worker()
    replies = iter([("linux-pt2-fp32", -11), ("linux-onnx-fp32", None)])

    def serve(net: Any, missing: list[str], cells: dict[str, Any]) -> Any:
        target, ended = next(replies)
        if ended is None:
            cells[target] = check.Cell("right")
        return ended

    monkeypatch.setattr(worker, "_serve", serve)
    cells = worker.ask(replace(NET), ["linux-pt2-fp32", "linux-onnx-fp32"])
    assert cells["linux-pt2-fp32"].verdict == "crash"
    assert "SIGSEGV" in cells["linux-pt2-fp32"].text
    assert cells["linux-onnx-fp32"].verdict == "right"


@pytest.mark.slow
def test_sixteen_networks_of_a_fixed_seed_are_right_or_refused() -> None:
    """Each on three formats in turn. The first one pays for half a minute of imports, so all share one worker."""
    networks = [net for net in fuzz.draw(SEED, 0, DRAWN) if not net.second_input][-TRIED:]
    assert len(networks) == TRIED
    asked, found, compared = _tool("fuzz_worker").Worker(), list[Any](), 0
    try:
        for i, net in enumerate(networks):
            targets = [check.TARGETS[(EACH * i + j) % len(check.TARGETS)] for j in range(EACH)]
            cells = asked.ask(net, targets)
            if isinstance(cells, str):  # says nothing
                continue
            compared += sum(cell.verdict in ("right", "low") for cell in cells.values())
            found += [
                f"{cell.verdict} on {target}: {cell.text}\n{fuzz.script(net, target)}"
                for target, cell in cells.items()
                if cell.verdict in check.FINDINGS
            ]
    finally:
        asked.close()
    assert not found, "\n\n".join(found)
    assert compared > TRIED * EACH / 2
