"""A bundle's precision is read from the module, never from a name, and what doesn't fit is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab.bundle.folder import Bundle, Quantization
from edge_lab.compress import DynamicInt8, Half, WeightOnly, quantize_dynamic, quantize_weights, to_half
from edge_lab.compress.graphs.quantized import form_of, mark, method_of, scheme_of
from edge_lab.core.errors import BundleError, ExportError, InputError
from edge_lab.zoo import Model, from_module


def small() -> Model:
    """Conv, batch norm and linear, wide enough that 8-bit weights show in the file's size."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 256))
    return from_module(nn.Sequential(body, head), nets.SHAPE, name="small", task="tensor")


def made(how: str) -> Model:
    """The small model in a precision."""
    model = small()
    if how.startswith("int8-dynamic"):
        return quantize_dynamic(model, DynamicInt8(how.removeprefix("int8-dynamic/")))  # type: ignore[arg-type]
    if how == "int4-dynamic":
        return quantize_dynamic(model, DynamicInt8("executorch", weight_bits=4))
    if how.endswith("-weights"):
        return quantize_weights(model, WeightOnly(int(how[3])))  # type: ignore[arg-type]
    return to_half(model, Half("float16" if how == "fp16" else "bfloat16")) if how != "fp32" else model


@pytest.mark.parametrize(
    ("how", "form"),
    [
        ("fp32", "plain"),
        ("fp16", "plain"),
        ("bf16", "plain"),
        ("int8-weights", "packed"),
        ("int4-weights", "packed"),
        ("int8-dynamic/eager", "torch.ao"),
        ("int8-dynamic/inductor", "torchao"),
        ("int8-dynamic/executorch", "torchao-intx"),
        ("int4-dynamic", "torchao-intx"),
    ],
)
def test_a_precision_is_read_from_the_module(how: str, form: str) -> None:
    module = made(how).module
    for each in (module, nn.Sequential(module), copy.deepcopy(module)):  # wrapped and copied as exporters do
        assert (scheme_of(each), form_of(each)) == (how.split("/")[0], form)


def test_a_trained_graph_says_so_after_copying() -> None:
    graph = torch.fx.symbolic_trace(nn.Linear(2, 2))
    assert method_of(graph) is None
    mark(graph, "qat")
    assert method_of(nn.Sequential(copy.deepcopy(graph))) == "qat"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-weights", "int4-weights"])
@pytest.mark.parametrize("backend", ["pt2", "torchscript", "onnx", "xnnpack"])
def test_the_label_is_true_whoever_quantized(backend: str, precision: str, artifacts: Path) -> None:
    """A float32 model, and one that has the precision already, come out with one label, or there is no such target."""
    target = f"linux-{backend}-{precision}"
    if target not in edge_lab.targets():
        with pytest.raises(InputError, match=f"is already {precision}"):
            edge_lab.to(made(precision), f"linux-{backend}-fp32", out=artifacts)
        return
    x = nets.noise()[0]
    reference = edge_lab.eager(small())(x)
    whole = edge_lab.to(small(), f"linux-{backend}-fp32", out=artifacts)
    for model in (small(), made(precision)):
        bundle = edge_lab.to(model, target, out=artifacts)
        assert bundle.quantization.scheme == precision
        assert bundle.target == target
        assert bundle.program_bytes < (0.45 if "int" in precision else 0.7) * whole.program_bytes
        least = {"int8-weights": 30, "int4-weights": 10, "bf16": 15, "fp16": 30}[
            precision
        ]  # the gate's: a CPU may add in 16 bits
        y = edge_lab.load(bundle)(x)
        assert 10 * np.log10((reference**2).sum() / ((reference - y) ** 2).sum()) > least
    if "weights" in precision:
        assert bundle.quantization == Quantization(precision, method="ptq", quantized=4, layers=4)  # type: ignore[arg-type]
    else:
        assert bundle.quantization == Quantization(precision)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "target", "words"),
    [
        ("int8-weights", "linux-torchscript-fp32", "use android-onnx-int8-weights, linux-onnx-int8-weights, linux-pt2"),
        ("int8-weights", "linux-xnnpack-int8", "int8-static would be a wrong label"),
        ("fp16", "linux-onnx-fp32", "android-xnnpack-fp16"),
        ("bf16", "ios-coreml-fp16", "linux-pt2-bf16"),
        ("int4-weights", "linux-onnx-int8-weights", "rounding it again"),
    ],
)
def test_other_targets_refuse_and_name_those_that_fit(how: str, target: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        edge_lab.to(made(how), target, out=tmp_path)
    assert not list(tmp_path.iterdir())


def edited(bundle: Bundle, tmp_path: Path, **change: object) -> Path:
    import shutil

    shutil.copytree(bundle.path, tmp_path / "bundle")
    file = tmp_path / "bundle" / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return tmp_path / "bundle"


def test_bundles_state_the_oldest_version_that_can_say_it(artifacts: Path, tmp_path: Path) -> None:
    """Readers of version 1 go on reading fp32, fp16 and static int8, and refuse the others by their version."""
    old = edge_lab.to(small(), "linux-pt2-fp32", out=artifacts)
    new = edge_lab.to(small(), "linux-pt2-bf16", out=artifacts)
    assert json.loads((old.path / "bundle.json").read_text())["schema_version"] == 1
    assert json.loads((new.path / "bundle.json").read_text())["schema_version"] == 2
    without_method = edited(old, tmp_path, quantization={"scheme": "fp32", "calibration": None, "samples": 0})
    assert Bundle.load(without_method).quantization == Quantization("fp32")


def test_a_version_1_bundle_with_a_newer_scheme_is_damaged(artifacts: Path, tmp_path: Path) -> None:
    new = edge_lab.to(small(), "linux-pt2-bf16", out=artifacts)
    with pytest.raises(BundleError, match=r"'bf16' is not one of \['fp32', 'fp16', 'int8-static'\]"):
        Bundle.load(edited(new, tmp_path, schema_version=1))


def test_check_reports_the_label_and_its_own_limits(artifacts: Path) -> None:
    from edge_lab.flow.check import check
    from edge_lab.results.budget import Budgets

    bundle = edge_lab.to(small(), "linux-pt2-int8-weights", out=artifacts)
    strict = Budgets(by_precision={"int8-weights": {"min_sqnr_db": 150.0}, "fp32": {"min_sqnr_db": 1.0}})
    found = check(bundle.path, budget=strict)
    assert {line.name: line.ok for line in found.lines}["golden"]
    assert [v.ok for v in found.verdicts if v.name == "min_sqnr_db"] == [False]


class Speech(nn.Module):
    """LSTM and Linear layers: what dynamic int8 is for."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(40, 256, batch_first=True)
        self.head = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0][:, -1])


def speech() -> Model:
    torch.manual_seed(0)
    return from_module(Speech(), (1, 10, 40), name="speech", task="tensor")


DYNAMIC = [  # target, layers quantized, of how many, how much smaller at least
    ("linux-torchscript-int8-dynamic", 3, 3, 3.3),
    ("linux-onnx-int8-dynamic", 3, 3, 3.3),
    ("linux-pt2-int8-dynamic", 2, 3, 1.15),
    ("linux-xnnpack-int8-dynamic", 2, 3, 1.2),
    ("linux-xnnpack-int4-dynamic", 2, 3, 1.2),
]


@pytest.mark.parametrize(("target", "done", "layers", "smaller"), DYNAMIC)
def test_dynamic_int8_goes_where_it_runs(target: str, done: int, layers: int, smaller: float, artifacts: Path) -> None:
    backend, precision = target.split("-")[1], target.split("-", 2)[2]
    whole = edge_lab.to(speech(), f"linux-{backend}-fp32", out=artifacts)
    bundle = edge_lab.to(speech(), target, out=artifacts)
    assert bundle.quantization == Quantization(precision, method="ptq", quantized=done, layers=layers)  # type: ignore[arg-type]
    assert whole.program_bytes > smaller * bundle.program_bytes
    assert float(bundle.metrics["sqnr_db"] or 0) > (15 if "int4" in precision else 25)


@pytest.mark.parametrize(
    ("how", "target"),
    [
        ("int8-dynamic/eager", "linux-torchscript-int8-dynamic"),
        ("int8-dynamic/inductor", "linux-pt2-int8-dynamic"),
        ("int8-dynamic/executorch", "linux-xnnpack-int8-dynamic"),
        ("int4-dynamic", "linux-xnnpack-int4-dynamic"),
    ],
)
def test_a_dynamic_model_goes_as_it_is(how: str, target: str, artifacts: Path) -> None:
    model, x = made(how), nets.noise()[0]
    bundle = edge_lab.to(model, target, out=artifacts)
    assert bundle.quantization == Quantization(how.split("/")[0], method="ptq", quantized=2, layers=4)  # type: ignore[arg-type]
    y = edge_lab.eager(model)(x)
    np.testing.assert_allclose(edge_lab.load(bundle)(x), y, atol=0.02 * np.abs(y).max())
    others = {t for t in edge_lab.targets("linux-*") if t != target and "onnx" not in t}
    with pytest.raises(InputError, match="can't become"):
        edge_lab.to(model, sorted(others)[0], out=artifacts)


@pytest.mark.parametrize("backend", ["torchscript", "onnx", "pt2", "xnnpack"])
def test_dynamic_int8_of_convolutions_is_refused(backend: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
    with pytest.raises(ExportError, match="0 of 2 layers quantized"):
        edge_lab.to(nets.tensor_model(net), f"linux-{backend}-int8-dynamic", out=tmp_path)


def test_a_partly_quantized_program_says_so_in_the_report(tmp_path: Path) -> None:
    from edge_lab.flow import run

    found = run(small(), targets=["linux-torchscript-int8-dynamic"], out=tmp_path, jobs=0, progress=False)
    row = found.rows[1]
    assert row.precision == "int8-dynamic"
    assert "only 2 of 4 layers are quantized" in row.notes


def stored(bundle: Bundle) -> dict[str, int]:
    """How often each operator occurs in a Core ML program, read from the file as saved."""
    from collections import Counter

    import coremltools as ct

    program = ct.utils.load_spec(str(bundle.program_path)).mlProgram
    (block,) = program.functions["main"].block_specializations.values()
    return Counter(op.type for op in block.operations)


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_core_ml_int8_by_its_structure(precision: str, artifacts: Path) -> None:
    """It can't be run on Linux: so look at what is stored."""
    full = edge_lab.to(small(), "ios-coreml-fp32", out=artifacts)
    bundle = edge_lab.to(small(), f"ios-coreml-{precision}", calibration=nets.noise(), out=artifacts)
    operators = stored(bundle)
    assert bundle.program_bytes < 0.3 * full.program_bytes
    assert operators["conv"] == operators["linear"] == 2
    if precision == "int8":
        assert operators["constexpr_affine_dequantize"] == 4
        assert operators["quantize"] == operators["dequantize"] > 0
        counts = {"calibration": "user", "samples": 4, "quantized": 4, "layers": 4}  # the other 4 judge
        assert bundle.quantization == Quantization("int8-static", method="ptq", **counts)  # type: ignore[arg-type]
    else:
        assert operators["constexpr_affine_dequantize"] == 3  # the first convolution is below coremltools' limit
        assert "quantize" not in operators
        assert bundle.quantization == Quantization("int8-weights", method="ptq", quantized=3, layers=4)


def test_core_ml_refuses_to_call_nothing_int8(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nothing in this model was quantized"):
        edge_lab.to(nets.tensor_model(nets.Good()), "ios-coreml-int8-weights", out=tmp_path)


def test_the_documented_table_is_the_registry() -> None:
    text = (Path(__file__).parents[1] / "docs" / "targets.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    header = next(line for line in text.splitlines() if line.startswith("| backend |"))
    precisions = [cell.strip() for cell in header.strip("|").split("|")][2:]
    documented = {
        f"{platform.strip()}-{row[0].split('`')[1]}-{precision}"
        for row in rows
        if len(row) == len(precisions) + 2
        for platform in row[1].split(",")
        for precision, there in zip(precisions, row[2:], strict=True)
        if there == "yes"
    }
    assert documented == set(edge_lab.targets())


def test_a_graph_goes_to_core_ml_as_it_is(tmp_path: Path) -> None:
    """Trained or calibrated elsewhere: nobody calibrates again, and the record says no more than is known."""
    from edge_lab.compress import StaticInt8, quantize

    model, x = small(), nets.noise()
    with pytest.raises(ExportError, match="Core ML can't read ranges"):
        edge_lab.to(Model(quantize(model.module, x[0], x), model.spec), "ios-coreml-int8", out=tmp_path)
    graph = quantize(model.module, x[0], x, StaticInt8(float_scores=False))
    mark(graph, "qat")
    bundle = edge_lab.to(Model(graph, model.spec), "ios-coreml-int8", out=tmp_path)
    assert bundle.quantization == Quantization("int8-static", None, 0, "qat", quantized=4, layers=4)
    assert stored(bundle)["constexpr_affine_dequantize"] == 4
    with pytest.raises(InputError, match="already int8-static"):
        edge_lab.to(Model(graph, model.spec), "linux-onnx-int8", out=tmp_path)


@pytest.mark.parametrize("how", ["int8-dynamic/eager", "int8-dynamic/inductor", "int8-dynamic/executorch", "bf16"])
def test_the_fingerprint_sees_quantized_weights_and_nothing_else(how: str) -> None:
    from edge_lab.capture.target import target
    from edge_lab.export.fingerprint import fingerprint

    def of(model: Model) -> str:
        return fingerprint(model.module, model.spec, target("linux-pt2-fp32"), [], [])

    first, again = made(how), made(how)
    assert of(first) == of(again)
    other = small()
    with torch.no_grad():
        other.module[1][4].weight[0, 0] += 10.0
    verb = {"bf16": lambda m: to_half(m, Half("bfloat16"))}.get(
        how,
        lambda m: quantize_dynamic(m, DynamicInt8(how.split("/")[1])),  # type: ignore[arg-type]
    )
    assert of(verb(other)) != of(first)
