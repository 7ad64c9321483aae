"""Boards by their memory, and whether a bundle of C sources can fit one."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, InputError

KB = 1024
STACK = 2 * KB  # what a firmware needs beside the model: CMSIS-NN's kernels use 0.7 KB of stack, see mcu/README.md
# Kernels and start-up code of linked firmwares (docs/results/firmware.json): 16 KB with CMSIS-NN, 7 KB of plain C.
CODE = {"cortex-m4": 16 * KB, "esp32s3": 16 * KB, "cortex-m3": 7 * KB, "cortex-m0": 7 * KB}


@dataclass(frozen=True)
class Board:
    """A board or chip: flash and RAM in bytes, and the bundle backends whose code its core runs, best first.

    `ram` is what one program can use in one piece: the STM32F405 has 64 KB of core-coupled memory beside its 128 KB,
    the ESP32-S3 512 KB in all, of which its system leaves about 320.
    """

    name: str
    chip: str
    core: str
    flash: int
    ram: int
    backends: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """What a bundle needs of a board, in bytes, at least: a linked firmware says exactly (`edge-lab firmware`)."""

    board: Board
    flash: int
    ram: int

    @property
    def ok(self) -> bool:
        """Both fit."""
        return self.flash <= self.board.flash and self.ram <= self.board.ram

    def __str__(self) -> str:
        parts = [
            f"does not fit: needs {-(-need // KB)} KB of {kind}, {self.board.chip} has {have // KB} KB"
            for kind, need, have in (("flash", self.flash, self.board.flash), ("RAM", self.ram, self.board.ram))
            if need > have
        ]
        if parts:
            return "; ".join(parts)
        flash, ram = (-(-n // KB) for n in (self.flash, self.ram))
        return (
            f"fits {self.board.chip}: {flash} of {self.board.flash // KB} KB of flash, "
            f"{ram} of {self.board.ram // KB} KB of RAM"
        )


ALSO = {"netduinoplus2": "stm32f405"}  # a board by its maker's name, and the chip on it
_CORES = ("cortex-m4", "cortex-m3", "cortex-m0")
_BOARDS = {
    b.name: b
    for b in (
        Board("mps2-an385", "MPS2 AN385", "cortex-m3", 4096 * KB, 4096 * KB, _CORES[1:]),
        Board("mps2-an386", "MPS2 AN386", "cortex-m4", 4096 * KB, 4096 * KB, _CORES),
        Board("mps2-an500", "MPS2 AN500", "cortex-m7", 4096 * KB, 4096 * KB, _CORES),
        Board("stm32f103", "STM32F103", "cortex-m3", 64 * KB, 20 * KB, _CORES[1:]),
        Board("stm32f405", "STM32F405", "cortex-m4", 1024 * KB, 128 * KB, _CORES),
        Board("esp32s3", "ESP32-S3", "xtensa-lx7", 8192 * KB, 320 * KB, ("esp32s3",)),
        Board("rp2040", "RP2040", "cortex-m0plus", 2048 * KB, 256 * KB, ("cortex-m0",)),
    )
}


def boards() -> list[str]:
    """Names of the boards that are known; every board of mcu/boards is one of them."""
    return sorted({*_BOARDS, *ALSO})


def board(name: str) -> Board:
    """A board by name; InputError offers the nearest."""
    name = ALSO.get(name, name)
    if name not in _BOARDS:
        near = difflib.get_close_matches(name, boards(), n=1, cutoff=0.4)
        raise InputError(
            f"there is no board {name!r}.",
            f"the known ones are {', '.join(boards())}." + (f" Did you mean {near[0]!r}?" if near else ""),
            "use one of these, or compare the numbers yourself: c/net/*_memory.txt in the bundle.",
        )
    return _BOARDS[name]


def fits(bundle: Bundle, where: Board | str) -> Fit:
    """What a bundle needs of a board.

    Flash: weights, tables, kernels. RAM: the arena, one input and output, and the stack.

    Raises:
        InputError: the bundle holds no C sources, or sources for another core.
        BundleError: its memory report is missing.
    """
    place = board(where) if isinstance(where, str) else where
    if bundle.runtime.format != "c" or bundle.runtime.backend not in place.backends:
        raise InputError(
            f"{bundle.name} is not for {place.chip}.",
            f"it is for {bundle.target}; the board has a {place.core} core.",
            f"export it for the board: edge_lab.to(model, 'mcu-{place.backends[0]}-int8').",
        )
    reports = sorted((bundle.program_path / "net").glob("*_memory.json"))
    if len(reports) != 1:
        raise BundleError(
            f"{bundle.path} has no memory report.",
            "c/net/*_memory.json is missing.",
            "make the bundle again with edge_lab.to(model, target).",
        )
    known = json.loads(reports[0].read_text(encoding="utf-8"))["compile_time"]
    ram = known["arena_bytes"] + known["caller_io_bytes"] + STACK
    return Fit(place, known["emitted_constant_payload_bytes"] + CODE[bundle.runtime.backend], ram)
