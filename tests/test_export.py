"""Every target computes what the PyTorch module computes, or says why it can't."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import nets
import numpy as np
import pytest
import torch

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, ExportError, InputError, MissingTool
from edge_lab.export import targets, to
from edge_lab.formats.runtime import eager, load

RUNNABLE = ["linux-torchscript-fp32", "linux-pt2-fp32", "linux-onnx-fp32", "linux-onnx-fp16", "linux-onnx-int8"]
RUNNABLE += ["android-ort-fp32", "android-ort-int8"]
RUNNABLE += ["android-xnnpack-fp32", "android-xnnpack-fp16", "android-xnnpack-int8"]


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / max(((reference - other) ** 2).sum(), 1e-30)))


@pytest.mark.parametrize("target", RUNNABLE)
def test_computes_the_same(target: str, artifacts: Path) -> None:
    model = nets.good()
    bundle = to(model, target, out=artifacts)
    session = load(bundle)
    inputs = [x for _, x, _ in bundle.golden_cases()]
    reference = np.concatenate([eager(model)(x) for x in inputs])
    outputs = np.concatenate([session(x) for x in inputs])
    least = {"fp32": 60, "fp16": 30, "int8-static": 20}[bundle.quantization.scheme]
    assert sqnr(reference, outputs) >= least
    assert bundle.target.split("-", 1)[1] == target.split("-", 1)[1]  # platforms share one program: see below
    assert session.run(inputs[0])[0].shape == (1, 10)


def test_int8_is_smaller_and_says_what_calibrated_it(artifacts: Path) -> None:
    class Wide(nets.Good):
        def __init__(self) -> None:
            super().__init__()
            self.head[3] = torch.nn.Sequential(torch.nn.Linear(16, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))

    from edge_lab.zoo import from_module

    model = from_module(Wide(), nets.SHAPE, name="wide")
    for backend in ("onnx", "xnnpack"):
        whole = to(model, f"android-{backend}-fp32", out=artifacts)
        small = to(model, f"android-{backend}-int8", out=artifacts)
        assert small.program_bytes < 0.3 * whole.program_bytes
        assert small.quantization.scheme == "int8-static"
        assert small.quantization.samples == 32
        assert small.quantization.calibration == "calibration"
        assert small.quantization.quantized == small.quantization.layers


def test_everything_is_delegated_to_xnnpack(artifacts: Path) -> None:
    for precision in ("fp32", "int8"):
        runtime = to(nets.good(), f"pi-xnnpack-{precision}", out=artifacts).runtime
        assert runtime.delegated is not None
        assert runtime.delegated >= 0.8, runtime.operators


def test_coreml_is_converted_everywhere_and_run_on_macs(artifacts: Path) -> None:
    import sys

    bundle = to(nets.good(), "ios-coreml-fp16", out=artifacts)
    assert bundle.program_path.is_dir()
    assert {case.reference for case in bundle.golden} <= {"self", "interpreted"}
    if sys.platform != "darwin":
        with pytest.raises(MissingTool, match="macOS"):
            load(bundle)


def test_platforms_share_one_program(artifacts: Path) -> None:
    android, pi = (to(nets.good(), f"{p}-xnnpack-fp32", out=artifacts) for p in ("android", "pi"))
    assert android.path == pi.path
    assert android.made_by == pi.made_by


def test_dict_and_list_outputs_are_named(artifacts: Path) -> None:
    model = nets.tensor_model(nets.Detector())
    for target in ("linux-torchscript-fp32", "linux-onnx-fp32", "android-xnnpack-fp32"):
        bundle = to(model, target, out=artifacts)
        assert [out.name for out in bundle.outputs] == ["boxes", "scores_0", "scores_1"]
        x = nets.noise()[0]
        want, got = eager(model).run(x), load(bundle).run(x)
        assert [w.shape for w in want] == [g.shape for g in got] == [(1, 4, 225), (1, 225), (1, 225)]
        for w, g in zip(want, got, strict=True):
            np.testing.assert_allclose(w, g, atol=1e-4)


def test_bundles_are_reused_until_something_changes(tmp_path: Path) -> None:
    model = nets.good()
    first = to(model, "linux-pt2-fp32", out=tmp_path)
    assert to(model, "linux-pt2-fp32", out=tmp_path).made_by == first.made_by
    with torch.no_grad():
        next(model.module.parameters()).mul_(1.5)
    changed = to(model, "linux-pt2-fp32", out=tmp_path)
    assert changed.made_by["fingerprint"] != first.made_by["fingerprint"]
    (changed.path / "model.pt2").write_bytes(b"damaged")
    assert to(model, "linux-pt2-fp32", out=tmp_path).program_bytes == changed.program_bytes


def test_unknown_target_offers_near_ones() -> None:
    with pytest.raises(InputError, match="android-xnnpack-int8"):
        to(nets.good(), "android-xnpack-int8")
    assert "ios-coreml-fp16" in targets("ios-*")


def test_a_branch_is_scripted_not_traced(tmp_path: Path) -> None:
    model = nets.tensor_model(nets.Branch())
    session, reference = load(to(model, "linux-torchscript-fp32", out=tmp_path)), eager(model)
    signs = set()
    for x in [*nets.noise(), *(x + 5 for x in nets.noise()), *(x - 5 for x in nets.noise())]:
        np.testing.assert_allclose(session(x), reference(x), atol=1e-5)
        signs.add(bool(model.module.conv(torch.from_numpy(x)).mean() > 0))
    assert signs == {True, False}  # both sides were tried


REFUSED = [
    (nets.Branch, nets.SHAPE, "linux-onnx-fp32", "branches or loops", r"torch\.where"),
    (nets.Branch, nets.SHAPE, "android-xnnpack-fp32", r"branches or loops.*nets\.py:\d+", r"torch\.where"),
    (nets.Numpy, (1, 8), "linux-torchscript-fp32", "trace is wrong", r"\.item\(\)"),
    (nets.Item, (1, 8), "linux-pt2-fp32", "branches or loops", r"\.item\(\)"),
    (nets.Special, (1, 8), "linux-onnx-fp32", "no translation for.*bessel", "custom translation"),
    (nets.Special, (1, 8), "android-xnnpack-fp32", r"aten\.i0 is outside", "other|standard"),
    (nets.Special, (1, 8), "ios-coreml-fp16", "no conversion for i0", "register"),
    (nets.Nan, (1, 8), "linux-pt2-fp32", "weights or its preprocessing", "checkpoint"),
]


@pytest.mark.parametrize(("net", "shape", "target", "why", "fix"), REFUSED)
def test_refusals_name_cause_and_remedy(net, shape, target, why, fix, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        to(nets.tensor_model(net(), shape), target, out=tmp_path)
    import re

    assert re.search(why, caught.value.why), caught.value.why
    assert re.search(fix, caught.value.fix), caught.value.fix
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


@pytest.mark.parametrize("backend", ["onnx", "xnnpack"])
def test_int8_without_anything_to_quantize_is_refused(backend: str, tmp_path: Path) -> None:
    model = nets.tensor_model(nets.NoWeights(), (1, 8))
    with pytest.raises(ExportError, match="nothing in this model was quantized"):
        to(model, f"android-{backend}-int8", calibration=nets.noise((1, 8)), out=tmp_path)


@pytest.mark.parametrize("backend", ["onnx", "xnnpack"])
@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "there are none"),
        (None, "no preprocessing"),
        ([np.zeros((1, 3, 8, 8), np.float32)], r"calibration input 0 is float32 \(1, 3, 8, 8\)"),
        ([np.full(nets.SHAPE, np.nan, np.float32)], "NaN"),
        ([np.zeros(nets.SHAPE)], "float64"),
    ],
)
def test_unusable_calibration_is_refused(backend: str, calibration, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        to(nets.tensor_model(nets.Good()), f"android-{backend}-int8", calibration=calibration, out=tmp_path)


def test_sessions_check_their_input(artifacts: Path) -> None:
    session = load(to(nets.good(), "linux-onnx-fp32", out=artifacts))
    for wrong in (np.zeros((1, 32, 32, 3), np.float32), np.zeros(nets.SHAPE), np.zeros((1, 3, 8, 8), np.float32)):
        with pytest.raises(InputError):
            session(wrong)


def test_sessions_leave_their_input_alone() -> None:
    model = nets.tensor_model(nets.InPlace())
    x = np.zeros(nets.SHAPE, np.float32)
    eager(model)(x)
    assert not x.any()


def damaged(artifacts: Path, tmp_path: Path, target: str, content: bytes) -> Bundle:
    """A bundle whose checksums are right and whose program is not."""
    import shutil

    made = to(nets.good(), target, out=artifacts)
    shutil.copytree(made.path, tmp_path / "bundle")
    bundle = Bundle(**{**vars(made), "path": tmp_path / "bundle"})
    bundle.program_path.write_bytes(content)
    bundle.save()
    return Bundle.load(tmp_path / "bundle")


@pytest.mark.parametrize(
    "target", ["linux-torchscript-fp32", "linux-pt2-fp32", "linux-onnx-fp32", "linux-xnnpack-fp32"]
)
@pytest.mark.parametrize("content", [b"", b"not a program" * 100])
def test_programs_that_are_none(target: str, content: bytes, artifacts: Path, tmp_path: Path) -> None:
    bundle = damaged(artifacts, tmp_path, target, content)
    with pytest.raises(BundleError, match=r"can't load|not an ExecuTorch|not a whole"):
        load(bundle)


class Evil:
    def __reduce__(self):  # what unpickling would run
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def repacked(artifacts: Path, change: dict[str, bytes]) -> bytes:
    """A good .pt2 with some members replaced or added."""
    good = to(nets.good(), "linux-pt2-fp32", out=artifacts).program_path.read_bytes()
    evil = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(evil, "w") as copy:
        members = {name: source.read(name) for name in source.namelist()} | change
        for name, content in members.items():
            copy.writestr(name, content)
    return evil.getvalue()


_PICKLED = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
_OPAQUE = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
HOSTILE = {
    "sample inputs": {"model/data/sample_inputs/model.pt": pickle.dumps(Evil())},
    "pickled weight": {
        "model/data/weights/model_weights_config.json": json.dumps({"config": {"w": _PICKLED}}).encode(),
        "model/data/weights/weight_0": pickle.dumps(Evil()),
    },
    "opaque constant": {
        "model/data/constants/model_constants_config.json": json.dumps({"config": {"c": _OPAQUE}}).encode(),
        "model/data/constants/opaque_obj_0": pickle.dumps(Evil()),
    },
    "compiled library": {"model/data/aotinductor/model/evil.so": b"\x7fELF"},
    "size expression": {"model/models/model.json": b"{\"expr_str\": \"__import__('os').system('touch pwned')\"}"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pt2_with_code_in_it_is_refused(kind: str, artifacts: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = damaged(artifacts, tmp_path, "linux-pt2-fp32", repacked(artifacts, HOSTILE[kind]))
    with pytest.raises(BundleError, match="refused"):
        load(bundle)
    assert not (tmp_path / "pwned").exists()


def test_raw_weights_that_look_like_a_pickle_are_weights(tmp_path: Path) -> None:
    """A weight file may begin with any byte, also with those that begin a pickle or a zip file."""
    model = nets.tensor_model(torch.nn.Linear(8, 8), (1, 8))
    for beginning in (b"\x80\x02\x00\x3f", b"PK\x03\x04"):
        with torch.no_grad():
            model.module.weight[0, 0] = torch.from_numpy(np.frombuffer(beginning, "<f4").copy())[0]
        session = load(to(model, "linux-pt2-fp32", out=tmp_path))
        assert np.isfinite(session(nets.noise((1, 8))[0])).all()
