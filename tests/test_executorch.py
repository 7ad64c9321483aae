"""ExecuTorch programs opened up: what a .pte says, what it refuses, where its time goes, tests inside the file."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import measure
from edge_lab.bundle.folder import Bundle
from edge_lab.cli.main import main
from edge_lab.core.errors import BundleError, InputError
from edge_lab.formats.pte.file import PteReport, inspect_pte, read_pte, refuse_unrunnable

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("executorch")


@pytest.fixture(scope="module")
def portable(folder: Path) -> Bundle:
    return edge_lab.to(nets.good(), "linux-portable-fp32", out=folder)


@pytest.fixture(scope="module")
def xnnpack(folder: Path) -> Bundle:
    return edge_lab.to(nets.good(), "linux-xnnpack-fp32", out=folder)


@pytest.fixture(scope="module")
def split(folder: Path) -> tuple[Path, Path]:
    """A program and its weights in two files."""
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(torch.export.export(nets.good().module, (torch.zeros(nets.SHAPE),)))
    program = edge.to_executorch(ExecutorchBackendConfig(external_constants=True))
    (folder / "split.pte").write_bytes(program.buffer)
    program.write_tensor_data_to_file(str(folder))
    return folder / "split.pte", next(folder.glob("*.ptd"))


def test_a_report_says_what_the_runtime_says(portable: Bundle, xnnpack: Bundle) -> None:
    from edge_lab.formats.runtime import executorch_bindings

    for bundle in (portable, xnnpack):
        report = inspect_pte(bundle.path)
        meta = executorch_bindings()._load_for_executorch(str(bundle.program_path)).method_meta("forward")
        method = report.methods[0]
        assert method.inputs[0].shape == tuple(meta.input_tensor_meta(0).sizes()) == nets.SHAPE
        assert method.outputs[0].shape == tuple(meta.output_tensor_meta(0).sizes()) == (1, 10)
        assert (method.inputs[0].dtype, method.outputs[0].dtype) == ("float32", "float32")
        assert report.bytes == bundle.program_bytes
    assert inspect_pte(xnnpack.path).backends == ("XnnpackBackend",)
    assert inspect_pte(xnnpack.path).operators == ()
    weights = sum(p.numel() for p in nets.good().module.parameters()) * 4
    assert inspect_pte(portable.program_path).constant_bytes > weights
    assert xnnpack.runtime.delegated == 1
    assert (portable.runtime.delegated, portable.runtime.backend) == (0, "portable")


def test_the_operator_list_is_that_of_executorchs_own_tool(portable: Bundle, tmp_path: Path) -> None:
    import yaml
    from executorch.codegen.tools import gen_oplist

    gen_oplist.main([f"--model_file_path={portable.program_path}", f"--output_path={tmp_path / 'ops.yaml'}"])
    theirs = yaml.safe_load((tmp_path / "ops.yaml").read_text(encoding="utf-8"))["operators"]
    report = inspect_pte(portable.path)
    assert set(report.operators) == {name.removeprefix("::") for name in theirs}
    assert report.selective_build() == f'-DEXECUTORCH_SELECT_OPS_LIST="{",".join(report.operators)}"'


def test_portable_and_delegate_compute_the_same(portable: Bundle, xnnpack: Bundle) -> None:
    reference = edge_lab.eager(nets.good())
    for bundle in (portable, xnnpack):
        session = edge_lab.load(bundle)
        for x in nets.noise():
            np.testing.assert_allclose(session(x), reference(x), atol=1e-5)


def test_places_in_the_arena_never_overlap_in_time_and_space(portable: Bundle) -> None:
    method = inspect_pte(portable.path).methods[0]
    assert len(method.planned) >= 9
    for i, a in enumerate(method.planned):
        assert a.offset + a.bytes <= method.arena[0]
        for b in method.planned[:i]:
            apart_in_time = a.last < b.first or b.last < a.first
            apart_in_space = a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
            assert apart_in_time or apart_in_space, (a, b)
    assert method.arena[0] < sum(p.bytes for p in method.planned)  # the memory is used again
    assert {p.made_by for p in method.planned} >= {"input", "aten::addmm.out"}


def test_the_arena_of_free_sizes_is_that_of_the_largest(folder: Path) -> None:
    from executorch.exir import to_edge_transform_and_lower

    sizes = {}
    for most in (4, 8):
        batch = {0: torch.export.Dim("batch", min=1, max=most)}
        exported = torch.export.export(nn.Linear(16, 16), (torch.zeros(2, 16),), dynamic_shapes=(batch,))
        path = folder / f"dynamic{most}.pte"
        path.write_bytes(to_edge_transform_and_lower(exported).to_executorch().buffer)
        report = inspect_pte(path)
        sizes[most] = sum(p.bytes for p in report.methods[0].planned if p.tensor.bounded)
        assert report.methods[0].inputs[0].bounded
        assert str(report.methods[0].inputs[0]) == f"float32 up to {most}x16"
    assert sizes[8] == 2 * sizes[4]


def test_the_picture_has_a_box_for_each_tensor(portable: Bundle) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    report = inspect_pte(portable.path)
    axes = measure.memory_plot(report)
    assert len(axes.patches) == len(report.methods[0].planned)
    with pytest.raises(InputError, match="forward with 1"):
        measure.memory_plot(report, buffer=2)


def test_profile_names_kernels_and_shares_add_up(portable: Bundle, xnnpack: Bundle) -> None:
    x = nets.noise()[0]
    slow = measure.profile_pte(portable, x, runs=3)
    assert slow[0].name == "convolution.out"
    assert slow[0].calls == 2
    assert sum(op.share for op in slow) == pytest.approx(1)
    inside = {op.name for op in measure.profile_pte(xnnpack.path, x, runs=3, top=20)}
    assert any("Convolution" in name for name in inside)
    with pytest.raises(InputError, match="refused the input"):
        measure.profile_pte(portable, np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(BundleError, match="not an ExecuTorch"):
        measure.profile_pte(Path(__file__), x)


def test_a_bundled_program_tests_itself(xnnpack: Bundle, tmp_path: Path) -> None:
    file = measure.write_bundled(xnnpack, tmp_path / "model.bpte")
    assert measure.verify_bundled(file) == (True,) * len(xnnpack.golden)
    copy = tmp_path / "wrong"
    shutil.copytree(xnnpack.path, copy)
    wrong = copy / xnnpack.golden[1].outputs[0]
    (np.fromfile(wrong, "<f4") + 1).astype("<f4").tofile(wrong)
    other = measure.write_bundled(Bundle.load(copy, verify=False), tmp_path / "wrong.bpte")
    assert [i for i, good in enumerate(measure.verify_bundled(other)) if not good] == [1]
    with pytest.raises(BundleError, match="not a bundled program"):
        measure.verify_bundled(xnnpack.program_path)
    with pytest.raises(BundleError, match="bundled with its tests"):
        inspect_pte(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(BundleError):
        measure.verify_bundled(file)


def test_program_and_weights_in_two_files(split: tuple[Path, Path], portable: Bundle) -> None:
    from executorch.runtime import Runtime

    pte, ptd = split
    report = inspect_pte(pte)
    assert report.constant_bytes == 0
    assert "body.0.weight" in report.external
    program = Runtime.get().load_program(pte, data_path=ptd)
    x = nets.noise()[0]
    answer = program.load_method("forward").execute([torch.from_numpy(x)])[0].numpy()
    np.testing.assert_array_equal(answer, edge_lab.load(portable)(x))
    with pytest.raises(BundleError, match="without its weights"):
        edge_lab.load(_with(portable, pte.read_bytes(), pte.parent / "alone"))


def _with(bundle: Bundle, content: bytes, copy: Path) -> Bundle:
    """A copy of a bundle with another program, and checksums that fit."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle.path, copy)
    (copy / bundle.program).write_bytes(content)
    replace(bundle, path=copy).save()
    return Bundle.load(copy)


def _newer(content: bytes) -> bytes:
    """The program with schema version 7. Version 0 is not stored: borrow the place of the list of methods."""
    root = struct.unpack_from("<I", content)[0]
    table = bytearray(content)
    vtable = root - struct.unpack_from("<i", content, root)[0]
    methods = struct.unpack_from("<H", content, vtable + 6)[0]
    struct.pack_into("<H", table, vtable + 4, methods)
    struct.pack_into("<I", table, root + methods, 7)
    return bytes(table)


def test_one_sentence_for_every_bad_program(portable: Bundle, xnnpack: Bundle, tmp_path: Path) -> None:
    good, whole = portable.program_path.read_bytes(), xnnpack.program_path.read_bytes()
    bad = {
        "it is empty": b"",
        "is cut off": good[: len(good) // 2],
        "is not an ExecuTorch program": b"PK\x03\x04" * 100,
        "a file of weights": good[:4] + b"FT01" + good[8:],
        "newer than this ExecuTorch": good[:4] + b"ET13" + good[8:],
        "its schema has version 7": _newer(good),
        "VulkanBackend0 is not in this runtime": whole.replace(b"XnnpackBackend", b"VulkanBackend0"),
        "operator that this runtime does not have: aten::harltanh.out": good.replace(
            b"aten::hardtanh", b"aten::harltanh"
        ),
    }
    for sentence, content in bad.items():
        with pytest.raises(BundleError) as caught:
            edge_lab.load(_with(portable, content, tmp_path / "bad"))
        assert sentence in str(caught.value), sentence


def test_inspect_reads_programs_that_cannot_run_here(xnnpack: Bundle, tmp_path: Path) -> None:
    foreign = tmp_path / "phone.pte"
    foreign.write_bytes(xnnpack.program_path.read_bytes().replace(b"XnnpackBackend", b"SomeNewBackend"))
    report = inspect_pte(foreign)
    assert report.backends == ("SomeNewBackend",)
    with pytest.raises(BundleError, match="SomeNewBackend"):
        refuse_unrunnable(report, ("XnnpackBackend",), ())
    refuse_unrunnable(report, ("SomeNewBackend",), ())


class _WritesToItsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x + 1


@pytest.mark.parametrize("planned", [True, False])
def test_a_session_leaves_its_input_as_it_was(planned: bool, portable: Bundle, tmp_path: Path) -> None:
    """edge_lab exports no such program; another tool can, and with unplanned inputs it would write to the caller's."""
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    edge = to_edge_transform_and_lower(torch.export.export(_WritesToItsInput(), (torch.ones(nets.SHAPE),)))
    program = edge.to_executorch(
        ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=planned))
    )
    session = edge_lab.load(_with(portable, program.buffer, tmp_path / "writes"))
    x = np.ones(nets.SHAPE, np.float32)
    for _ in range(2):
        assert all(set(np.unique(out)) <= {2.0, 3.0} for out in session.run(x))
    assert (x == 1).all()


def test_random_damage_gives_a_report_or_one_sentence(portable: Bundle, xnnpack: Bundle) -> None:
    dice = random.Random(0)
    refused = 0
    for bundle in (portable, xnnpack):
        good = bundle.program_path.read_bytes()
        for _ in range(400):
            bytes_ = bytearray(good)
            for _ in range(dice.choice((1, 4, 16))):
                bytes_[dice.randrange(min(len(bytes_), 4096))] = dice.randrange(256)
            try:
                report: PteReport = read_pte(bundle.program_path, bytes(bytes_))
                assert str(report)
            except BundleError:
                refused += 1
    assert refused > 100


def test_the_command(portable: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(portable.path)]) == 0
    shown = capsys.readouterr().out
    assert "input      float32 1x3x32x32" in shown
    assert "EXECUTORCH_SELECT_OPS_LIST" in shown
    assert main(["inspect", str(tmp_path / "nowhere.pte")]) == 2
    assert "fix:" in capsys.readouterr().err


def test_inspecting_imports_neither_torch_nor_executorch(portable: Bundle) -> None:
    code = (
        "import sys; from edge_lab.formats.pte.file import inspect_pte; inspect_pte(sys.argv[1]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'executorch')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(portable.program_path)], check=False).returncode == 0


@pytest.mark.parametrize("target", ["linux-xnnpack-fp32", "linux-onnx-fp32", "linux-pt2-fp32"])
def test_another_batch_is_one_sentence(target: str, tmp_path: Path) -> None:
    session = edge_lab.load(edge_lab.to(nets.good(), target, out=tmp_path))
    x = np.zeros((3, *session.spec.input.shape[1:]), np.float32)
    assert len(session(x[:1])) == 1
    with pytest.raises(InputError, match="takes a batch of 1, not of 3"):
        session(x)
