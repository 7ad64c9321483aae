"""Core ML programs interpreted as wholes: agreement on real pictures, planted faults, damaged files, .pte files."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import data, measure, zoo
from edge_lab.core.errors import BundleError
from edge_lab.flow.check import check
from edge_lab.formats.coreml.mil.operators import known_operators
from edge_lab.formats.coreml.mil.run import interpret, load_mil
from edge_lab.formats.coreml.mil.table import OPERATORS
from edge_lab.formats.coreml.mil.weights import compare_weights
from edge_lab.quality.layers.find import first_divergence


def _digits() -> zoo.Model:
    return zoo.create("tinynet", weights=Path(__file__).parent.parent / "labs/checkpoints/tinynet-digits.safetensors")


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return _digits()


@pytest.fixture(scope="module")
def pictures(model: zoo.Model) -> measure.Inputs:
    return measure.prepare(data.load("digits", limit=100), model.spec)


@pytest.fixture(scope="module")
def bundles(model: zoo.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, edge_lab.Bundle]:
    out = tmp_path_factory.mktemp("mil")
    return {p: edge_lab.to(model, f"ios-coreml-{p}", out=out) for p in ("fp32", "fp16")}


def test_bundles_agree_with_the_model_on_real_pictures(
    model: zoo.Model, pictures: measure.Inputs, bundles: dict[str, edge_lab.Bundle]
) -> None:
    reference = measure.outputs_of(edge_lab.eager(model), pictures)
    for precision, decibels in (("fp32", 100), ("fp16", 35)):
        found = measure.parity(reference, measure.outputs_of(interpret(bundles[precision]), pictures))
        assert found.sqnr_db >= decibels, precision
        assert found.agreement >= 99


def test_float16_values_are_stored_as_float16(pictures: measure.Inputs, bundles: dict[str, edge_lab.Bundle]) -> None:
    program = load_mil(bundles["fp16"].program_path)
    values = dict(program.trace(**{program.inputs[0]: pictures[0]}))
    for name, value in values.items():
        if value.dtype == np.float32:
            np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32), name)


def test_a_planted_fault_in_the_weights_is_found(model: zoo.Model, bundles: dict[str, edge_lab.Bundle]) -> None:
    program = load_mil(bundles["fp16"].program_path)
    assert min(row.sqnr_db for row in compare_weights(program, model)) > 60
    last = compare_weights(program, model)[-1]
    other = _digits()
    with torch.no_grad():
        layer = other.module.get_submodule(last.layer)
        layer.weight[0] *= -1  # type: ignore[operator, index]
    worst = compare_weights(program, other)[0]
    assert worst.layer == last.layer
    assert worst.sqnr_db < 30


def test_the_first_layer_that_differs_is_named(
    model: zoo.Model, pictures: measure.Inputs, bundles: dict[str, edge_lab.Bundle]
) -> None:
    found = first_divergence(model, bundles["fp16"], pictures[0], threshold_db=40)
    assert found.first is None
    assert len(found.layers) == 10
    other = _digits()
    with torch.no_grad():
        other.module.get_submodule("blocks.1.conv2").weight[0] *= -1  # type: ignore[operator, index]
    assert (first := first_divergence(other, bundles["fp16"], pictures[0], threshold_db=40).first) is not None
    assert first.name == "blocks.1.conv2"


def test_a_model_with_other_layers_is_not_compared(bundles: dict[str, edge_lab.Bundle]) -> None:
    other = zoo.from_module(nn.Sequential(nn.Conv2d(3, 9, 5), nn.Flatten()), input_shape=(1, 3, 8, 8))
    with pytest.raises(BundleError, match="holds no conv"):
        compare_weights(load_mil(bundles["fp16"].program_path), other)


def test_wrong_input_is_one_sentence(bundles: dict[str, edge_lab.Bundle]) -> None:
    program = load_mil(bundles["fp32"].program_path)
    with pytest.raises(BundleError, match=r"takes .*, not nothing"):
        program.run()
    with pytest.raises(BundleError, match=r"can't be computed|where the program declares"):
        program.run(**{program.inputs[0]: np.zeros((1, 3, 20, 20), np.float32)})


def test_unknown_operator_is_refused_by_name(
    bundles: dict[str, edge_lab.Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    known_operators()
    monkeypatch.delitem(OPERATORS, "conv")
    with pytest.raises(BundleError, match="uses conv: not known"):
        load_mil(bundles["fp32"].program_path)


@pytest.mark.parametrize("fault", ["truncated program", "truncated weights", "no weights", "not a package", "missing"])
def test_damaged_package_is_one_sentence(fault: str, bundles: dict[str, edge_lab.Bundle], tmp_path: Path) -> None:
    package = tmp_path / "broken.mlpackage"
    if fault != "missing":
        shutil.copytree(bundles["fp16"].program_path, package)
    (program, *_) = [*package.rglob("*.mlmodel"), None]
    (weights, *_) = [*package.rglob("weight.bin"), None]
    if fault == "truncated program":
        program.write_bytes(program.read_bytes()[:1000])
    elif fault == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:200])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "not a package":
        (package / "Manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="can't be read as a Core ML program"):
        load_mil(package)


class _Aliases(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.alias(x.relu()) * 2


def test_aliases_do_not_stop_the_converter(tmp_path: Path) -> None:
    """coremltools has no conversion for aten.alias, which networks such as Swin hold."""
    bundle = edge_lab.to(zoo.from_module(_Aliases(), (1, 3, 4, 4), task="tensor"), "ios-coreml-fp32", out=tmp_path)
    x = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    np.testing.assert_allclose(interpret(bundle).run(x)[0], 2 * np.maximum(x, 0))


def test_only_core_ml_bundles_are_interpreted(model: zoo.Model, tmp_path: Path) -> None:
    bundle = edge_lab.to(model, "linux-pt2-fp32", out=tmp_path)
    with pytest.raises(BundleError, match="not for Core ML"):
        interpret(bundle)


def test_other_kinds_of_models_are_refused(bundles: dict[str, edge_lab.Bundle], tmp_path: Path) -> None:
    import coremltools as ct

    spec = ct.proto.Model_pb2.Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    (tmp_path / "old.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.raises(BundleError, match="holds a model of the kind neuralNetwork"):
        load_mil(tmp_path / "old.mlmodel")
    both = ct.utils.MultiFunctionDescriptor()
    for name in ("one", "two"):
        both.add_function(str(bundles["fp32"].program_path), "main", name)
    both.default_function_name = "one"
    ct.utils.save_multifunction(both, str(tmp_path / "both.mlpackage"))
    with pytest.raises(BundleError, match="holds a program of 2 functions"):
        load_mil(tmp_path / "both.mlpackage")


@pytest.mark.parametrize(
    ("precision", "decibels"), [("int8-weights", 40), ("palette6", 30), ("palette4", 15), ("int8", 15)]
)
def test_fewer_bits_are_interpreted(
    precision: str, decibels: float, model: zoo.Model, pictures: measure.Inputs, tmp_path: Path
) -> None:
    bundle = edge_lab.to(model, f"ios-coreml-{precision}", out=tmp_path)
    reference = measure.outputs_of(edge_lab.eager(model), pictures)
    found = measure.parity(reference, measure.outputs_of(interpret(bundle), pictures))
    assert found.sqnr_db >= decibels
    assert found.agreement >= 95
    assert bundle.metrics["sqnr_db"] is not None
    bits = {"palette6": 64, "palette4": 16, "int8-weights": 256 * 64}.get(precision)
    if bits is not None:
        large = [row for row in compare_weights(load_mil(bundle.program_path), model) if np.prod(row.shape) > 2048]
        assert large
        assert all(row.values <= bits for row in large)


def test_program_inside_an_executorch_file_is_interpreted(
    model: zoo.Model, pictures: measure.Inputs, tmp_path: Path
) -> None:
    bundle = edge_lab.to(model, "ios-coreml-pte-fp16", out=tmp_path)
    assert bundle.runtime.delegated == 1
    reference = measure.outputs_of(edge_lab.eager(model), pictures)
    assert measure.parity(reference, measure.outputs_of(interpret(bundle), pictures)).sqnr_db >= 35
    damaged = tmp_path / "damaged.pte"
    content = bundle.program_path.read_bytes()
    index = content.index(b'"sedon"')  # of the packed folder, written backwards
    for broken in (
        b"",
        content[:100],
        content[: len(content) // 2],
        content[:index] + b"!" + content[index + 1 :],
    ):
        damaged.write_bytes(broken)
        with pytest.raises(BundleError, match="can't be read as a Core ML program"):
            load_mil(damaged)


def test_a_pte_without_core_ml_is_refused(model: zoo.Model, tmp_path: Path) -> None:
    bundle = edge_lab.to(model, "linux-xnnpack-fp32", out=tmp_path)
    with pytest.raises(BundleError, match="Core ML"):
        load_mil(bundle.program_path)


def test_session_name_says_what_it_is(bundles: dict[str, edge_lab.Bundle]) -> None:
    session = interpret(bundles["fp16"])
    assert session.engine == "reference interpretation"
    assert replace(bundles["fp16"]).name in session.name


def test_check_interprets_what_it_cannot_run(
    bundles: dict[str, edge_lab.Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copied = tmp_path / "coreml-fp16"
    shutil.copytree(bundles["fp16"].path, copied)
    lines = {line.name: line.ok for line in check(copied).lines}
    if sys.platform != "darwin":
        assert lines["runs here"] is None
        assert lines["interpreted"] is True
    weights = next(copied.rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50_000] = bytes(50_000)
    weights.write_bytes(content)
    edge_lab.Bundle.load(copied, verify=False).save()  # with checksums that fit: only computing can tell
    assert any(line.ok is False for line in check(copied).lines)
