"""ONNX files: what is written, what ONNX Runtime makes of it, the .ort format, and a sentence for every bad file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
import torch
from other_cpus import capped, shim

from edge_lab import to
from edge_lab.bundle.folder import Bundle
from edge_lab.compress import Half, to_half
from edge_lab.core.errors import BundleError, ExportError, InputError
from edge_lab.formats.onnx.file import read_onnx
from edge_lab.formats.onnx.levels import level_table, optimized
from edge_lab.formats.onnx.mobile import to_ort
from edge_lab.formats.onnx.ort import LEVELS, open_session
from edge_lab.formats.onnx.plot import Box, graph_plot, plot_boxes
from edge_lab.formats.onnx.write import write_onnx
from edge_lab.formats.runtime import eager, load
from edge_lab.zoo import from_module


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / max(((reference - other) ** 2).sum(), 1e-30)))


@pytest.fixture(scope="module")
def fp32(artifacts: Path) -> Path:
    return to(nets.good(), "linux-onnx-fp32", out=artifacts).program_path


def test_a_file_says_what_it_is(fp32: Path) -> None:
    file = read_onnx(fp32)
    assert [(v.name, v.dtype, v.shape) for v in file.inputs] == [("image", "float32", nets.SHAPE)]
    assert file.operators["Conv"] == 2  # and no BatchNormalization: it was folded
    assert file.nodes == sum(file.operators.values()) == 7
    assert file.opsets[""] >= 18


def test_no_file_names_a_folder_of_this_computer(artifacts: Path) -> None:
    here = str(Path(torch.__file__).parents[2]).encode()
    for target in ("linux-onnx-fp32", "linux-onnx-fp16", "linux-onnx-int8", "android-ort-fp32"):
        bundle = to(nets.good(), target, out=artifacts)
        for file in bundle.path.rglob("*"):
            if file.is_file():
                assert here not in file.read_bytes(), file.name
                assert os.fsencode(artifacts) not in file.read_bytes(), file.name


def test_float16_is_half_as_large_and_takes_and_gives_float32(artifacts: Path) -> None:
    torch.manual_seed(0)
    wide = nets.tensor_model(
        torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64)), (1, 64)
    )
    whole, half = (to(wide, f"android-onnx-{p}", out=artifacts) for p in ("fp32", "fp16"))
    assert half.program_bytes < 0.55 * whole.program_bytes
    file = read_onnx(half.program_path)
    assert {v.dtype for v in (*file.inputs, *file.outputs)} == {"float32"}
    assert {t.data_type for t in onnx.load(half.program_path).graph.initializer if len(t.dims) > 1} == {10}
    for x in nets.noise((1, 64)):
        assert sqnr(eager(wide)(x), load(half)(x)) >= 30


def test_a_model_that_is_float16_already_stays_it(artifacts: Path) -> None:
    bundle = to(to_half(nets.good(), Half("float16")), "linux-onnx-fp16", out=artifacts)
    assert bundle.quantization.scheme == "fp16"
    assert "Cast" in read_onnx(bundle.program_path).operators


def test_weights_that_do_not_fit_float16_are_refused(tmp_path: Path) -> None:
    model = nets.tensor_model(torch.nn.Linear(8, 8), (1, 8))
    with torch.no_grad():
        model.module.weight[0, 0] = 1e6
    with pytest.raises(InputError, match="does not fit float16"):
        to(model, "linux-onnx-fp16", out=tmp_path)


def test_free_axes_have_names_and_take_any_size(tmp_path: Path) -> None:
    model = nets.good()
    file = write_onnx(model, tmp_path / "free.onnx", dynamic=("batch", "height", "width"))
    assert file.inputs[0].shape == ("batch", 3, "height", "width")
    assert file.outputs[0].shape == ("batch", 10)
    session = open_session(file.path)
    for shape in ((1, 3, 32, 32), (5, 3, 48, 64), (2, 3, 31, 17)):
        x = nets.noise(shape)[0]
        want = model.module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(session.run(None, {"image": x})[0], want, atol=1e-4)


def test_bundles_have_fixed_shapes(fp32: Path) -> None:
    x = np.zeros((2, *nets.SHAPE[1:]), np.float32)
    with pytest.raises(Exception, match="dimension"):
        open_session(fp32).run(None, {"image": x})


def test_the_opset_can_be_chosen(tmp_path: Path) -> None:
    assert write_onnx(nets.good(), tmp_path / "old.onnx", opset=18).opsets[""] == 18
    with pytest.raises(ExportError, match="opset 7 can't be reached"):
        write_onnx(nets.good(), tmp_path / "too_old.onnx", opset=7)
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]


@pytest.mark.parametrize(
    ("dynamic", "error", "words"),
    [(("depth",), InputError, "no axis 'depth'"), (("height",), InputError, "no axis 'height'")],
)
def test_axes_that_are_not_there(dynamic: Any, error: type, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        write_onnx(nets.tensor_model(torch.nn.Linear(8, 8), (1, 8)), tmp_path / "x.onnx", dynamic=dynamic)


def test_an_axis_that_the_model_computes_with_can_not_be_free(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(x.shape[0] if x.shape[0] == 2 else 1)[:, None]

    with pytest.raises(ExportError, match="computes with that size"):
        write_onnx(nets.tensor_model(Fixed(), (1, 8)), tmp_path / "x.onnx", dynamic=("batch",))
    assert not list(tmp_path.iterdir())


def test_levels_fuse_and_compute_the_same(artifacts: Path) -> None:
    for precision, fused in (("fp32", "com.microsoft::FusedConv"), ("int8", "QLinearConv")):
        bundle = to(nets.good(), f"linux-onnx-{precision}", out=artifacts)
        counts = {level: optimized(bundle.program_path, level).operators for level in LEVELS}
        assert counts["disable"]["Conv"] == 2
        assert counts["extended"][fused] == 2
        assert "Clip" not in counts["extended"]
        x = next(iter(bundle.golden_cases()))[1]
        want = load(bundle, level="disable")(x)
        least = 60 if precision == "fp32" else 25
        assert all(sqnr(want, load(bundle, level=level)(x)) >= least for level in LEVELS)
        table = level_table(bundle.program_path)
        assert fused in table
        assert "all operators" in table


def test_levels_belong_to_onnx(artifacts: Path) -> None:
    with pytest.raises(InputError, match="no optimisation level 'most'"):
        load(to(nets.good(), "linux-onnx-fp32", out=artifacts), level="most")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no optimisation level to choose"):
        load(to(nets.good(), "linux-pt2-fp32", out=artifacts), level="basic")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_ort_bundles_run_and_list_their_operators(precision: str, artifacts: Path) -> None:
    model = nets.good()
    bundle = to(model, f"android-ort-{precision}", out=artifacts)
    assert (bundle.runtime.format, bundle.program) == ("ort", "model.ort")
    assert bundle.program_path.read_bytes()[4:8] == b"ORTM"
    assert '"schema_version": 2' in (bundle.path / "bundle.json").read_text()
    assert Bundle.load(bundle.path) == bundle
    x = next(iter(bundle.golden_cases()))[1]
    assert sqnr(eager(model)(x), load(bundle)(x)) >= (60 if precision == "fp32" else 20)
    listed = (bundle.path / "required_operators.config").read_text().split()
    assert all(len(line.split(";")) == 3 for line in listed)
    wanted = {"fp32": "com.microsoft;1;FusedConv", "int8": "QLinearConv"}[precision]
    assert any(wanted in line for line in listed), listed
    assert not list(bundle.path.glob("*.onnx"))


def test_bundles_of_version_1_stay_version_1(fp32: Path) -> None:
    assert '"schema_version": 1' in (fp32.parent / "bundle.json").read_text()


# Files that can't be used


def change(source: Path, path: Path, edit: Callable[[Any], object]) -> None:
    model = onnx.load(source)
    edit(model)
    path.write_bytes(model.SerializeToString())


def foreign(model: Any) -> None:
    model.graph.node[0].domain = "com.acme"
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))


def outside(path: Path) -> None:
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)


EDITS: dict[str, tuple[Callable[[Any], object], str]] = {
    "newer IR": (lambda m: setattr(m, "ir_version", 99), r"IR version 99.*reads up to \d+"),
    "newer opset": (lambda m: setattr(m.opset_import[0], "version", 99), r"opset 99.*knows them up to \d+"),
    "unknown operator": (lambda m: setattr(m.graph.node[0], "op_type", "Frobnicate"), "Frobnicate is no standard"),
    "foreign domain": (foreign, "com.acme:Conv is no standard operator"),
    "shape of a weight": (lambda m: m.graph.initializer[0].dims.append(7), "size"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_programs_that_this_runtime_does_not_take(kind: str, fp32: Path, tmp_path: Path) -> None:
    edit, words = EDITS[kind]
    path = tmp_path / "model.onnx"
    change(fp32, path, edit)
    with pytest.raises(BundleError, match=f"(?s){words}"):
        open_session(path)
    if kind != "foreign domain":  # to the checker a foreign operator is none of its business
        with pytest.raises(BundleError, match=f"(?s){words}"):
            read_onnx(path)


@pytest.mark.parametrize("size", [0, 40, 0.5, 0.99])
def test_programs_that_were_cut_off(size: float, fp32: Path, tmp_path: Path) -> None:
    content = fp32.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(size if size > 1 else size * len(content))])
    for read in (read_onnx, open_session):
        with pytest.raises(BundleError, match=r"not a whole \.onnx file"):
            read(path)


def test_weights_in_another_file_must_come_along(fp32: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(fp32, path)
    outside(path)
    assert read_onnx(path).nodes == 7  # with its weights it is fine
    (tmp_path / "weights.bin").unlink()
    for read in (read_onnx, open_session):
        with pytest.raises(BundleError, match=r"only half of a model.*\n.*weights\.bin"):
            read(path)


def test_weights_outside_of_the_folder_are_not_read(fp32: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle" / "model.onnx"
    path.parent.mkdir()
    shutil.copy(fp32, path)
    outside(path)
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    for read in (read_onnx, open_session):
        with pytest.raises(BundleError, match="outside of its folder"):
            read(path)


def test_no_such_file(tmp_path: Path) -> None:
    for read in (read_onnx, open_session, graph_plot, lambda p: to_ort(p, tmp_path)):
        with pytest.raises(BundleError, match="there is no file"):
            read(tmp_path / "none.onnx")


def test_ort_files_that_are_newer_or_broken(artifacts: Path, tmp_path: Path) -> None:
    """In a process of its own: a flatbuffer with wrong offsets is what crashes readers."""
    good = to(nets.good(), "android-ort-fp32", out=artifacts).program_path.read_bytes()
    version = b"\x01\x00\x00\x006\x00"  # a flatbuffer's string "6"
    assert good.count(version) == 1
    random = np.random.default_rng(0)
    contents = [good.replace(version, version.replace(b"6", b"9")), b"", b"not a program" * 100]
    contents += [good[: len(good) * n // 8] for n in range(1, 8)]
    for _ in range(20):
        damaged = np.frombuffer(good, np.uint8).copy()
        damaged[random.integers(0, 400, 8)] = random.integers(0, 256, 8)
        contents.append(damaged.tobytes())
    for i, content in enumerate(contents):
        (tmp_path / f"{i:02}.ort").write_bytes(content)
    code = (
        "import sys, pathlib\n"
        "from edge_lab.formats.onnx.ort import open_session\n"
        "from edge_lab.core.errors import BundleError\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.ort')):\n"
        "    try: open_session(path); print('loaded')\n"
        "    except BundleError as error: print(str(error).replace(chr(10), ' '))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(contents)
    assert "too new for this ONNX Runtime" in said[0]
    assert "format version is 9" in said[0]
    assert all("not a whole .ort file" in line for line in said[1:10]), said[1:10]


def test_a_damaged_bundle_says_so_when_it_is_loaded(artifacts: Path, tmp_path: Path) -> None:
    made = to(nets.good(), "linux-onnx-fp32", out=artifacts)
    shutil.copytree(made.path, tmp_path / "bundle")
    bundle = Bundle(**{**vars(made), "path": tmp_path / "bundle"})
    change(made.program_path, bundle.program_path, EDITS["newer IR"][0])
    bundle.save()
    with pytest.raises(BundleError, match="is too new for this reader"):
        load(tmp_path / "bundle")


# Pictures


def test_a_graph_is_drawn_without_graphviz(artifacts: Path, tmp_path: Path) -> None:
    path = to(nets.good(), "linux-onnx-int8", out=artifacts).program_path
    for module in ("", "head"):
        figure = graph_plot(path, module)
        words = [text.get_text() for text in figure.axes[0].texts]
        assert any(word.startswith("Gemm") for word in words)
        assert any(word.startswith("Conv") for word in words) == (module == "")
        figure.savefig(tmp_path / "graph.png")
        assert (tmp_path / "graph.png").stat().st_size > 2000


def test_modules_that_can_not_be_drawn(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 operators of a module 'tail'[\s\S]*body, head"):
        graph_plot(fp32, "tail")
    with pytest.raises(BundleError, match="not a whole"):
        (tmp_path / "x.onnx").write_bytes(b"nothing" * 9)
        graph_plot(tmp_path / "x.onnx")


def test_boxes_never_lie_on_each_other() -> None:
    boxes = [Box("in", ()), *(Box(f"{i}", (0,)) for i in range(3)), Box("sum", (1, 2, 3)), Box("skip", (0, 4))]
    places = {(text.get_position()) for text in plot_boxes(boxes).axes[0].texts if text.get_text()}
    assert len(places) == len(boxes)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_numbers_that_onnx_runtime_has_no_kernels_for_are_named(kind: torch.dtype, tmp_path: Path) -> None:
    """Nixtla/neuralforecast#1259: what a training loop leaves in forward."""

    class Inside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.conv2d(x.to(kind), self.conv.weight.to(kind), self.conv.bias.to(kind))
            return y.float().mean((2, 3))

    model = from_module(Inside(), (1, 3, 32, 32), name="inside")
    with pytest.raises(ExportError, match=str(kind).removeprefix("torch.")) as caught:
        to(model, "linux-onnx-fp32", out=tmp_path)
    assert ".float()" in caught.value.fix


def test_attention_without_heads_is_refused_with_a_change_that_helps(tmp_path: Path) -> None:
    class Attention(torch.nn.Module):
        def __init__(self, heads: bool) -> None:
            super().__init__()
            self.heads = heads

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.heads:
                return torch.nn.functional.scaled_dot_product_attention(x, x, x)
            y = x.unsqueeze(1)
            return torch.nn.functional.scaled_dot_product_attention(y, y, y).squeeze(1)

    without, repaired = (from_module(Attention(heads), (1, 8, 10), name="attention") for heads in (False, True))
    with pytest.raises(ExportError, match="4-D tensors only") as caught:
        to(without, "linux-onnx-fp32", out=tmp_path)
    assert "unsqueeze(1)" in caught.value.fix
    assert to(repaired, "linux-onnx-fp32", out=tmp_path).metrics["sqnr_db"] > 60


def test_the_engine_is_asked_whether_its_int8_sums_overflow() -> None:
    """Exact kernels where they do, and only there: with VNNI they cost more than half of the speed."""
    from onnx import TensorProto, helper, numpy_helper

    from edge_lab.formats.onnx.ort import PROBE

    def value(name: str, kind: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    weight = numpy_helper.from_array(np.full((4, 1), 127, np.int8), "b")
    ends = [value("a", TensorProto.UINT8, [1, 4])], [value("c", TensorProto.INT32, [1, 1])]
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "g", *ends, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert model == onnx.load_from_string(PROBE)
    code = "from edge_lab.formats.onnx.ort import sums_overflow; print(sums_overflow())"
    if shim() is None:
        return
    for isa, wanted in (("haswell", "True"), ("nehalem", "False")):  # AVX2 without VNNI; SSE sums in 32 bits
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | capped(isa), capture_output=True, text=True
        )
        assert done.stdout.strip() == wanted, done.stderr
