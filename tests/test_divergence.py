"""The first layer of a program that differs from the model is found and named."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edge_lab import to
from edge_lab.bundle.folder import Bundle
from edge_lab.capture.target import target
from edge_lab.compress import StaticInt8
from edge_lab.compress.static.quantize import Nearest
from edge_lab.core.errors import BundleError, InputError
from edge_lab.measure import first_divergence
from edge_lab.zoo import Model, from_module


class Residual(nn.Module):
    """A block as ResNet has it: one ReLU module called twice, an addition in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.relu(y)


class Net(nn.Module):
    """Blocks, a functional activation, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.gate, self.classifier = nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.stem(x))).mean((2, 3))
        return self.classifier(x * torch.sigmoid(self.gate(x)))


def net() -> Model:
    torch.manual_seed(0)
    module = Net().train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(16, 3, 32, 32))
    return from_module(module.eval(), nets.SHAPE, name="residual", task="tensor")


X = nets.noise()[0]
LAYERS = ["stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.0", "blocks.1.conv1", "blocks.1.conv2", "blocks.1"]
LAYERS += ["gate", "classifier"]
SIMPLE = StaticInt8(correct_bias=False, rounding=Nearest())


def made(goal: str, artifacts: Path) -> Bundle:
    return to(net(), replace(target(goal), quantize=SIMPLE), calibration=nets.noise(), out=artifacts)


@pytest.mark.parametrize(
    ("goal", "least"),
    [
        ("linux-onnx-fp32", 90),
        ("linux-pt2-fp32", 90),
        ("linux-onnx-fp16", 35),
        ("linux-pt2-fp16", 35),
        ("linux-onnx-int8-weights", 30),
        ("linux-onnx-int8", 18),
    ],
)
def test_sound_programs_have_no_diverging_layer(goal: str, least: float, artifacts: Path) -> None:
    report = first_divergence(net(), made(goal, artifacts), X, threshold_db=least)
    assert report.first is None, report.table()
    names = [layer.name for layer in report.layers]
    assert [name for name in LAYERS if name not in names] == []
    assert [layer.order for layer in report.layers] == list(range(len(names)))
    assert report.unmatched == ()


def copied(bundle: Bundle, path: Path) -> Bundle:
    shutil.copytree(bundle.path, path)
    return Bundle(**{**vars(bundle), "path": path})


def plant_onnx(bundle: Bundle, layer: str) -> None:
    """Make one weight of a layer wrong, as a bad byte on the way would, in floats or integers."""
    model = onnx.load(bundle.program_path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith(f"{layer}.weight") and tensor.dims and np.prod(tensor.dims) > 16:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.reshape(len(values), -1)[:3] = values.max() if values.dtype.kind == "i" else 3
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            break
    else:
        raise AssertionError(f"no weight of {layer}")
    onnx.save(model, bundle.program_path)


def plant_pt2(bundle: Bundle, layer: str) -> None:
    with zipfile.ZipFile(bundle.program_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    listed = next(json.loads(v) for name, v in members.items() if name.endswith("model_weights_config.json"))
    found = next(v["path_name"] for k, v in listed["config"].items() if k.endswith(f"{layer}.weight"))
    name = next(name for name in members if name.endswith(f"/weights/{found}"))
    values = np.frombuffer(members[name], np.float16 if "fp16" in bundle.path.name else np.float32).copy()
    values[: len(values) // 2] = 3
    members[name] = values.tobytes()
    with zipfile.ZipFile(bundle.program_path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("layer", ["stem", "blocks.0.conv2", "blocks.1.conv1", "gate", "classifier"])
@pytest.mark.parametrize(
    ("goal", "plant", "threshold"),
    [
        ("linux-onnx-fp32", plant_onnx, 40),
        ("linux-onnx-fp16", plant_onnx, 40),
        ("linux-onnx-int8", plant_onnx, 15),
        ("linux-pt2-fp32", plant_pt2, 40),
    ],
)
def test_a_planted_fault_is_named(
    goal: str, plant: Callable[[Bundle, str], None], threshold: float, layer: str, artifacts: Path, tmp_path: Path
) -> None:
    bundle = copied(made(goal, artifacts), tmp_path / "kind")
    plant(bundle, layer)
    report = first_divergence(net(), bundle, X, threshold_db=threshold)
    assert report.first is not None, report.table()
    assert report.first.name == layer, report.table()
    assert f"at {layer}, layer {report.first.order + 1} of {len(report.layers)}" in str(report)
    marked = [line for line in report.table().splitlines() if line.startswith("->")]
    assert len(marked) == 1
    assert layer in marked[0]


@pytest.mark.parametrize("stripped", ["notes", "notes and names"])
def test_files_of_other_tools_are_matched_by_weights_or_shapes(stripped: str, artifacts: Path, tmp_path: Path) -> None:
    bundle = copied(made("linux-onnx-fp32", artifacts), tmp_path / "kind")
    plant_onnx(bundle, "blocks.1.conv1")
    model = onnx.load(bundle.program_path)
    for node in model.graph.node:
        del node.metadata_props[:]
    if stripped == "notes and names":
        new = {tensor.name: f"t{i}" for i, tensor in enumerate(model.graph.initializer)}
        for tensor in model.graph.initializer:
            tensor.name = new[tensor.name]
        for node in model.graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
        del model.graph.value_info[:]
    onnx.save(model, bundle.program_path)
    report = first_divergence(net(), bundle, X)
    assert report.first is not None
    assert report.first.name == "blocks.1.conv1", report.table()


def test_a_lost_activation_is_found(artifacts: Path, tmp_path: Path) -> None:
    """The converter forgets a ReLU: the layers before are equal, the layer it belongs to or the next one is not."""
    bundle = copied(made("linux-onnx-fp32", artifacts), tmp_path / "kind")
    model = onnx.load(bundle.program_path)
    relus = [node for node in model.graph.node if node.op_type == "Relu"]
    relus[2].op_type = "Identity"
    onnx.save(model, bundle.program_path)
    report = first_divergence(net(), bundle, X)
    assert report.first is not None
    assert report.first.name in ("blocks.1.conv1", "blocks.1.conv2")


def test_a_layer_that_gives_no_number_diverges(artifacts: Path, tmp_path: Path) -> None:
    bundle = copied(made("linux-onnx-fp32", artifacts), tmp_path / "kind")
    model = onnx.load(bundle.program_path)
    weight = next(t for t in model.graph.initializer if t.name == "gate.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name))
    onnx.save(model, bundle.program_path)
    report = first_divergence(net(), bundle, X)
    assert report.first is not None
    assert (report.first.name, report.first.sqnr_db) == ("gate", -inf)
    assert "no number" in report.table()


def test_the_report_is_drawn(artifacts: Path, tmp_path: Path) -> None:
    for threshold in (0, 200):
        report = first_divergence(net(), made("linux-onnx-fp32", artifacts), X, threshold_db=threshold)
        assert (report.first is None) == (threshold == 0)
        report.plot().savefig(tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 5000
        assert len(report.table(3).splitlines()) == 5


def test_the_model_is_left_as_it_was(artifacts: Path) -> None:
    model = net()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    first_divergence(model, made("linux-pt2-fp32", artifacts), X)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


@pytest.mark.parametrize("goal", ["android-ort-fp32", "linux-torchscript-fp32"])
def test_formats_that_hide_their_inside_are_refused(goal: str, artifacts: Path) -> None:
    with pytest.raises(InputError, match=r"nobody can look inside[\s\S]*measure\.parity"):
        first_divergence(net(), made(goal, artifacts), X)


def test_what_can_not_be_compared(artifacts: Path, tmp_path: Path) -> None:
    bundle = made("linux-onnx-fp32", artifacts)
    with pytest.raises(InputError, match=r"made from another model"):
        first_divergence(nets.tensor_model(nn.Linear(8, 8), (1, 8)), bundle, nets.noise((1, 8))[0])
    with pytest.raises(InputError):
        first_divergence(net(), bundle, X[:, :, :8])
    broken = copied(bundle, tmp_path / "kind")
    broken.program_path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="not a whole"):
        first_divergence(net(), broken, X)
