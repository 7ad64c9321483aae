"""From a bundle and a board to a linked image, by mcu/Makefile; a program that does not fit says how much it needs."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, EdgeLabError, InputError, MissingTool
from edge_lab.core.files import locked
from edge_lab.formats.c.boards import ALSO

KB = 1024
Main = Literal["product", "test", "layers"]
Console = Literal["semihosting", "uart"]
_CROSS = "arm-none-eabi-"
_LINK = "bundle"
_ALIASES = {chip: name for name, chip in ALSO.items()}  # files are named like QEMU's machines
_SETTING = re.compile(r"^(\w+) :=[ ]?(.*)$", re.MULTILINE)
_MEMORY = re.compile(r"(FLASH|RAM)\s.*LENGTH = (\d+)([KM])")
_OVERFLOW = re.compile(r"region `(FLASH|RAM)' overflowed by (\d+) bytes")
_SECTION = re.compile(r"^\.(text|ARM\.exidx|data|bss)\s+(\d+)\s", re.MULTILINE)


@dataclass(frozen=True)
class Machine:
    """A board of mcu/boards: its chip, QEMU's name of it (empty: none), the cores whose code it runs, best first.

    `flash` and `ram` are bytes. `uart`: mcu/src knows its serial port.
    """

    name: str
    chip: str
    qemu: str
    runs: tuple[str, ...]
    flash: int
    ram: int
    uart: bool = False


@dataclass(frozen=True)
class Image:
    """A linked firmware: the ELF file, and the bytes that it takes of each memory; the stack is not in `ram`."""

    path: Path
    machine: Machine
    flash: int
    ram: int


def source_folder() -> Path:
    """mcu/ of the repository; MissingTool if edge_lab was installed without it."""
    folder = Path(__file__).resolve().parents[3] / "mcu"
    if not (folder / "Makefile").is_file():
        raise MissingTool(
            "the firmware's sources are not here.",
            f"{folder} does not exist: they are in the repository, not in the Python package.",
            "clone the repository and run this from there.",
        )
    return folder


def machines() -> list[str]:
    """Names of the boards that a firmware can be built for."""
    return sorted(file.stem for file in (source_folder() / "boards").glob("*.mk"))


def machine(name: str) -> Machine:
    """A board by name; InputError offers the nearest."""
    name = _ALIASES.get(name, name)
    file = source_folder() / "boards" / f"{name}.mk"
    if name not in machines():
        near = difflib.get_close_matches(name, machines(), n=1, cutoff=0.4)
        raise InputError(
            f"there is no board {name!r}.",
            f"firmware is built for {', '.join(machines())}." + (f" Did you mean {near[0]!r}?" if near else ""),
            "use one of these; mcu/README.md says how to add one.",
        )
    known = dict(_SETTING.findall(file.read_text(encoding="utf-8")))
    script = (source_folder() / "ld" / known["SCRIPT"]).read_text(encoding="utf-8")
    sizes = {kind: int(n) * (KB if unit == "K" else KB * KB) for kind, n, unit in _MEMORY.findall(script)}
    runs = tuple(known["RUNS"].split())
    uart = known.get("UART") == "yes"
    return Machine(name, known["CHIP"], known["MACHINE"], runs, sizes["FLASH"], sizes["RAM"], uart)


def tool(name: str) -> str:
    """Path of a program; MissingTool says how to get it."""
    found = shutil.which(name)
    if found is None:
        raise MissingTool(
            f"{name} is not installed.", "it builds or runs firmware.", "run `make arm-tools` in the repository."
        )
    return found


def check_board(bundle: Bundle, place: Machine) -> None:
    """InputError unless the bundle holds C sources for a core whose code this board runs."""
    if bundle.runtime.format != "c":
        raise InputError(
            f"{bundle.name} is not for a microcontroller.",
            f"it is for {bundle.target}: a firmware needs C sources.",
            f"export it for the board: edge_lab.to(model, 'mcu-{place.runs[0]}-int8').",
        )
    core = _core(bundle)
    if core not in place.runs:
        raise InputError(
            f"{bundle.name} is not for {place.name} ({place.chip}).",
            f"its code is for {core}; the board runs code for {', '.join(place.runs)}.",
            f"export it for the board: edge_lab.to(model, 'mcu-{place.runs[0]}-int8').",
        )


def _core(bundle: Bundle) -> str:
    file = bundle.program_path / "model.mk"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    settings: dict[str, str] = dict(_SETTING.findall(text))
    core = settings.get("EL_CPU", "")
    if not core:
        raise BundleError(
            f"{bundle.path} can't be built.",
            f"{file} is missing or names no core.",
            "make the bundle again with edge_lab.to(model, target).",
        )
    return core


def workplace(bundle: Bundle, place: Machine) -> Path:
    """A folder in the cache for the objects of this program on this board."""
    from edge_lab.data.download import cache_folder

    entry = bundle.files.get(bundle.program)
    content = entry.sha256 if entry else str(bundle.path.resolve())
    key = hashlib.sha256(f"{bundle.name} {content} {place.name}".encode()).hexdigest()
    folder = cache_folder() / "firmware" / key[:24]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(
    bundle: Bundle,
    place: Machine,
    folder: Path,
    *,
    main: Main = "product",
    cases: Path | None = None,
    tables: Path | None = None,
    console: Console = "semihosting",
    fault: bool = False,
) -> Image:
    """Compile and link; files go to `folder`.

    Args:
        bundle: of C sources.
        place: the board.
        folder: objects and image; what is up to date is not compiled again.
        main: "product" (the least), "test" (runs `cases`, prints, counts), or "layers" (of a marked copy: by_layer.py).
        cases: C table of inputs and outputs, for main="test".
        tables: folder with the front end's tables, for a model that hears.
        console: where text goes; "uart" for a board without a debugger.
        fault: let the test firmware crash, to see what happens then.

    Raises:
        InputError: the bundle is for another core, or it does not fit the board's memory.
        MissingTool: no compiler. BundleError: its sources don't compile.
    """
    check_board(bundle, place)
    tool(f"{_CROSS}gcc")
    settings = {
        "BUNDLE": folder.resolve() / _LINK,
        "BOARD": place.name,
        "OUT": folder.resolve(),
        "MAIN": main,
        "CONSOLE": console,
        "CASES": cases.resolve() if cases else "",
        "TABLES": tables.resolve() if tables else "",
        "FAULT": "1" if fault else "",
    }
    if any(" " in str(value) for value in settings.values()):
        raise InputError(
            "make can't work in a folder with a space in its name.",
            f"the firmware is built in {folder.resolve()}.",
            "name another folder: EDGE_LAB_CACHE.",
        )
    with locked(folder / "build"):
        _point(folder / _LINK, bundle.path.resolve())
        done = _make([f"{key}={value}" for key, value in settings.items()])
        if done.returncode != 0:
            raise _failed(bundle, place, done.stdout + done.stderr, main)
        path = folder / f"firmware-{main}.elf"
        flash, ram = sizes(path)
    return Image(path, place, flash, ram)


def _point(link: Path, to: Path) -> None:
    """Make `link` a link to the bundle: the objects then stay good when the same bundle lies elsewhere."""
    if not link.is_symlink() or link.resolve() != to:
        link.unlink(missing_ok=True)
        link.symlink_to(to, target_is_directory=True)


def _make(settings: list[str]) -> subprocess.CompletedProcess[str]:
    command = [tool("make"), "--silent", "-C", str(source_folder()), "image", *settings]
    plain = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    plain["LC_ALL"] = "C"
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, env=plain)


def _failed(bundle: Bundle, place: Machine, said: str, main: str) -> EdgeLabError:
    over = {kind: int(count) for kind, count in _OVERFLOW.findall(said)}
    if over:
        have = {"FLASH": place.flash, "RAM": place.ram}
        needs = ", ".join(
            f"needs {-(-(have[kind] + count) // KB)} KB of {kind.replace('FLASH', 'flash')}, "
            f"{place.chip} has {have[kind] // KB} KB"
            for kind, count in sorted(over.items())
        )
        if main == "test":  # the firmware itself was linked before, and fits
            return InputError(
                f"the test inputs of {bundle.name} do not fit: {needs}.",
                "all of them are in one image; the firmware without them fits.",
                "run fewer at once: --limit, or several calls.",
            )
        return InputError(
            f"{bundle.name} does not fit: {needs}.",
            "the linker found no room for its weights, its arena and the stack.",
            "use a smaller model or input, or a larger board.",
        )
    lines = said.strip().splitlines() or ["no message"]
    line = next((line for line in lines if "rror" in line), lines[-1])
    return BundleError(
        f"the firmware of {bundle.name} for {place.name} could not be built.",
        f"make says: {line}",
        "make the bundle again with edge_lab.to(model, target).",
    )


def sizes(elf: Path) -> tuple[int, int]:
    """Bytes of flash (code, constants, initial values) and of RAM (variables, without the stack) of an ELF file."""
    command = [tool(f"{_CROSS}size"), "-A", "-d", str(elf)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = {name: int(count) for name, count in _SECTION.findall(text)}
    data = found.get("data", 0)
    return found.get("text", 0) + found.get("ARM.exidx", 0) + data, data + found.get("bss", 0)
