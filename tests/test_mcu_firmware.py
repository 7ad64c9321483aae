"""Firmware in QEMU: the same bytes as on this machine, its costs, and what happens when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from machine_tools import tool
from torch import nn

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.cli import main as cli
from edge_lab.core.errors import BundleError, EdgeLabError, InputError, MissingTool
from edge_lab.devices import firmware
from edge_lab.devices.firmware.cases import sounds_of, write_cases, write_tables
from edge_lab.devices.firmware.image import source_folder
from edge_lab.formats.c.files import constants
from edge_lab.formats.c.run import open_library
from edge_lab.measure import Measurements

F405_RAM = 128 * 1024


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    tool("arm-none-eabi-gcc", package="gcc-arm-none-eabi libnewlib-arm-none-eabi")
    tool("qemu-system-arm", package="qemu-system-arm")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("firmware")


def _digits(name: str, core: str, out: Path) -> Bundle:
    some, test = data.load("handwriting", "train", limit=64), data.load("handwriting", "test")
    return edge_lab.to(zoo.create(name), f"mcu-{core}-int8", calibration=some, golden=test, out=out)


@pytest.fixture(scope="module")
def digitnet(out: Path) -> Bundle:
    """The digit reader for a Cortex-M4, with CMSIS-NN."""
    return _digits("digitnet", "cortex-m4", out)


@pytest.fixture(scope="module")
def portable(out: Path) -> Bundle:
    """The small digit reader for a Cortex-M3."""
    return _digits("digitnet_tiny", "cortex-m3", out)


@pytest.fixture(scope="module")
def image(digitnet: Bundle, out: Path) -> firmware.Image:
    """A test firmware with one case, to be damaged."""
    place, folder = firmware.machine("netduinoplus2"), out / "image"
    folder.mkdir()
    write_cases(firmware.golden_cases(digitnet, open_library(digitnet))[:1], folder / "cases.c")
    return firmware.build(digitnet, place, folder, main="test", cases=folder / "cases.c")


def test_a_hundred_digits_byte_for_byte(digitnet: Bundle) -> None:
    from edge_lab.quality.accuracy import prepare

    x = prepare(data.load("handwriting", "test").take(100), digitnet.spec).x
    found = firmware.run(digitnet, inputs=[x[i : i + 1] for i in range(len(x))])
    library = open_library(digitnet)
    assert len(found.answers) == 100
    assert found.ok
    for i, answer in enumerate(found.answers):
        np.testing.assert_array_equal(answer.output, library.run(library.quantized(x[i : i + 1])))
    cost = found.cost
    print(cost, f"{cost.per_mac:.2f} instructions per MAC")
    assert cost.per_mac <= 3
    assert cost.ram_bytes <= F405_RAM // 2
    assert cost.arena_bytes + cost.stack_bytes < cost.ram_bytes
    assert cost.flash_bytes < 64 * 1024


def test_the_integer_reference_agrees(out: Path) -> None:
    import bakenn
    import torch

    from edge_lab.formats.c.calibrate import fast_calibration

    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Flatten(), nn.Linear(72, 5)]
    net = nn.Sequential(*layers).eval()
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1, 1, 12, 12)).astype(np.float32) for _ in range(4)]
    model = zoo.from_module(net, (1, 1, 12, 12), name="small")
    bundle = edge_lab.to(model, "mcu-cortex-m4-int8", calibration=inputs, golden=inputs, out=out)
    with fast_calibration():
        tensors = [torch.from_numpy(x) for x in inputs]
        plan = bakenn.compile_torch_ptq(net, tensors[0], tensors, out / "own", name="small").plan
    found = firmware.run(bundle, inputs=inputs)
    for x, answer in zip(inputs, found.answers, strict=True):
        q = bakenn.quantize_input(plan, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        np.testing.assert_array_equal(answer.output, np.asarray(bakenn.run_reference(plan, q)).reshape(-1))


@pytest.mark.parametrize("board", ["mps2-an386", "mps2-an500", "netduinoplus2"])
def test_boards_with_dsp_instructions(board: str, digitnet: Bundle) -> None:
    found = firmware.run(digitnet, board)
    assert found.ok
    assert len(found.answers) == len(digitnet.golden)
    assert 4.5e6 < found.cost.instructions < 5.5e6  # the boards' clocks differ by 7: the count does not


@pytest.mark.parametrize("board", ["mps2-an385", "stm32f405"])
def test_portable_code(board: str, portable: Bundle) -> None:
    assert firmware.run(portable, board).ok


def test_layers_add_up(digitnet: Bundle) -> None:
    found = firmware.layers(digitnet)
    total = sum(layer.instructions for layer in found)
    assert total == pytest.approx(firmware.run(digitnet).cost.instructions, rel=0.01)
    kernels = [layer.kernel for layer in found]
    assert kernels[0].startswith("conv2d_cmsis_nn")
    assert kernels[-1].startswith("linear")


def test_no_heap_in_any_image(image: firmware.Image, digitnet: Bundle) -> None:
    for path in (image.path, firmware.link(digitnet).path):
        said = subprocess.run(["arm-none-eabi-nm", str(path)], capture_output=True, text=True, check=True).stdout
        names = {line.split()[-1] for line in said.splitlines()}
        assert "el_reset" in names
        assert not {n for n in names if any(bad in n for bad in ("malloc", "_sbrk", "calloc", "printf"))}


def test_code_for_another_core_is_refused_before_compiling(digitnet: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)  # nothing may be started
    with pytest.raises(InputError, match="mcu-cortex-m3-int8"):
        firmware.run(digitnet, "mps2-an385")
    with pytest.raises(InputError, match="Did you mean 'netduinoplus2'"):
        firmware.machine("netduino")


def test_too_many_inputs_are_not_called_too_large_a_model(digitnet: Bundle) -> None:
    with pytest.raises(InputError, match=r"the test inputs of digitnet\S* do not fit: needs \d+ KB of flash") as caught:
        firmware.run(digitnet, "stm32f405", inputs=[np.zeros((1, 1, 28, 28), np.float32)] * 1400)
    assert "--limit" in caught.value.fix


def test_what_does_not_fit_says_what_it_needs(digitnet: Bundle, portable: Bundle, out: Path) -> None:
    small = firmware.link(portable, "stm32f103")
    assert small.flash < 64 * 1024
    assert small.ram < 18 * 1024
    large = _digits("digitnet", "cortex-m3", out)
    with pytest.raises(InputError, match=r"does not fit: needs \d+ KB of RAM, STM32F103 has 20 KB"):
        firmware.link(large, "stm32f103")
    with pytest.raises(InputError, match="QEMU has no STM32F103"):
        firmware.run(portable, "stm32f103")
    x = [np.random.default_rng(0).standard_normal((1, 1, 96, 96)).astype(np.float32) for _ in range(2)]
    wide = zoo.from_module(nn.Sequential(nn.Conv2d(1, 24, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (1, 1, 96, 96))
    bundle = edge_lab.to(wide, "mcu-cortex-m4-int8", calibration=x, golden=x[:1], out=out)
    with pytest.raises(InputError, match=r"does not fit: needs \d{3} KB of RAM, STM32F405 has 128 KB"):
        firmware.run(bundle)


def test_damaged_weights_stop_the_boot(image: firmware.Image, digitnet: Bundle, tmp_path: Path) -> None:
    assert firmware.execute(image)[0] == "digitnet for cortex-m4"
    arrays = constants(next((digitnet.program_path / "net").glob("*_weights.c")).read_text())
    weights = max(arrays.values(), key=lambda values: values.nbytes).tobytes()
    content = bytearray(image.path.read_bytes())
    at = content.find(weights)
    assert at > 0
    content[at + len(weights) // 2] ^= 1  # one bit
    damaged = tmp_path / "damaged.elf"
    damaged.write_bytes(content)
    with pytest.raises(EdgeLabError, match="checksum of the weights") as caught:
        firmware.execute(replace(image, path=damaged))
    assert "status 3" in caught.value.what


def test_a_fault_ends_with_an_error_that_says_where(digitnet: Bundle, image: firmware.Image, tmp_path: Path) -> None:
    cases = image.path.parent / "cases.c"
    crashing = firmware.build(digitnet, image.machine, tmp_path, main="test", cases=cases, fault=True)
    with pytest.raises(EdgeLabError, match=r"FAULT: the core stopped at pc 0x08.*address 0xf0000000") as caught:
        firmware.execute(crashing)
    assert "status 4" in caught.value.what


def test_a_firmware_that_hangs_is_ended(image: firmware.Image) -> None:
    with pytest.raises(EdgeLabError, match="did not end"):
        firmware.execute(image, timeout=0.001)


def test_a_wrong_answer_is_told(digitnet: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cases = firmware.golden_cases(digitnet, open_library(digitnet))
    cases[1].output[3] ^= 1
    monkeypatch.setattr("edge_lab.devices.firmware.emulator.golden_cases", lambda *_: cases)
    found = firmware.run(digitnet)
    assert [answer.ok for answer in found.answers] == [i != 1 for i in range(len(cases))]
    assert cli.main(["firmware", str(digitnet.path)]) == 1


def test_a_damaged_bundle_is_refused(digitnet: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / digitnet.path.name
    shutil.copytree(digitnet.path, copy)
    header = copy / "c/edge_lab_model.h"
    header.write_text(header.read_text().replace("EL_MACS", "EL_SCAM"))
    with pytest.raises(BundleError, match="damaged"):
        firmware.run(copy)
    assert cli.main(["firmware", str(copy)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_missing_program_names_make_arm_tools(
    portable: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="make arm-tools"):
        firmware.build(portable, firmware.machine("mps2-an385"), tmp_path)


def test_other_bundles_are_refused(portable: Bundle) -> None:
    other = replace(portable, runtime=replace(portable.runtime, format="onnx"))
    with pytest.raises(InputError, match="not for a microcontroller"):
        firmware.run(other)
    eager = replace(portable, golden=tuple(replace(c, reference="eager") for c in portable.golden))
    with pytest.raises(BundleError, match="no answers of its own"):
        firmware.run(eager, "mps2-an385")


def test_the_command_and_its_file(portable: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.json"
    command = ["firmware", str(portable.path), "--board", "mps2-an385", "--images", "handwriting", "--limit", "12"]
    assert cli.main([*command, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "outputs of 12 of 12 inputs equal to the byte" in said
    assert "not cycles" in said
    (item,) = Measurements.load(file)
    assert item.latency.scenario == "emulated"
    assert item.firmware is not None
    assert item.firmware.board == "MPS2 AN385"
    assert item.firmware.instructions > item.firmware.macs
    document = json.loads(file.read_text())
    document["measurements"][0]["firmware"]["instructions"] *= 2
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps(document))
    assert cli.main(["compare", str(file), str(file)]) == 0
    assert cli.main(["compare", str(file), str(worse)]) == 1
    assert "median" not in capsys.readouterr().out.split("(")[0]  # an emulator's time is not compared
    assert cli.main(["bench", "--replay", str(file)]) == 0
    assert "instructions are counted, not times" in capsys.readouterr().out
    assert cli.main(["firmware", str(portable.path), "--board", "stm32f103"]) == 0
    assert "fits STM32F103" in capsys.readouterr().out
    assert cli.main(["firmware", str(portable.path), "--board", "stm32f103", "--json", str(file)]) == 2


def test_make(portable: Bundle) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    folder = str(source_folder())

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-C", folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    shown = make("help", f"BUNDLE={portable.path}")
    assert "make -C mcu run" in shown.stdout
    assert "STM32F405" in shown.stdout
    done = make("run", f"BUNDLE={portable.path}", "BOARD=mps2-an385")
    assert done.returncode == 0, done.stderr
    assert "equal to the byte" in done.stdout
    refused = make("run", f"BUNDLE={portable.path / 'nothing'}")
    assert refused.returncode != 0
    assert "no bundle at" in refused.stderr
    nothing = make("image", f"BUNDLE={portable.path}", "BOARD=mps2-an385", "CROSS=nothing-", "OUT=build/nothing")
    assert nothing.returncode != 0
    assert "make arm-tools" in nothing.stderr


def test_text_through_a_uart(portable: Bundle, tmp_path: Path) -> None:
    """A build for a board without a debugger: the same report, over the serial port."""
    with pytest.raises(InputError, match="serial port"):
        firmware.for_a_board(portable, "mps2-an385", tmp_path)
    product, image = firmware.for_a_board(portable, "netduinoplus2", tmp_path)
    assert product.path.with_suffix(".bin").stat().st_size == pytest.approx(product.flash, abs=16)
    said = tmp_path / "said"
    command = ["qemu-system-arm", "-M", image.machine.qemu, "-display", "none", "-monitor", "none"]
    process = subprocess.Popen([*command, "-serial", f"file:{said}", "-icount", "shift=0", "-kernel", str(image.path)])
    try:
        for _ in range(6000):
            if said.exists() and "exit " in said.read_text():
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert said.read_text().count(" ok ") == len(portable.golden)
    assert "counts are clock cycles" in said.read_text()
    assert said.read_text().endswith("exit 0\n")


@pytest.fixture(scope="module")
def speech(out: Path) -> Bundle:
    """The word recognizer that takes features, untrained: the arithmetic is what is tested."""
    sounds = data.load_sounds("spoken-digits")
    model = zoo.create("speechnet_features", weights="random")
    return edge_lab.to(model, "mcu-cortex-m4-int8", calibration=sounds.take(16), golden=sounds, out=out)


def test_words_from_samples(speech: Bundle) -> None:
    found = firmware.run(speech)
    assert found.ok
    assert len(found.sounds) == len(found.answers) == len(speech.golden)
    cost = found.cost
    print(cost, f"{cost.per_mac:.2f} instructions per MAC")
    assert cost.front_end_instructions is not None
    assert cost.front_end_instructions < 5e6
    assert cost.ram_bytes <= F405_RAM // 2


def test_hard_sounds_equal_the_integer_reference(speech: Bundle) -> None:
    rng = np.random.default_rng(3)
    noise, t = rng.standard_normal(16000), np.arange(16000)
    waves = [np.zeros(16000), np.sign(noise), np.full(16000, -1.0), noise * 1e-4, np.sin(t * t * 1e-4)]
    found = firmware.run(speech, inputs=[np.zeros((1, 1, 61, 40), np.float32)], waveforms=waves)
    assert found.ok
    assert len(found.sounds) == len(waves)


def test_a_front_end_that_differs_is_told(speech: Bundle, tmp_path: Path) -> None:
    library = open_library(speech)
    sound = sounds_of(speech, library, [np.random.default_rng(0).standard_normal(16000) * 0.1])[0]
    sound.features[30, 20] ^= 1
    cases = firmware.cases_of(library, [np.zeros((1, 1, 61, 40), np.float32)])
    write_cases(cases, tmp_path / "cases.c", [sound])
    write_tables(speech, library, tmp_path)
    place = firmware.machine("mps2-an386")
    image = firmware.build(speech, place, tmp_path, main="test", cases=tmp_path / "cases.c", tables=tmp_path)
    assert any(line.startswith("sound 0") and " WRONG " in line for line in firmware.execute(image))


def test_counts_longer_than_the_counter(out: Path) -> None:
    """The F405's counter turns over after 100 million instructions; the MPS2's does not."""
    x = [np.random.default_rng(0).standard_normal((1, 1, 48, 48)).astype(np.float32) for _ in range(2)]
    layers = [
        nn.Conv2d(1, 12, 3, 1, 1),
        nn.Conv2d(12, 24, 3, 1, 1),
        nn.Conv2d(24, 48, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
    ]
    model = zoo.from_module(nn.Sequential(*layers), (1, 1, 48, 48), name="long")
    bundle = edge_lab.to(model, "mcu-cortex-m0-int8", calibration=x, golden=x[:1], out=out)
    counts = [firmware.run(bundle, board).cost.instructions for board in ("netduinoplus2", "mps2-an386")]
    print(counts)
    assert min(counts) > 101e6
    assert counts[0] == pytest.approx(counts[1], rel=1e-4)
