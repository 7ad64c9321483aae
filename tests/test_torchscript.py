"""TorchScript and the lite interpreter: the same answers, also behind a branch, and a sentence for every bad file."""

from __future__ import annotations

import io
import pickle
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.capture.target import Lite, target
from edge_lab.core.errors import BundleError, ExportError, InputError
from edge_lab.formats.torchscript import lite
from edge_lab.formats.torchscript.archive import read_lite, refuse_unsafe_script
from edge_lab.formats.torchscript.torchscript import record

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning", "ignore:Converting a tensor"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return edge_lab.to(nets.good(), "android-lite-fp32", out=tmp_path_factory.mktemp("lite"))


def test_a_lite_bundle_computes_what_the_module_computes(good: Bundle) -> None:
    session, reference = edge_lab.load(good), edge_lab.eager(nets.good())
    for x in nets.noise():
        np.testing.assert_allclose(session(x), reference(x), atol=1e-5)
    assert (good.program, good.runtime.format, good.runtime.backend) == ("model.ptl", "ptl", "lite")
    assert '"schema_version": 2' in (good.path / "bundle.json").read_text(encoding="utf-8")
    linux = edge_lab.to(nets.good(), "linux-lite-fp32", out=good.path.parents[1])
    assert linux.path == good.path  # the platforms share a program


def test_labels_and_spec_travel_inside_the_archive(good: Bundle, tmp_path: Path) -> None:
    extra = read_lite(good.program_path).extra
    assert extra["labels.txt"].decode().splitlines() == list(good.spec.labels)
    assert b'"mean"' in extra["spec.json"]
    script = edge_lab.to(nets.good(), "linux-torchscript-fp32", out=tmp_path)
    files = {"labels.txt": ""}
    torch.jit.load(str(script.program_path), _extra_files=files)
    assert files["labels.txt"] == extra["labels.txt"]


class Loop(nn.Module):
    """Halves its input until it is small: the number of rounds depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.abs().max() > 1.0):
            x = x / 2
        return self.linear(x)


@pytest.mark.parametrize(("net", "shape"), [(nets.Branch, nets.SHAPE), (Loop, (1, 8))])
def test_a_trace_is_wrong_where_the_bundle_is_right(net: type[nn.Module], shape: tuple[int, ...], tmp_path) -> None:
    model = nets.tensor_model(net(), shape)
    inputs = [x + step for step in (0, -5, 5) for x in nets.noise(shape)]
    session, reference = edge_lab.load(edge_lab.to(model, "android-lite-fp32", out=tmp_path)), edge_lab.eager(model)
    traced = torch.jit.trace(model.module, torch.from_numpy(inputs[0]))
    wrong = 0
    for x in inputs:
        np.testing.assert_allclose(session(x), reference(x), atol=1e-5)
        with torch.no_grad():
            wrong += not np.allclose(traced(torch.from_numpy(x)).numpy(), reference(x), atol=1e-2)
    assert wrong >= 8
    jumps = {
        name for name, _, _ in read_lite(tmp_path / model.spec.name / "lite-fp32" / "model.ptl").forward.instructions
    }
    assert jumps & {"JF", "LOOP"}  # the branch is in the file


def test_what_neither_trace_nor_script_can_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="trace is wrong for other inputs"):
        edge_lab.to(nets.tensor_model(nets.Numpy(), (1, 8)), "ios-lite-fp32", out=tmp_path)
    with pytest.raises(ExportError, match="Numpy can't be exported to TorchScript"):
        record(nets.tensor_model(nets.Numpy(), (1, 8)).module, nets.noise((1, 8))[0])


class Cond(nets.Branch):
    """The branch as torch.export wants it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return torch.cond(y.mean() > 0, lambda y: y * 2, lambda y: y - 1, (y,))


def test_the_branch_of_torch_export_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"torch\.cond"):
        edge_lab.to(nets.tensor_model(Cond()), "android-lite-fp32", out=tmp_path)


def test_dynamic_int8_stores_and_runs_integers(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    model = nets.tensor_model(layers, (1, 64))
    whole, small = (edge_lab.to(model, f"android-lite-{p}", out=tmp_path) for p in ("fp32", "int8-dynamic"))
    thin = edge_lab.to(model, replace(target("android-lite-int8-dynamic"), lite=Lite(slim=True)), out=tmp_path / "thin")
    assert small.program_bytes < 0.6 * whole.program_bytes  # two copies of the weights in it
    assert thin.program_bytes < 0.3 * whole.program_bytes
    x = nets.noise((1, 64))[0]
    np.testing.assert_array_equal(edge_lab.load(thin)(x), edge_lab.load(small)(x))
    assert read_lite(thin.program_path).forward.calls == read_lite(small.program_path).forward.calls
    assert "quantized::linear_dynamic" in read_lite(small.program_path).operators
    assert (small.quantization.quantized, small.quantization.layers) == (2, 2)
    assert small.metrics["sqnr_db"] > 30


def test_a_slim_file_holds_no_source_code(good: Bundle, tmp_path: Path) -> None:
    path = Path(shutil.copy(good.program_path, tmp_path / "model.ptl"))
    assert any(name.startswith("code/") for name in read_lite(path).members)
    lite.slim(path)
    assert not any(name.startswith("code/") for name in read_lite(path).members)
    assert read_lite(path).extra == read_lite(good.program_path).extra
    with pytest.raises(InputError, match="can't be rewritten"):
        lite.backport(path, 5)


def test_mobile_passes_and_an_older_bytecode_are_options(tmp_path: Path) -> None:
    model = nets.tensor_model(Residual())
    goal = replace(target("android-lite-fp32"), lite=Lite(("dropout", "add_relu"), bytecode=5))
    plain = edge_lab.to(model, "android-lite-fp32", out=tmp_path / "plain")
    fused = edge_lab.to(model, goal, out=tmp_path / "fused")
    x = nets.noise()[0]
    np.testing.assert_allclose(edge_lab.load(fused)(x), edge_lab.load(plain)(x), atol=1e-5)
    assert "aten::_add_relu.Tensor" in read_lite(fused.program_path).operators
    assert "aten::_add_relu.Tensor" not in read_lite(plain.program_path).operators
    assert (read_lite(plain.program_path).version > 5, read_lite(fused.program_path).version) == (True, 5)


def test_every_older_bytecode_gives_the_same_answers(good: Bundle, tmp_path: Path) -> None:
    x = nets.noise()[0]
    for version in (7, 6, 5, 4):
        older = holding(good, good.program_path.read_bytes(), tmp_path / str(version))
        lite.backport(older.program_path, version)
        older.save()
        assert read_lite(older.program_path).version == version
        np.testing.assert_array_equal(edge_lab.load(older)(x), edge_lab.load(good)(x))


class Residual(nn.Module):
    """A shortcut: add, then ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


@pytest.mark.parametrize(("options", "words"), [(Lite(("prepack",)), "no mobile pass"), (Lite((), 3), "from 4 to")])
def test_options_that_there_are_not(options: Lite, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        edge_lab.to(nets.good(), replace(target("android-lite-fp32"), lite=options), out=tmp_path)


def test_the_probe_says_what_works_and_why_the_rest_fails() -> None:
    found = lite.mobile_passes()
    assert [r.name for r in found.results] == list(lite.passes())
    assert set(lite.OFFERED) | {"freeze", "conv_bn"} <= set(found.working)
    assert found["conv_bn"].change == "batch_norm 1 → 0"
    assert found["add_relu"].after["_add_relu"] == 1
    assert all(r.works or r.note for r in found.results)
    assert found.tried == 64
    assert found.blocklists or found.note
    assert f"{found.blocklists} of 64" in str(found)


def test_the_probe_takes_your_model(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: lite.passes()[name] for name in ("freeze", "add_relu")}
    monkeypatch.setattr(lite, "passes", lambda: some)
    assert (
        lite.mobile_passes(nets.tensor_model(Residual()))["add_relu"].change == "_add_relu 0 → 1, add 1 → 0, relu 1 → 0"
    )


def test_a_pass_that_ends_the_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (-11, '{"name": "freeze"}\n{"name": "freeze", "done": true, "error": 0.0, "note": ""}\n{"name": "mkldnn"}\n'),
        (0, '{"name": "metal", "done": true, "note": "not here"}\n'),
    ]

    def child(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        code, said = answers.pop(0)
        return subprocess.CompletedProcess(command, code, said, "")

    monkeypatch.setattr(lite.subprocess, "run", child)
    found = lite._collect(tmp_path, ["freeze", "mkldnn", "metal"])
    assert found.working == ("freeze",)
    assert found["mkldnn"].note == "it ends the process (signal 11)"


# Bad files -----------------------------------------------------------------------------------------------------------


def repacked(source: Path, change: dict[str, Callable[[bytes], bytes]]) -> bytes:
    """A copy of an archive with some members changed; the checksums of the zip are right again."""
    copy = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for member, edit in change.items():
                if name.endswith("/" + member):
                    content = edit(content)
            new.writestr(name, content)
    return copy.getvalue()


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    return edit


def saved(module: nn.Module, **options: object) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), file, **options)
    return file.getvalue()


class Evil:
    def __reduce__(self):  # what a careless reader would run
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def flatbuffer(_: Path) -> bytes:
    return torch.jit.script(nets.good().module)._save_to_buffer_for_lite_interpreter(_use_flatbuffer=True)


def weights(_: Path) -> bytes:
    file = io.BytesIO()
    torch.save(nets.good().module.state_dict(), file)
    return file.getvalue()


def with_bytecode(edit: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    return lambda path: repacked(path, {"bytecode.pkl": edit})


CLAMP, STRANGE, SAVE = (
    len(name).to_bytes(4, "little") + name for name in (b"aten::hardtanh", b"aten::softtanh", b"aten::save")
)
LAST_OP = re.compile(rb"K.(K\x00\x87X\x03\x00\x00\x00RET)", re.DOTALL)
BAD: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "empty"),
    "another tool's": (lambda _: b"TFL3" * 100, "not a whole program.*no zip"),
    "truncated": (lambda p: p.read_bytes()[:-2000], "not a whole program.*its end is missing"),
    "weights only": (weights, "no bytecode"),
    "full TorchScript": (lambda _: saved(nets.good().module), "no bytecode.*torch.jit.save"),
    "FlatBuffer": (flatbuffer, "FlatBuffer"),
    "newer bytecode": (with_bytecode(swap(b"\x80\x02K\x08", b"\x80\x02K\x63")), "bytecode 99; this PyTorch reads"),
    "unknown operator": (with_bytecode(swap(CLAMP, STRANGE)), "does not have: aten::softtanh"),
    "operator that writes": (with_bytecode(swap(CLAMP, SAVE)), "uses aten::save"),
    "index too large": (with_bytecode(lambda c: LAST_OP.sub(b"K\xf0\\1", c)), "behind the end of its operators"),
    "cut tensor": (lambda p: repacked(p, {"constants/2.storage": lambda c: c[:100]}), "numbers of tensor"),
    "Python pickle": (lambda p: repacked(p, {"data.pkl": lambda _: pickle.dumps(Evil())}), "names builtins.exec"),
    "no pickle": (with_bytecode(lambda _: b"\xff\xfe"), "not a whole program"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_ptl_is_refused_in_one_sentence(kind: str, good: Bundle, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = BAD[kind]
    bundle = holding(good, make(good.program_path), tmp_path)
    with pytest.raises(BundleError) as caught:
        edge_lab.load(bundle)
    assert re.search(words, str(caught.value), re.DOTALL), str(caught.value)
    assert not (tmp_path / "pwned").exists()


def holding(good: Bundle, program: bytes, folder: Path) -> Bundle:
    """A bundle whose checksums are right, with another program."""
    shutil.copytree(good.path, folder / "bundle")
    bundle = replace(good, path=folder / "bundle")
    bundle.program_path.write_bytes(program)
    bundle.save()
    return Bundle.load(bundle.path)


class Writes(nn.Module):
    """Makes a file named pwned, without a line of Python."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("pwned", shared=True, size=8)


def test_a_script_that_writes_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    path.write_bytes(saved(Writes()))
    with pytest.raises(BundleError, match="uses from_file"):
        refuse_unsafe_script(path)
    assert not (tmp_path / "pwned").exists()
    torch.jit.load(str(path))(torch.zeros(8))  # that is what it would have done
    assert (tmp_path / "pwned").exists()


def test_damaged_copies_never_end_the_process(good: Bundle, tmp_path: Path) -> None:
    """Two hundred copies with a byte or two changed: refused, or loaded and run, in a process that stays alive."""
    rng = random.Random(0)

    def hurt(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(rng.choice((1, 2))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)

    for i in range(200):
        member = rng.choice(["bytecode.pkl"] * 3 + ["data.pkl", "constants.pkl"])
        (tmp_path / f"{i}.ptl").write_bytes(repacked(good.program_path, {member: hurt}))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD_ALL, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]
    refused, loaded = map(int, done.stdout.split()[-2:])
    assert refused + loaded == 200
    assert min(refused, loaded) > 5  # both kinds were there


LOAD_ALL = """
import sys, pathlib, torch, torch.jit.mobile
from edge_lab.core.errors import BundleError
from edge_lab.formats.torchscript.archive import read_lite
refused = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.ptl")):
    print(path.name, flush=True)
    try:
        read_lite(path)
    except BundleError:
        refused += 1
        continue
    try:
        torch.jit.mobile._load_for_lite_interpreter(str(path))(torch.zeros(1, 3, 32, 32))
    except Exception:
        pass
print(refused, 200 - refused)
"""
