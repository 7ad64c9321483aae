"""Run a firmware in QEMU and read what it prints: answers, instructions, stack."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.core.files import locked
from edge_lab.devices.firmware.cases import (
    cases_of,
    golden_cases,
    golden_sounds,
    hears,
    sounds_of,
    write_cases,
    write_tables,
)
from edge_lab.devices.firmware.image import Console, Image, Machine, build, check_board, machine, tool, workplace
from edge_lab.formats.c.run import open_library
from edge_lab.measure.record import Firmware

_TESTED, _WRONG = 0, 1
_LOOP = 200000  # instructions in the loop that checks the counter


@dataclass(frozen=True, eq=False)
class Answer:
    """One case on the device: int8 outputs, whether they are the expected ones, what they mean, instructions."""

    output: np.ndarray
    ok: bool
    text: str
    instructions: int


@dataclass(frozen=True)
class Run:
    """A firmware's answers and costs.

    `answers` are those to ready inputs, `sounds` those to samples that went through the front end on the device; there
    `ok` speaks of the features too, and `instructions` are the front end's. `seconds` is what the emulator took: it
    says nothing of a board.
    """

    cost: Firmware
    answers: tuple[Answer, ...]
    sounds: tuple[Answer, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every byte is the expected one."""
        return all(answer.ok for answer in (*self.answers, *self.sounds))


def run(
    bundle: Bundle | Path | str,
    board: str = "netduinoplus2",
    *,
    inputs: Iterable[np.ndarray] | None = None,
    waveforms: Iterable[np.ndarray] | None = None,
    timeout: float = 300,
) -> Run:
    """Build a bundle's firmware, run it in QEMU, compare every output byte.

    Args:
        bundle: of C sources; a path is verified first.
        board: one of `machines()`.
        inputs: float32 (1, C, H, W); expected are the answers of the same C on this machine. Default: the bundle's
            golden inputs, with the outputs that it recorded.
        waveforms: float32 (samples,), for a model that takes features: they go through the front end on the device.
            Default: the bundle's golden recordings; none if other inputs are given.
        timeout: seconds that QEMU may take.

    Raises:
        InputError: the bundle is for another board, or does not fit it, or QEMU has no such board.
        MissingTool: no compiler, no QEMU. BundleError: a damaged bundle.
        EdgeLabError: the firmware crashed, found its weights damaged, or did not end in time.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    _emulated(machine(board))
    product = link(opened, board)
    place, folder = product.machine, product.path.parent
    library = open_library(opened)
    tables = folder if hears(opened) else None
    cases = golden_cases(opened, library) if inputs is None else cases_of(library, inputs)
    golden = golden_sounds(opened, library) if inputs is None else []
    sounds = golden if waveforms is None else sounds_of(opened, library, waveforms)
    with locked(folder / "run"):  # another process may test the same bundle with other inputs
        write_cases(cases, folder / "cases.c", sounds if tables else None)
        image = build(opened, place, folder, main="test", cases=folder / "cases.c", tables=tables)
        started = time.perf_counter()
        lines = execute(image, timeout=timeout)
    return _read(lines, product, time.perf_counter() - started)


def link(bundle: Bundle | Path | str, board: str = "netduinoplus2") -> Image:
    """Build the least firmware of a bundle, without tests and text: what it takes of each memory, and whether it fits.

    Raises:
        InputError: the bundle is for another board, or does not fit it. MissingTool: no compiler.
        BundleError: a damaged bundle.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    place = machine(board)
    check_board(opened, place)
    return _product(opened, place, workplace(opened, place))


def _product(bundle: Bundle, place: Machine, folder: Path, console: Console = "semihosting") -> Image:
    if hears(bundle):
        write_tables(bundle, open_library(bundle), folder)
    return build(bundle, place, folder, tables=folder if hears(bundle) else None, console=console)


def for_a_board(bundle: Bundle | Path | str, board: str, folder: Path) -> tuple[Image, Image]:
    """Build images for a real board without debugger, whose text goes to its serial port (.bin beside each .elf).

    Returns:
        The product's, and one that runs the golden inputs once and prints answers and clock cycles.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    place = machine(board)
    check_board(opened, place)
    if not place.uart:
        raise InputError(
            f"mcu/ has no driver for the serial port of {place.chip}.",
            "an image for a board without debugger would be mute; there is one for the STM32F405.",
            "write one like mcu/src/console_uart.c, and set UART := yes in the board's file.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    library = open_library(opened)
    product = _product(opened, place, folder, "uart")
    tables = folder if hears(opened) else None
    cases, sounds = golden_cases(opened, library), golden_sounds(opened, library)
    write_cases(cases, folder / "cases.c", sounds if tables else None)
    test = build(opened, place, folder, main="test", cases=folder / "cases.c", tables=tables, console="uart")
    return product, test


def _emulated(place: Machine) -> Machine:
    if not place.qemu:
        raise InputError(
            f"QEMU has no {place.chip}.",
            "a firmware for it can be linked, which tells whether it fits, but not run.",
            "run it on another board, such as netduinoplus2.",
        )
    return place


def execute(image: Image, *, timeout: float = 300) -> list[str]:
    """Run an image until it ends by itself; its lines.

    Raises:
        EdgeLabError: it crashed, refused its weights, ran longer than `timeout`, or printed nothing that is known.
    """
    target = ["-M", _emulated(image.machine).qemu, "-nographic", "-monitor", "none", "-serial", "none"]
    host = ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", str(image.path)]
    try:
        done = subprocess.run(
            [tool("qemu-system-arm"), *target, *host],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise EdgeLabError(
            f"the firmware did not end within {timeout:g} s.",
            "it hangs, or this machine is very busy.",
            "run fewer inputs, or give it more time (timeout=...).",
        ) from error
    said = done.stdout + done.stderr  # semihosting writes to QEMU's stderr
    if done.returncode not in (_TESTED, _WRONG):
        lines = said.strip().splitlines()
        why = next(
            (line for line in lines if line.startswith(("FAULT", "WEIGHTS", "qemu"))), (lines or ["nothing"])[-1]
        )
        raise EdgeLabError(
            f"the firmware ended with status {done.returncode}.",
            f"it said: {why}",
            "look the address up with arm-none-eabi-addr2line -e FIRMWARE.elf, or build the bundle again.",
        )
    return said.splitlines()


def _read(lines: list[str], product: Image, seconds: float) -> Run:
    facts = {
        words[0]: int(words[1]) for line in lines if len(words := line.split()) == 2 and words[1].lstrip("-").isdigit()
    }
    answers = tuple(_answer(line) for line in lines if line.startswith("case "))
    sounds = tuple(_answer(line) for line in lines if line.startswith("sound "))
    known = {"check", "stack", "arena", "macs", "cases"} <= facts.keys()
    complete = known and len(answers) == facts["cases"] and len(sounds) == facts.get("sounds", 0)
    if not complete or abs(facts["check"] - _LOOP) > _LOOP // 100:
        raise EdgeLabError(
            "the firmware's report can't be used.",
            "it is not complete, or the instruction counter does not count instructions: "
            f"{facts.get('check', 'nothing')} in a loop of {_LOOP}.",
            "use the QEMU that make arm-tools installs.",
        )
    place = product.machine
    cost = Firmware(
        board=place.chip,
        machine=f"qemu-system-arm -M {place.qemu}",
        flash_bytes=product.flash,
        ram_bytes=product.ram + facts["stack"],
        arena_bytes=facts["arena"],
        stack_bytes=facts["stack"],
        instructions=int(median(answer.instructions for answer in answers)),
        macs=facts["macs"],
        front_end_instructions=int(median(sound.instructions for sound in sounds)) if sounds else None,
    )
    return Run(cost, answers, sounds, seconds)


def _answer(line: str) -> Answer:
    _, _, count, output, verdict, *text = line.split(maxsplit=5)
    values = np.frombuffer(bytes.fromhex(output), np.int8)
    return Answer(values, verdict == "ok", text[0] if text else "", int(count))
