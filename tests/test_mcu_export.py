"""C sources for microcontrollers: the exporter, its calibration, the host build, and what fits which board."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, ExportError, InputError, MissingTool
from edge_lab.devices.firmware.image import machine, machines
from edge_lab.formats.c import boards
from edge_lab.formats.c.calibrate import fast_calibration
from edge_lab.formats.c.files import constants
from edge_lab.formats.c.run import open_library
from edge_lab.quality.accuracy import evaluate, prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """digitnet_tiny for a Cortex-M4."""
    return _export("digitnet_tiny", "mcu-cortex-m4-int8", tmp_path_factory.mktemp("mcu"))


def _export(name: str, target: str, out: Path) -> Bundle:
    calibration, test = data.load("handwriting", "train", limit=64), data.load("handwriting", "test")
    return edge_lab.to(zoo.create(name), target, calibration=calibration, golden=test, out=out)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 6, (1, 3), padding=(0, 1), dilation=1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()


def test_fast_calibration_gives_bakenns_own_ranges() -> None:
    import bakenn
    from bakenn.frontends.torch_export import capture_torch_export
    from bakenn.quantization import ptq_graph

    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.standard_normal((1, 2, 7, 6)).astype(np.float32)) for _ in range(3)]
    graph = capture_torch_export(_net(), inputs[0], name="net")
    slow = bakenn.quantize_float_graph_with_report(graph, inputs, name="net").graph
    own = ptq_graph._conv2d
    with fast_calibration():
        assert ptq_graph._conv2d is not own
        fast = bakenn.quantize_float_graph_with_report(graph, inputs, name="net").graph
    assert ptq_graph._conv2d is own
    assert list(slow.values) == list(fast.values)
    scales = 0
    for name, tensor in slow.values.items():
        a, b = tensor.qparams, fast.values[name].qparams
        if hasattr(a, "zero_point"):
            assert b.scale == pytest.approx(a.scale, rel=1e-5), name
            assert b.zero_point == a.zero_point, name
            scales += 1
    assert scales >= 5


def test_another_bakenn_is_an_error_not_a_slow_export(monkeypatch: pytest.MonkeyPatch) -> None:
    from bakenn.quantization import ptq_graph

    monkeypatch.delattr(ptq_graph, "_conv2d")
    with pytest.raises(MissingTool, match=r"bakenn==1\.0\.0"), fast_calibration():
        pass


def test_the_c_on_this_machine_is_the_integer_reference(tmp_path: Path) -> None:
    import bakenn

    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((1, 2, 9, 8)).astype(np.float32) for _ in range(8)]
    model = zoo.from_module(_net(), (1, 2, 9, 8), name="net")
    bundle = edge_lab.to(model, "mcu-cortex-m4-int8", calibration=inputs, golden=inputs, out=tmp_path)
    library = open_library(bundle)
    with fast_calibration():
        tensors = [torch.from_numpy(x) for x in inputs]
        plan = bakenn.compile_torch_ptq(_net(), tensors[0], tensors, tmp_path / "own", name="net").plan
    for x in inputs[:4]:
        nhwc = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        wanted = bakenn.quantize_input(plan, nhwc)
        np.testing.assert_array_equal(library.quantized(x), wanted)
        np.testing.assert_array_equal(library.run(wanted), np.asarray(bakenn.run_reference(plan, wanted)).reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("digitnet", 98.5), ("digitnet_tiny", 97.0)])
def test_digits_survive_int8(name: str, least: float, tmp_path: Path) -> None:
    bundle = _export(name, "mcu-cortex-m4-int8", tmp_path)
    model = zoo.create(name)
    inputs = prepare(data.load("handwriting", "test"), model.spec)
    inside, floats = evaluate(edge_lab.load(bundle), inputs).top1, evaluate(edge_lab.eager(model), inputs).top1
    assert inside is not None
    assert floats is not None
    assert inside >= least
    assert inside >= floats - 0.5


@pytest.mark.parametrize("target", ["mcu-cortex-m3-int8", "mcu-cortex-m0-int8", "mcu-esp32s3-int8"])
def test_every_core_gets_the_same_model(target: str, made: Bundle, tmp_path: Path) -> None:
    other = _export("digitnet_tiny", target, tmp_path)
    here = {p.name: p.read_bytes() for p in (made.program_path / "host").glob("*.[ch]")}
    assert {p.name: p.read_bytes() for p in (other.program_path / "host").glob("*.[ch]")} == here
    listed = {p.name for p in (other.program_path / "net" / "third_party").iterdir()} if "esp" in target else set()
    assert listed == ({"esp_nn"} if "esp" in target else set())
    cpu = {"cortex-m3": "cortex-m3", "cortex-m0": "cortex-m0plus", "esp32s3": "esp32s3"}[other.runtime.backend]
    assert f"EL_CPU := {cpu}\n" in (other.program_path / "model.mk").read_text()


def test_the_header_vouches_for_the_weights(made: Bundle) -> None:
    header = (made.program_path / "edge_lab_model.h").read_text()
    arrays = constants(next((made.program_path / "net").glob("*_weights.c")).read_text())
    crc = 0
    for values in arrays.values():
        crc = zlib.crc32(values.tobytes(), crc)
    assert f"#define EL_WEIGHTS_CRC32 0x{crc:08x}u" in header
    assert all(f"X({name})" in header for name in arrays)
    assert sum(v.nbytes for v in arrays.values()) > 3000


def test_the_same_export_twice_gives_the_same_bytes(made: Bundle, tmp_path: Path) -> None:
    again = _export("digitnet_tiny", "mcu-cortex-m4-int8", tmp_path)
    assert again.files[again.program] == made.files[made.program]


def test_changed_sources_are_refused(made: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / made.path.name
    shutil.copytree(made.path, copy)
    weights = next((copy / "c/net").glob("*_weights.c"))
    weights.write_text(weights.read_text().replace("12", "13", 1))
    with pytest.raises(BundleError, match="damaged"):
        edge_lab.load(copy)


def test_no_compiler_is_one_sentence(made: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingTool, match="needs a C compiler"):
        edge_lab.load(made)


def test_what_has_no_kernel_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.vector_norm(x, dim=(2, 3))

    x = [np.ones((1, 3, 8, 8), np.float32)]
    with pytest.raises(ExportError, match="microcontroller") as caught:
        edge_lab.to(zoo.from_module(Odd(), (1, 3, 8, 8)), "mcu-cortex-m4-int8", calibration=x, golden=x, out=tmp_path)
    assert "vector_norm" in caught.value.why  # which operator
    assert not list(tmp_path.rglob("bundle.json"))


def test_a_model_that_hears_is_sent_to_its_features(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="speechnet_features"):
        edge_lab.to(zoo.create("speechnet", weights="random"), "mcu-cortex-m4-int8", out=tmp_path)


@pytest.mark.parametrize("name", machines())
def test_a_board_has_one_size_wherever_it_is_stated(name: str) -> None:
    linked, known = machine(name), boards.board(name)  # the first is read from mcu/boards and mcu/ld
    assert (known.chip, known.flash, known.ram) == (linked.chip, linked.flash, linked.ram)
    assert [backend.replace("-m0plus", "-m0") for backend in linked.runs] == list(known.backends)
    assert name in boards.boards()


def test_boards(made: Bundle) -> None:
    assert boards.fits(made, "stm32f405").ok
    assert boards.fits(made, "netduinoplus2") == boards.fits(made, "stm32f405")  # the firmware's default
    tight = boards.Board("tight", "Tight", "cortex-m4", 8 * boards.KB, 4 * boards.KB, ("cortex-m4",))
    need = boards.fits(made, tight)
    assert not need.ok
    assert "does not fit: needs" in str(need)
    assert "Tight has 4 KB" in str(need)
    with pytest.raises(InputError, match="mcu-cortex-m3-int8"):
        boards.fits(made, "stm32f103")
    with pytest.raises(InputError, match="Did you mean 'stm32f405'"):
        boards.board("stm32f40")


def test_the_smallest_board_has_room_for_the_smaller_network(made: Bundle, tmp_path: Path) -> None:
    small, large = (_export(name, "mcu-cortex-m3-int8", tmp_path) for name in ("digitnet_tiny", "digitnet"))
    assert str(boards.fits(small, "stm32f103")).startswith("fits STM32F103")
    assert "needs 28 KB of RAM, STM32F103 has 20 KB" in str(boards.fits(large, "stm32f103"))


def test_two_threads_do_not_share_an_answer(made: Bundle) -> None:
    from concurrent.futures import ThreadPoolExecutor

    session = edge_lab.load(made)
    x = prepare(data.load("handwriting", "test", 40), made.spec).x
    wanted = [session(x[i : i + 1]) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: session(x[i : i + 1]), list(range(40)) * 5))
    for i, out in enumerate(found):
        np.testing.assert_array_equal(out, wanted[i % 40])


def test_check_takes_a_board(made: Bundle) -> None:
    from edge_lab.flow.check import check

    found = check(made.path, board="stm32f405")
    assert found.ok
    assert any(line.name == "board" and "fits STM32F405" in line.detail for line in found.lines)
