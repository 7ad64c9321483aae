"""Inductor's int8, and programs that hold machine code: they run where they were compiled, and nowhere else."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch

import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.compress import StaticInt8
from edge_lab.compress.graphs.quantized import method_of, scheme_of
from edge_lab.compress.static.backends import quantize_inductor
from edge_lab.core.errors import BundleError, ExportError, InputError, MissingTool
from edge_lab.flow.check import check
from edge_lab.formats.pt2.inductor import compiler
from edge_lab.formats.pt2.native import vouch
from edge_lab.formats.runtime import load

X86 = platform.machine().lower() in ("x86_64", "amd64")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None or not X86, reason="needs g++ and an x86 CPU")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library(artifacts: Path, tmp_path: Path) -> Bundle:
    """A bundle that claims to hold machine code. Its program is none, so whoever opens it fails."""
    made = edge_lab.to(nets.good(), "linux-pt2-fp32", out=artifacts)
    shutil.copytree(made.path, tmp_path / "bundle")
    runtime = replace(made.runtime, format="aoti", backend="inductor")
    bundle = replace(made, path=tmp_path / "bundle", runtime=runtime, target="linux-inductor-fp32")
    bundle.program_path.write_bytes(b"\x7fELF, not really")
    bundle.save()
    return Bundle.load(tmp_path / "bundle")


def test_machine_code_from_elsewhere_is_not_even_opened(library: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(BundleError, match="not compiled here"):
        load(library)


def test_machine_code_for_another_cpu_is_refused(library: Bundle, own_cache: Path) -> None:
    vouch(library.program_path)
    with pytest.raises(BundleError, match="can't load"):  # vouched for, opened, and found to be no library
        load(library)
    (note,) = (own_cache / "compiled-here").iterdir()
    note.write_text("x86_64 AVX9000", encoding="utf-8")
    with pytest.raises(BundleError, match="another CPU"):
        load(library)


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        with pytest.raises(MissingTool, match=r"no C\+\+ compiler"):
            compiler()
        with pytest.raises(MissingTool, match=r"no C\+\+ compiler"):
            edge_lab.to(nets.good(), "linux-inductor-fp32", out=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_the_int8_graph_stays_close_to_float() -> None:
    model = nets.good()
    x = nets.noise()
    graph = quantize_inductor(model.module, x[0], x)
    assert (scheme_of(graph), method_of(graph)) == ("int8-static", "ptq")
    with torch.no_grad():
        want, got = (np.concatenate([m(torch.from_numpy(v)).numpy() for v in x]) for m in (model.module, graph))
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 25


def test_every_format_has_an_engine_and_can_be_measured_in_a_fresh_process() -> None:
    from typing import get_args

    from edge_lab.bundle import folder as bundle
    from edge_lab.formats import runtime
    from edge_lab.measure import child

    formats = set(get_args(bundle.Format))
    assert set(runtime._ENGINES) == set(child._ENGINE_MODULES) == formats


def test_recipes_that_inductor_does_not_have_are_refused() -> None:
    model, x = nets.good(), nets.noise()
    for config in (StaticInt8(per_channel=False), StaticInt8(keep_float=("head*",))):
        with pytest.raises(InputError, match="can't do what this recipe asks"):
            quantize_inductor(model.module, x[0], x, config)
    nothing = nets.tensor_model(nets.NoWeights(), (1, 8))
    with pytest.raises(ExportError, match="nothing in this model was quantized"):
        quantize_inductor(nothing.module, nets.noise((1, 8))[0], nets.noise((1, 8)))


@needs_compiler
@pytest.mark.slow
def test_int8_is_compiled_and_runs(tmp_path: Path) -> None:
    model, x = nets.good(), nets.noise()
    bundle = edge_lab.to(model, "linux-inductor-int8", calibration=x, out=tmp_path)
    assert (bundle.program, bundle.runtime.format) == ("model.aoti", "aoti")
    assert (bundle.quantization.scheme, bundle.quantization.samples) == ("int8-static", len(x))
    graph = quantize_inductor(model.module, x[0], x)
    with torch.no_grad():
        expected = graph(torch.from_numpy(x[0])).numpy()
    np.testing.assert_allclose(load(bundle)(x[0]), expected, atol=0.02 * np.abs(expected).max())
    checked = check(bundle.path)  # loads it in a fresh process too, which must find the note
    assert checked.ok, checked
