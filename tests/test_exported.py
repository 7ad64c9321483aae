"""torch.export and its files: dynamic sizes, what is kept by save and load, and files that are none."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from torch.export import Dim

from edge_lab import export
from edge_lab.bundle.folder import Bundle
from edge_lab.clinic import clinic
from edge_lab.core.errors import BundleError, ExportError
from edge_lab.export import diagnose, to
from edge_lab.formats.pt2.native import vouch
from edge_lab.formats.runtime import load

Change = Callable[[dict[str, bytes]], None]


@pytest.fixture
def damaged(artifacts: Path, tmp_path: Path) -> Callable[[Change], Bundle]:
    """Makes a .pt2 bundle whose checksums are right and whose program was changed."""
    made = to(nets.good(), "linux-pt2-fp32", out=artifacts)

    def make(change: Change) -> Bundle:
        shutil.copytree(made.path, tmp_path / "bundle")
        bundle = replace(made, path=tmp_path / "bundle")
        with zipfile.ZipFile(io.BytesIO(made.program_path.read_bytes())) as archive:
            parts = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
        change(parts)
        with zipfile.ZipFile(bundle.program_path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(f"model/{name}", content)
        bundle.save()
        return Bundle.load(bundle.path)

    return make


GRAPH = "models/model.json"


def _edit(change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(parts: dict[str, bytes]) -> None:
        program = json.loads(parts[GRAPH])
        change(program)
        parts[GRAPH] = json.dumps(program).encode()

    return apply


def _operator(name: str) -> Change:
    return _edit(lambda program: program["graph_module"]["graph"]["nodes"][0].update(target=name))


def _without(end: str) -> Change:
    def apply(parts: dict[str, bytes]) -> None:
        for name in [name for name in parts if name.endswith(end)]:
            del parts[name]

    return apply


DAMAGED = {
    "newer schema": (
        _edit(lambda p: p["schema_version"].update(major=99)),
        r"schema version 99, written by PyTorch \d",
    ),
    "older schema": (_edit(lambda p: p["schema_version"].update(major=1)), "another version of PyTorch"),
    "newer container": (lambda parts: parts.update(archive_version=b"99"), "container has version 99"),
    "unknown operator": (_operator("torch.ops.aten.from_the_future.default"), r"registered as aten\.from_the_future"),
    "custom operator": (_operator("torch.ops.my_camera.debayer.default"), r"registered as my_camera\.debayer"),
    "no graph": (_without(GRAPH), "does not hold the graph"),
    "no weights": (_without("weight_0"), "does not hold .*weight_0"),
    "broken graph": (lambda parts: parts.update({GRAPH: parts[GRAPH][:100]}), "damaged inside"),
    "no version": (_edit(lambda p: p.pop("schema_version")), "damaged inside"),
    "a graph of another shape": (lambda parts: parts.update({GRAPH: b"[1, 2]"}), "damaged inside"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_or_foreign_pt2_is_refused_in_one_sentence(
    kind: str, damaged: Callable[[Change], Bundle], capfd: pytest.CaptureFixture[str]
) -> None:
    change, words = DAMAGED[kind]
    with pytest.raises(BundleError, match=words) as caught:
        load(damaged(change))
    assert "torch can't load" in caught.value.what
    assert "warnings above" not in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_pt2_is_refused(share: float, artifacts: Path, tmp_path: Path) -> None:
    made = to(nets.good(), "linux-pt2-fp32", out=artifacts)
    shutil.copytree(made.path, tmp_path / "bundle")
    bundle = replace(made, path=tmp_path / "bundle")
    whole = made.program_path.read_bytes()
    bundle.program_path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BundleError):  # the checksum, already
        load(bundle.path)
    bundle.save()
    # cut just behind the sample inputs, which are an archive inside the archive, those are what is found
    with pytest.raises(BundleError, match=r"its end is missing|no part of an exported program"):
        load(bundle.path)


def _library(artifacts: Path, tmp_path: Path, **runtime: str) -> Bundle:
    """A bundle that claims to hold machine code."""
    made = to(nets.good(), "linux-pt2-fp32", out=artifacts)
    shutil.copytree(made.path, tmp_path / "bundle")
    native = replace(made.runtime, format="aoti", backend="inductor", **runtime)  # type: ignore[arg-type]
    bundle = replace(made, path=tmp_path / "bundle", runtime=native, target="linux-inductor-fp32")
    bundle.save()
    return Bundle.load(bundle.path)


def test_machine_code_from_elsewhere_is_compiled_again_not_reused(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    bundle = _library(artifacts, tmp_path)
    key = str(bundle.made_by["fingerprint"])
    assert export._reusable(bundle.path, key) is None
    vouch(bundle.program_path)
    assert export._reusable(bundle.path, key) == bundle


def test_machine_code_of_another_pytorch_is_not_loaded(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    bundle = _library(artifacts, tmp_path, made_with="2.0.0", min_version="2.0.0")
    vouch(bundle.program_path)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(BundleError, match=r"compiled for another PyTorch(.|\n)*2\.0\.0"):
        load(Bundle.load(bundle.path))


def test_a_range_of_batches_survives_save_and_load(tmp_path: Path) -> None:
    module, x = nets.good().module, torch.randn(4, *nets.SHAPE[1:])
    program = torch.export.export(module, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 5, 8):
        x = torch.randn(batch, *nets.SHAPE[1:])
        torch.testing.assert_close(loaded(x), module(x))
    with pytest.raises(AssertionError) as caught:
        loaded(torch.randn(9, *nets.SHAPE[1:]))
    assert "<= 8" in diagnose(caught.value, "net", "torch.export").why


def test_a_range_that_the_code_does_not_keep_is_explained() -> None:
    """The multiple of a size, an example of batch 1, a size in the code: all are 'Constraints violated'."""

    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(x.shape[0], 2, x.shape[1] // 2).sum(1)

    width = Dim("width", min=2, max=64)
    module, x = nets.good().module, torch.randn(1, *nets.SHAPE[1:])
    for net, example, dims, why in [
        (Halves(), torch.randn(4, 8), {1: width}, "width"),
        (module, x, {0: Dim("batch", min=1, max=8)}, "the code fixes it to 1"),
    ]:
        with pytest.raises(torch._dynamo.exc.UserError) as caught:
            torch.export.export(net, (example,), dynamic_shapes=(dims,))
        diagnosis = diagnose(caught.value, "net", "torch.export")
        assert why in diagnosis.why
        assert "--debug" not in diagnosis.fix


def test_outputs_that_hide_their_tensors_are_refused(tmp_path: Path) -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> float:
            return 1.0

    for net, why in [(clinic.case("dataclass-output").broken(), "class Boxes"), (Nothing(), "no tensor")]:
        with pytest.raises(ExportError) as caught:
            to(nets.tensor_model(net, (4, 8)), "linux-pt2-fp32", out=tmp_path)
        assert why in caught.value.why
    aux = nets.tensor_model(clinic.case("none-in-the-outputs").broken(), (4, 8))
    assert [out.name for out in to(aux, "linux-pt2-fp32", out=tmp_path).outputs] == ["out"]
