"""Quantization-aware training: integers in the end, the same after a kill, and honest about what it was given."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import net, same, stripes

from edge_lab import train, zoo
from edge_lab.bundle.folder import Quantization
from edge_lab.bundle.spec import Preprocess
from edge_lab.compress.graphs.quantized import has_quantized_graph, is_quantized
from edge_lab.compress.qat.training import QAT, post_training, qat
from edge_lab.core.errors import DataError, EdgeLabError, ExportError, InputError

FAST = train.FitConfig(epochs=3, batch_size=16, lr=0.02, shift=1)
SHORT = QAT(weight_bits=4, fit=FAST)


@pytest.fixture(scope="module")
def trained() -> zoo.Model:
    """A two-class network that is right on nearly everything."""
    config = train.FitConfig(epochs=5, batch_size=16, lr=0.1, shift=1)
    return train.fit(clamped(), stripes(256, 0), stripes(64, 1), config, progress=False).model


@pytest.fixture(scope="module")
def straight(trained: zoo.Model) -> object:
    """One run without an interruption."""
    return qat(trained, stripes(64, 0), stripes(16, 1), SHORT, progress=False)


class Clamped(torch.nn.Module):
    """Batch norm with an eps of its own, ReLU6, a shortcut, dropout: what mobile networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8, eps=0.5, momentum=0.01)
        self.act = torch.nn.ReLU6()
        self.body = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.drop = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.stem(x)))
        return self.head(self.drop((x + self.body(x)).mean((2, 3))))


def clamped() -> zoo.Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = Clamped()
    module.norm.running_var.fill_(0.04)
    recipe = Preprocess(8, (8, 8), (0.5,) * 3, (0.25,) * 3)
    return zoo.from_module(module, (1, 3, 8, 8), name="clamped", preprocess=recipe, weights="random")


@pytest.fixture(scope="module")
def eight_bits() -> object:
    """The graph of `clamped` with fake quantization. torchao needs seconds to make one: tests work on copies."""
    from edge_lab.compress.qat.graph import prepared
    from edge_lab.compress.qat.training import _captured

    return prepared(_captured(clamped()), QAT(fit=FAST))


def weight_values(module: object) -> list[object]:
    return [b for b in module.buffers() if b.dtype == torch.int8 and b.ndim > 1]  # type: ignore[attr-defined]


def test_the_result_is_a_graph_of_four_bit_weights_that_still_knows_its_classes(
    trained: zoo.Model, straight: object
) -> None:
    model = straight.model  # type: ignore[attr-defined]
    weights = weight_values(model.module)
    assert len(weights) == 3  # two convolutions and the classifier; the batch norm is folded
    assert all(int(w.min()) >= -8 and int(w.max()) <= 7 for w in weights)
    assert any(int(w.min()) < -2 for w in weights)
    assert has_quantized_graph(model.module)
    assert not is_quantized(trained.module)
    assert not any("batch_norm" in str(node.target) for node in model.module.graph.nodes)
    assert train.evaluate_module(model, stripes(64, 2)).top1 > 95
    assert (model.spec.name, model.spec.labels, model.origin) == ("clamped-qat4", ("lying", "standing"), None)
    assert len(straight.history) == 3  # type: ignore[attr-defined]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_qat import SHORT, clamped, stripes
from edge_lab import train, zoo
from edge_lab.compress.qat.training import qat
from edge_lab.train import fitting
import torch
model = clamped()
model.module.load_state_dict(torch.load(sys.argv[3], weights_only=True))
evaluate, calls = fitting.outputs, []

def deadly(*args):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(*args)

fitting.outputs = deadly
qat(model, stripes(64, 0), stripes(16, 1), SHORT, checkpoint=sys.argv[1], progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill_9_and_resume_gives_the_same_integers(trained: zoo.Model, straight: object, tmp_path: Path) -> None:
    """Killed after two of three epochs, when the ranges are frozen: the phase must survive too."""
    checkpoint, start = tmp_path / "qat.pt", tmp_path / "start.pt"
    torch.save(trained.module.state_dict(), start)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(checkpoint), str(Path(__file__).parent), str(start)],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(torch.load(checkpoint, weights_only=True)["history"]) == 2
    sets = stripes(64, 0), stripes(16, 1)
    resumed = qat(trained, *sets, SHORT, checkpoint=checkpoint, progress=False)
    assert [e.loss for e in resumed.history] == [e.loss for e in straight.history]  # type: ignore[attr-defined]
    assert same(resumed.model, straight.model)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="belongs to another run"):
        qat(trained, *sets, replace(SHORT, weight_bits=8), checkpoint=checkpoint, progress=False)


def test_ranges_and_batch_norm_freeze_at_their_step_and_never_move_outside_training(eight_bits: object) -> None:
    from edge_lab.compress.qat.graph import Trainee

    config = QAT(freeze_observers_at=0.5, freeze_batch_norm_at=0.25, fit=FAST)
    torch.manual_seed(0)
    trainee = Trainee(copy.deepcopy(eight_bits), config, 8, torch.randn(8, 3, 8, 8))

    def state() -> tuple[dict[str, object], dict[str, object]]:
        buffers = {name: b.clone() for name, b in trainee.named_buffers()}
        ranges = {n: b for n, b in buffers.items() if n.endswith(("min_val", "max_val"))}
        return ranges, {n: b for n, b in buffers.items() if n.endswith(("running_mean", "running_var"))}

    def equal(a: dict[str, object], b: dict[str, object]) -> bool:
        return all(torch.equal(a[k], b[k]) for k in a)

    assert len(state()[0]) >= 8
    assert len(state()[1]) == 2
    begin = state()
    trainee.eval()(torch.randn(4, 3, 8, 8) * 9)
    assert equal(begin[0], state()[0])
    assert equal(begin[1], state()[1])
    moved = []
    trainee.train()
    for _ in range(6):
        before = state()
        trainee(torch.randn(4, 3, 8, 8) * 9)
        after = state()
        moved.append((not equal(before[0], after[0]), not equal(before[1], after[1])))
    assert moved == [(True, True)] * 2 + [(True, False)] * 2 + [(False, False)] * 2


def test_eps_and_momentum_of_batch_norm_survive_and_relu6_is_fused(eight_bits: object) -> None:
    """torchao's own train/eval switch would replace eps 0.5 by 1e-5, a factor of 3.7 in this network."""
    from edge_lab.compress.qat.graph import Trainee, convert_trainee

    model, config = clamped(), QAT(fit=FAST)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    trainee = Trainee(copy.deepcopy(eight_bits), config, 10, x)
    with torch.no_grad():
        expected = model.module(x)
        rounded = trainee(x)
    assert torch.allclose(rounded, expected, atol=0.05 * float(expected.std()) + 0.02)
    trainee.train()(x)
    model.module.train()(x)
    name = next(n for n, _ in trainee.named_buffers() if n.endswith("norm.running_mean"))
    moved = trainee.get_buffer(name)
    assert torch.allclose(moved, model.module.norm.running_mean, atol=2e-3)
    with torch.no_grad():
        before = trainee.eval()(x)
        module = convert_trainee(trainee)
        after = module(x)
    assert torch.allclose(before, after, atol=1e-4)
    targets = [str(n.target) for n in module.graph.nodes]  # type: ignore[union-attr]
    first = next(i for i, t in enumerate(targets) if "conv2d" in t)
    assert "hardtanh" in targets[first + 1] or "relu6" in targets[first + 1]  # nothing rounds in between


class EveryConv(torch.nn.Module):
    """Batch norm after a convolution with a bias, a transposed and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm1 = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8, eps=0.3)
        self.up, self.norm2 = torch.nn.ConvTranspose2d(8, 6, 2, 2), torch.nn.BatchNorm2d(6)
        self.deep, self.norm3 = torch.nn.Conv2d(6, 6, 3, groups=6, bias=False), torch.nn.BatchNorm2d(6)
        self.head = torch.nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm2(self.up(torch.nn.functional.relu6(self.norm1(self.conv(x)))))
        return self.head(torch.nn.functional.hardswish(self.norm3(self.deep(x))).mean((2, 3)))


def every_conv() -> zoo.Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return zoo.from_module(EveryConv(), (1, 3, 8, 8), preprocess=Preprocess(8, (8, 8), (0.5,) * 3, (0.25,) * 3))


def test_what_was_trained_is_what_is_converted_at_2_bits_too() -> None:
    """torchao's fused fake quantization trains with another weight scale than convert_pt2e writes."""
    from edge_lab.compress.qat.graph import Trainee, convert_trainee, prepared
    from edge_lab.compress.qat.training import _captured

    config = QAT(weight_bits=2, fit=FAST)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    trainee = Trainee(prepared(_captured(every_conv()), config), config, 10, x)
    trainee.train()(x)
    trainee.train()(2 * x)
    with torch.no_grad():
        before = trainee.eval()(x)
        module = convert_trainee(trainee)
        after = module(x)
    assert torch.allclose(before, after, atol=1e-3 * float(before.std()))
    assert not any("batch_norm" in str(node.target) for node in module.graph.nodes)  # type: ignore[union-attr]


def test_channels_that_are_rounded_to_zero_do_not_explode() -> None:
    """They have no variance, and batch norm multiplies their gradients by 1 / sqrt(eps)."""
    from edge_lab.compress.qat.graph import Trainee, prepared
    from edge_lab.compress.qat.training import _captured

    model, config = clamped(), QAT(weight_bits=2, per_channel=False, fit=FAST)
    model.module.norm.eps = 1e-5
    model.module.stem.weight.data[:4] *= 0.01
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    trainee = Trainee(prepared(_captured(model), config), config, 10, x)
    longest = []
    for calmed in (True, False):  # True: its hooks are there already, it believes
        trainee.calmed = calmed
        trainee.train()(x).square().sum().backward()
        rows = [p.grad.reshape(len(p), -1).norm(dim=1) for p in trainee.parameters() if p.grad is not None]
        longest.append(float(torch.cat(rows).max()))
        assert any(n.endswith("stem.weight") for n, p in trainee.named_parameters() if p.grad is not None)
        trainee.zero_grad()
    assert longest[0] > 10
    assert longest[1] == pytest.approx(1.0, rel=1e-3)
    trainee.get_parameter("inner.stem.weight").data[0] = float("nan")
    with pytest.raises(EdgeLabError, match="training broke: a weight is NaN"):
        trainee(x)


def test_what_is_quantized_already_is_refused(straight: object) -> None:
    sets = stripes(32, 0), stripes(16, 1)
    model = straight.model  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="already quantized"):
        qat(model, *sets, SHORT, progress=False)
    with pytest.raises(InputError, match="already quantized"):
        post_training(model, sets[0])
    legacy = torch.nn.Sequential(torch.ao.nn.quantized.Linear(4, 4))
    assert is_quantized(legacy)
    assert not has_quantized_graph(legacy)


def test_nan_nothing_to_quantize_and_fixed_batches_are_clear_errors() -> None:
    sets = stripes(32, 0), stripes(16, 1)
    broken = net()
    next(broken.module.parameters()).data[0] = float("nan")
    with pytest.raises(InputError, match=r"NaN or infinity in 0\.weight"):
        qat(broken, *sets, SHORT, progress=False)

    class Fixed(torch.nn.Module):
        def forward(self, x: object) -> object:
            return x.reshape(1, 3, 8, 8)[:, :2, 0, 0]  # type: ignore[attr-defined]

    class Slice(torch.nn.Module):
        def forward(self, x: object) -> object:
            return x[:, :2, 0, 0]  # type: ignore[index]

    recipe = Preprocess(8, (8, 8), (0.5,) * 3, (0.25,) * 3)
    free = zoo.from_module(Slice(), (1, 3, 8, 8), preprocess=recipe)
    with pytest.raises(ExportError, match="nothing in this model was quantized"):
        post_training(free, sets[0])
    with pytest.raises(ExportError, match="batches of any size"):
        post_training(zoo.from_module(Fixed(), (1, 3, 8, 8), preprocess=recipe), sets[0])
    with pytest.raises(InputError, match="2 to 8 bits"):
        QAT(weight_bits=1)
    with pytest.raises(InputError, match="above 0"):
        QAT(freeze_observers_at=0.0)
    with pytest.raises(InputError, match="time budget"):
        QAT(fit=replace(FAST, max_seconds=3.0))


def test_post_training_at_8_bits_keeps_the_answers_and_2_bits_take_four_values(trained: zoo.Model) -> None:
    test = stripes(64, 2)
    eight = post_training(trained, stripes(64, 0))
    assert all(p.requires_grad for p in trained.module.parameters())  # it can still be trained
    agree = train.scores(eight, test).argmax(1) == train.scores(trained, test).argmax(1)
    assert agree.mean() > 0.95
    two = post_training(trained, stripes(64, 0), QAT(weight_bits=2, per_channel=False))
    assert two.spec.name == "clamped-ptq2-per-tensor"
    assert all(set(w.unique().tolist()) <= {-2, -1, 0, 1} for w in weight_values(two.module))


def test_a_trained_graph_becomes_a_bundle_without_calibration(straight: object, tmp_path: Path) -> None:
    import edge_lab

    model = straight.model  # type: ignore[attr-defined]
    golden = [np.random.default_rng(i).normal(size=(1, 3, 8, 8)).astype(np.float32) for i in range(5)]
    bundle = edge_lab.to(model, "linux-xnnpack-int8", golden=golden, out=tmp_path)
    record = replace(bundle.quantization, quantized=None, layers=None)
    assert record == Quantization("int8-static", calibration=None, samples=0, method="qat")
    assert bundle.runtime.operators == ("aten_mean_dim",)  # all that XNNPACK left
    expected = model.module(torch.from_numpy(golden[0])).numpy()
    np.testing.assert_allclose(edge_lab.load(bundle)(golden[0]), expected, atol=0.1 * expected.std() + 0.02)
    for target in ("linux-xnnpack-fp32", "linux-onnx-int8", "linux-pt2-fp32"):
        with pytest.raises(InputError, match="already int8-static; it can't become"):
            edge_lab.to(model, target, out=tmp_path)
