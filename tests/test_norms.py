"""Batch norms, shared weights, memory formats, PReLU and resizing: the programs compute what PyTorch does.

Public reports: pytorch/ao#2795, pytorch/executorch#20601, #16464, #17559 and #21541, google-ai-edge/litert-torch#162,
Tencent/ncnn#6836.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import edge_lab
from edge_lab import from_module
from edge_lab.compress import equalize
from edge_lab.compress.graphs.fold import separate
from edge_lab.compress.static.capture import captured
from edge_lab.core.errors import ExportError
from edge_lab.core.numbers import sqnr_between

pytestmark = pytest.mark.filterwarnings("ignore")

Norm = nn.BatchNorm2d
MAP, ROW, LINE, VOLUME = (1, 3, 24, 24), (1, 12), (1, 6, 30), (1, 2, 6, 8, 8)


class Net(nn.Module):
    """Layers by name, and what forward does with them."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def _conv(inputs: int = 3, outputs: int = 8, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def _twice(bias: bool) -> nn.Module:
    """One convolution and its norm, used twice."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        return m.end(m.n(m.c(m.n(m.c(x)).relu())).relu().mean((2, 3)))  # type: ignore[no-any-return]

    return Net(forward, stem=_conv(), c=_conv(8, bias=bias), n=Norm(8), end=nn.Linear(8, 5))


def _levels(bias: bool) -> nn.Module:
    """One convolution with a norm for each level of a pyramid."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a = m.stem(x).relu()
        b = functional.max_pool2d(a, 2, 2)
        heads = [n(m.c(v)).relu().mean((2, 3)) for n, v in ((m.n, a), (m.m, b))]
        return m.end(torch.cat(heads, 1))  # type: ignore[no-any-return]

    return Net(forward, stem=_conv(), c=_conv(8, bias=bias), n=Norm(8), m=Norm(8), end=nn.Linear(16, 5))


def _shortcut() -> nn.Module:
    """Convolutions that feed a norm and the sum around it (pre-activation)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.b(m.n2(m.a(m.n1(x).relu())).relu())
        return m.end(m.n3(x).relu().mean((2, 3)))  # type: ignore[no-any-return]

    layers = {"a": _conv(8, bias=False), "b": _conv(8), "n1": Norm(8), "n2": Norm(8), "n3": Norm(8)}
    return Net(forward, stem=_conv(bias=False), end=nn.Linear(8, 5), **layers)


def _without_weights(second: int) -> nn.Module:
    """Two norms with statistics only."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.end(m.n2(m.b(m.n1(m.a(x)).relu())).relu().mean((2, 3)))  # type: ignore[no-any-return]

    norms = {"n1": Norm(8, affine=False), "n2": Norm(second, affine=False)}
    return Net(forward, a=_conv(), b=_conv(8, second), end=nn.Linear(second, 5), **norms)


def _rows() -> nn.Module:
    """One linear layer, two norms; and a norm that comes first."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.end(torch.cat([m.n(m.a(x)), m.m(m.a(-x))], 1))  # type: ignore[no-any-return]

    norms = {name: nn.BatchNorm1d(12) for name in ("first", "n", "m")}
    return Net(forward, a=nn.Linear(12, 12), end=nn.Linear(24, 5), **norms)


def _names() -> nn.Module:
    """Two blocks whose names are one after '.' became '_'."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.end(torch.cat([m.a.b(x), m.a_b(x)], 1))  # type: ignore[no-any-return]

    blocks = [nn.Sequential(_conv(), Norm(8), nn.ReLU(), _conv(8), Norm(8)) for _ in range(2)]
    return Net(forward, a=nn.ModuleDict({"b": blocks[0]}), a_b=blocks[1], end=nn.Conv2d(16, 4, 1))


def _one_norm_everywhere() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return y, m.end(torch.cat([m.n(y), m.n(m.b(x)).relu(), m.n(m.b(x).relu())], 1))

    return Net(forward, a=_conv(), b=_conv(bias=False), n=Norm(8), end=nn.Conv2d(24, 4, 1))


def _line(*, transposed: bool = False) -> nn.Module:
    last = nn.ConvTranspose1d(8, 6, 2, 2) if transposed else nn.Conv1d(8, 6, 1)
    return nn.Sequential(nn.Conv1d(6, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8), last, nn.BatchNorm1d(6))


def _same_line_twice() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.end(m.m(m.a(m.n(m.a(x)).relu())))  # type: ignore[no-any-return]

    norms = {name: nn.BatchNorm1d(6) for name in ("n", "m")}
    return Net(forward, a=nn.Conv1d(6, 6, 3, padding=1), end=nn.Conv1d(6, 4, 1), **norms)


def _upwards() -> nn.Module:
    up = [
        nn.ConvTranspose2d(8, 12, 2, 2, groups=4),
        Norm(12),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 3, 2, 1, bias=False),
    ]
    return nn.Sequential(_conv(), nn.ReLU6(), Norm(8), Norm(8), *up, Norm(6))


def _volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.BatchNorm3d(6), nn.Conv3d(6, 4, 1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "twice": (lambda: _twice(False), MAP),
    "twice, bias": (lambda: _twice(True), MAP),
    "levels": (lambda: _levels(False), MAP),
    "levels, bias": (lambda: _levels(True), MAP),
    "shortcut": (_shortcut, MAP),
    "statistics only": (lambda: _without_weights(8), MAP),
    "statistics only, two widths": (lambda: _without_weights(12), MAP),
    "names": (_names, MAP),
    "one norm": (_one_norm_everywhere, MAP),
    "upwards": (_upwards, MAP),
    "rows": (_rows, ROW),
    "line": (_line, LINE),
    "line, transposed": (lambda: _line(transposed=True), LINE),
    "line, twice": (_same_line_twice, LINE),
    "volume": (_volume, VOLUME),
}


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """With statistics and weights that matter."""
    torch.manual_seed(0)
    net = make().eval()
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if layer.running_mean is None or layer.running_var is None:
                continue
            layer.running_mean.normal_(0, 0.5)
            layer.running_var.uniform_(0.2, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0.3, 0.5)
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.3, 0.7)
    return net


def _sqnr(make: Callable[[], nn.Module], shape: tuple[int, ...], target: str, folder: Path) -> float:
    """Of a bundle's program against eager, dB."""
    data = np.random.default_rng(1).standard_normal((12, *shape)).astype(np.float32)
    model = from_module(_seeded(make), shape, name="net")
    bundle = edge_lab.to(model, target, calibration=list(data[:7]), golden=list(data[7:]), out=folder)
    decibels = bundle.metrics["sqnr_db"]
    assert decibels is not None
    return decibels


@pytest.mark.parametrize("name", NETS)
def test_a_settled_graph_has_no_norm_left_and_says_the_same(name: str) -> None:
    make, shape = NETS[name]
    net, x = _seeded(make), np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    graph = captured(net, x)
    separate(graph)
    assert not [node for node in graph.graph.nodes if "norm" in str(node.target)]
    with torch.no_grad():
        wanted, found = (torch.utils._pytree.tree_leaves(f(torch.from_numpy(x))) for f in (net, graph))
    for a, b in zip(wanted, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levels", "statistics only, two widths", "names", "rows", "line, twice"])
def test_xnnpack_in_float(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    assert _sqnr(make, shape, "linux-xnnpack-fp32", tmp_path) > 100


@pytest.mark.slow
@pytest.mark.parametrize("target", ["linux-xnnpack-int8", "linux-onnx-int8", "ios-coreml-int8"])
@pytest.mark.parametrize("name", ["twice", "levels, bias", "shortcut"])
def test_int8(name: str, target: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    assert _sqnr(make, shape, target, tmp_path) > 28


def _channels_last() -> nn.Module:
    """A view that fits channels_last strides only; a map of one channel, which fits both."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.b(m.a(x.to(memory_format=torch.channels_last)).relu()).contiguous(memory_format=torch.channels_last)
        return m.end(y.permute(0, 2, 3, 1).view(1, -1, 4))  # type: ignore[no-any-return]

    net = Net(forward, a=_conv(outputs=1), b=_conv(1, 4), end=nn.Linear(4, 5))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _resized() -> nn.Module:
    """By factors that don't lead to whole sizes: PyTorch then samples at 1 / factor, not at size / new size."""

    def forward(m: Any, x: Tensor) -> Tensor:
        up = functional.interpolate(m.a(x), scale_factor=1.3, mode="bilinear", align_corners=False)
        return m.end(functional.interpolate(up, scale_factor=0.4, mode="bilinear"))  # type: ignore[no-any-return]

    return Net(forward, a=_conv(), end=nn.Conv2d(8, 4, 1))


def _slopes() -> nn.Module:
    """PReLU on a map, on rows, and once more on the map."""

    def forward(m: Any, x: Tensor) -> Tensor:
        rows = m.p(m.q(m.b(m.p(m.a(x)))).mean((2, 3)))
        return m.one(m.end(rows))  # type: ignore[no-any-return]

    slopes = {"p": nn.PReLU(8), "q": nn.PReLU(8), "one": nn.PReLU()}
    return Net(forward, a=_conv(), b=_conv(8), end=nn.Linear(8, 5), **slopes)


@pytest.mark.slow
@pytest.mark.parametrize("make", [_channels_last, _resized, _slopes])
def test_xnnpack_float_and_int8(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    assert _sqnr(make, (1, 3, 21, 23), "linux-xnnpack-fp32", tmp_path) > 100
    assert _sqnr(make, (1, 3, 21, 23), "linux-xnnpack-int8", tmp_path) > 25


@pytest.mark.slow
def test_channels_last_goes_to_the_portable_kernels(tmp_path: Path) -> None:
    assert _sqnr(_channels_last, (1, 3, 21, 23), "linux-portable-fp32", tmp_path) > 100


@pytest.mark.slow
def test_core_ml_says_how_to_resize(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pass size="):
        _sqnr(_resized, MAP, "ios-coreml-fp32", tmp_path)


@pytest.mark.parametrize("target", ["linux-xnnpack-fp32", "linux-portable-fp32"])
def test_volumes_are_refused_by_name(target: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Conv3d"):
        _sqnr(_volume, VOLUME, target, tmp_path)


@pytest.mark.slow
def test_a_norm_that_measures_its_input_is_not_folded(tmp_path: Path) -> None:
    net = nn.Sequential(_conv(), Norm(8, track_running_stats=False), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert _sqnr(lambda: net, MAP, "linux-xnnpack-int8", tmp_path) > 25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["twice", "levels", "shortcut"])
def test_post_training_for_any_batch_size(name: str) -> None:
    from edge_lab.compress.qat.graph import calibrated
    from edge_lab.compress.qat.training import QAT

    make, shape = NETS[name]
    net, x = _seeded(make), torch.randn((8, *shape[1:]), generator=torch.Generator().manual_seed(0))
    free = ({0: torch.export.Dim("batch", min=1)},)
    graph: Any = torch.export.export(net, (x[:2],), dynamic_shapes=free, strict=False).module(check_guards=False)
    with torch.no_grad():
        wanted, found = net(x), calibrated(graph, QAT(), [x])(x)
    assert float((wanted - found).square().mean() / wanted.square().mean()) < 10**-2.5


@pytest.mark.slow
def test_an_int8_program_holds_no_float_weights(tmp_path: Path) -> None:
    net = nn.Sequential(_conv(outputs=64), Norm(64), nn.ReLU(), _conv(64, 64), Norm(64))
    model = from_module(_seeded(lambda: net), MAP, name="net")
    data = list(np.random.default_rng(1).standard_normal((6, *MAP)).astype(np.float32))
    weights = sum(p.numel() for p in net.parameters())
    assert edge_lab.to(model, "linux-xnnpack-int8", calibration=data, out=tmp_path).program_bytes < 2 * weights


def test_packed_weights_stay_one() -> None:
    """Several readers take a packed weight apart; copies of it would be stored beside it."""
    from edge_lab.compress.weights.dynamic import DynamicInt8, quantize_dynamic

    model = from_module(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)), (1, 64), task="tensor")
    module = quantize_dynamic(model, DynamicInt8("executorch")).module
    graph: Any = torch.export.export(module, (torch.zeros(1, 64),), strict=False).module(check_guards=False)
    assert not separate(graph)


def test_equalising_leaves_layers_that_are_called_twice() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.second(m.first(x).relu())
        y = m.n(m.c(x)).relu() + m.c(x)
        return m.m(m.a(y)) + m.m(m.b(y))  # type: ignore[no-any-return]

    layers = {name: _conv(8) for name in ("second", "c", "a", "b")}
    net = _seeded(lambda: Net(forward, first=_conv(), n=Norm(8), m=Norm(8), **layers))
    model = from_module(net, MAP, name="net")
    x = torch.randn(MAP, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(equalize(model).module(x), net(x), rtol=1e-3, atol=1e-3)


def test_a_rewritten_graph_that_says_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_lab.compress.graphs import fold

    net = _seeded(lambda: nn.Sequential(_conv(), Norm(8)))
    monkeypatch.setattr(fold, "_along_outputs", lambda layer, weight, factor: 1.0)
    with pytest.raises(ExportError, match="can't be prepared"):
        captured(net, np.ones(MAP, np.float32))


def test_weights_that_two_operators_share_are_separate_in_int8_onnx_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's kernels for CPUs without VNNI can't be made of a shared weight; other tools' files load all the
    same, without them.
    """
    from edge_lab.compress.static import quantize
    from edge_lab.formats.onnx import ort

    model = from_module(_seeded(NETS["twice"][0]), MAP, name="net", task="tensor")
    inputs = [np.random.default_rng(i).standard_normal(MAP).astype(np.float32) for i in range(4)]
    given: dict[str, Any] = {"calibration": inputs, "golden": inputs}
    apart = edge_lab.to(model, "linux-onnx-int8", out=tmp_path / "apart", **given).path / "model.onnx"
    monkeypatch.setattr(quantize, "separate", lambda graph: False)
    shared = edge_lab.to(model, "linux-onnx-int8", out=tmp_path / "shared", **given).path / "model.onnx"
    with pytest.raises(Exception, match="replace the existing tensor"):
        _exact(shared)
    monkeypatch.setattr(ort, "sums_overflow", lambda: True)  # as on a CPU with AVX2 and without VNNI
    answers = [
        session.run(None, {session.get_inputs()[0].name: inputs[0]})[0]
        for session in (_exact(apart), ort.open_session(shared))
    ]
    assert sqnr_between(*answers) > 20


def _exact(path: Path) -> Any:
    """A session with the kernels for CPUs without VNNI, and no way around them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
