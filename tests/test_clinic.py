"""The export clinic: what a converter refuses is explained, and what repairs it computes the same."""

from __future__ import annotations

import dis
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_lab.capture.diagnose import diagnose
from edge_lab.clinic import clinic
from edge_lab.clinic.case import CONVERTERS
from edge_lab.core.errors import ExportError, InputError

ROOT = Path(__file__).parents[1]
CASES = {case.name: case for case in clinic.cases()}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def examined() -> dict[str, clinic.Examination]:
    """Each case once: 25 CPU-seconds, most of them the converters' own imports."""
    return {name: clinic.examine(case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_converter_refuses_and_the_reason_is_specific(name: str, examined: dict[str, clinic.Examination]) -> None:
    found = examined[name]
    if found.case.refuses is None:
        assert found.error is None
        assert found.wrong is not None
        assert found.wrong > 0.1, "a program that is silently wrong must differ visibly"
        return
    assert found.wrong is None, f"{found.case.refuses} takes it now: move it or drop it"
    assert isinstance(found.diagnosis, ExportError)
    assert found.diagnosis.what == f"{name} can't be exported to {found.case.refuses}."
    assert "--debug" not in found.diagnosis.fix, f"not diagnosed: {found.line}"
    assert found.error not in found.diagnosis.why
    assert "one of its operators" not in found.diagnosis.why


@pytest.mark.parametrize("name", CASES)
def test_the_repaired_version_computes_the_same(name: str, examined: dict[str, clinic.Examination]) -> None:
    assert examined[name].fixed_error < 1e-5
    assert len(CASES[name].inputs) >= 3


@pytest.mark.parametrize("name", CASES)
def test_the_inputs_reach_every_line_of_the_broken_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    module = case.broken().eval()
    code: CodeType = type(module).forward.__code__
    reached: set[int] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code is not code:
            return None
        if event == "line":
            reached.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for x in case.inputs:
            module(x.clone())
    finally:
        sys.settrace(before)
    starts = {line for _, line in dis.findlinestarts(code) if line} - {code.co_firstlineno}
    assert starts <= reached


def test_each_converter_and_each_cause_has_its_case() -> None:
    assert {case.refuses for case in CASES.values()} == {*CONVERTERS, None}
    assert len({case.cause for case in CASES.values()}) == len(CASES)
    assert len(CASES) >= 14


def test_a_diagnosis_names_the_line_of_the_model(examined: dict[str, clinic.Examination]) -> None:
    for name, source in [("branch", "if x.mean() > 0:"), ("numpy", "np.clip"), ("item", ".item())")]:
        diagnosis = examined[name].diagnosis
        assert diagnosis is not None
        assert re.search(r"cases/\w+\.py:\d+", diagnosis.why)
        assert source in diagnosis.why


def test_the_catalogue_in_the_docs_is_up_to_date(examined: dict[str, clinic.Examination]) -> None:
    spec = importlib.util.spec_from_file_location("clinic_docs", ROOT / "tools" / "clinic_docs.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = tool.catalogue(list(examined.values()))
    assert tool.DOCS.read_text(encoding="utf-8") == page, "run python tools/clinic_docs.py"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))


class Moody(Net):
    """Remembers how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


def test_a_checkup_of_a_healthy_module_finds_nothing() -> None:
    torch.manual_seed(0)
    findings = clinic.checkup(Net(), torch.randn(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    assert [finding.converter for finding in findings] == list(CONVERTERS)
    assert all(finding.ok for finding in findings), findings
    assert all("taken" in str(finding) for finding in findings)


def test_a_checkup_finds_refusals_and_silent_errors() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    (refused,) = clinic.checkup(CASES["branch"].broken(), x, -x, converters=("torch.export",))
    assert refused.refusal is not None
    assert not refused.ok
    assert "torch.where" in str(refused)
    moody = Moody()
    (wrong,) = clinic.checkup(moody, *torch.randn(3, 1, 3, 16, 16), converters=("torch.export",))
    assert wrong.refusal is None
    assert not wrong.ok
    assert "WRONG" in str(wrong)
    assert moody.calls == 0, "the checkup works on a copy"


def test_a_dynamic_batch_goes_through_every_converter() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(size, 3, 16, 16) for size in (4, 2, 8)]
    findings = clinic.checkup(Net(), *batches, dims={0: torch.export.Dim("batch", min=1, max=8)})
    assert all(finding.ok for finding in findings), findings
    for static in clinic.checkup(Net(), *batches, converters=("torch.export", "onnx")):
        assert static.refusal is not None
        assert "made for inputs of the example's size" in static.refusal.why


def test_a_checkup_needs_an_input_that_works() -> None:
    with pytest.raises(InputError, match="needs an input"):
        clinic.checkup(Net())
    with pytest.raises(InputError, match="fails before any export"):
        clinic.checkup(Net(), torch.zeros(1, 5, 16, 16))
    with pytest.raises(InputError, match="branch"):
        clinic.case("no-such-case")


STRICT = [
    (nn.Sequential(nn.Linear(8, 8)), (8,), None),
    (CASES["branch"].broken(), (4, 8), "branches or loops"),
    (CASES["while-loop"].broken(), (4, 8), "fixed length"),
    (CASES["loop-over-tensor"].broken(), (4, 8), "takes a number out"),
    (CASES["dataclass-output"].broken(), (4, 8), "class Boxes"),
]


@pytest.mark.parametrize(("module", "shape", "why"), STRICT)
def test_strict_capture_is_explained_as_well(module: nn.Module, shape: tuple[int, ...], why: str | None) -> None:
    """`torch.export.export(strict=True)` fails with other words."""
    for error in _refusal(module, torch.rand(shape)):
        assert why is not None
        assert why in diagnose(error, "net", "torch.export").why
        break
    else:
        assert why is None


def _refusal(module: nn.Module, x: Tensor) -> Iterator[Exception]:
    try:
        torch.export.export(module.eval(), (x,), strict=True)
    except Exception as error:
        yield error


KNOWN = [
    (RuntimeError("Something nobody has seen\nmore"), "RuntimeError: Something nobody has seen", "--debug"),
    (
        ValueError("node fft_rfft (fft_rfft) got 1 input(s), expected [4]"),
        "no conversion for fft_rfft",
        "other",
    ),
    (NotImplementedError("Unsupported fx node and__1, kind and_"), "no conversion for and_ ", "other"),
    (NotImplementedError("Not support `searchsorted` op with different ranks"), "for searchsorted", "other"),
    (KeyError(torch.bfloat16), "no type bfloat16", "float32"),
    (ModuleNotFoundError("No module named 'coremltools'"), "coremltools is not installed", "pip install coremltools"),
    (MemoryError("bad_alloc"), "not enough memory", "smaller input"),
]


@pytest.mark.parametrize(("error", "why", "fix"), KNOWN)
def test_messages_of_converters_are_translated(error: Exception, why: str, fix: str) -> None:
    diagnosis = diagnose(error, "net", "somewhere")
    assert why in diagnosis.why
    assert re.search(fix, diagnosis.fix)
