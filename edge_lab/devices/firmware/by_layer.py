"""Where a firmware's instructions go: a copy of the model with a mark after every kernel, run in QEMU."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError
from edge_lab.core.files import locked
from edge_lab.devices.firmware.emulator import execute
from edge_lab.devices.firmware.image import build, check_board, machine, workplace

_CALL = re.compile(r"^    (bknn_\w+)\([^;]*;", re.MULTILINE)


@dataclass(frozen=True)
class LayerCost:
    """One kernel of the model, in the order that they run, and its instructions."""

    kernel: str
    instructions: int


def layers(bundle: Bundle | Path | str, board: str = "netduinoplus2") -> tuple[LayerCost, ...]:
    """Instructions of each kernel for an input of zeros (they hardly depend on it), counted by QEMU.

    Raises:
        InputError: the bundle is for another board, or does not fit it. MissingTool: no compiler, no QEMU.
        BundleError: a damaged bundle, or code of another form than bakenn 1.0 writes.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    place = machine(board)
    check_board(opened, place)
    folder = workplace(opened, place) / "layers"
    copy = replace(opened, path=folder / "copy")
    with locked(folder / "run"):
        shutil.rmtree(copy.path, ignore_errors=True)
        shutil.copytree(opened.program_path, copy.program_path)
        _mark(copy)
        lines = execute(build(copy, place, folder, main="layers"))
    prefix = next((copy.program_path / "net").glob("bknn_*_weights.h")).name.removesuffix("weights.h")
    words = [line.split() for line in lines if line.startswith("layer ")]
    return tuple(LayerCost(kernel.removeprefix(prefix), int(count)) for _, kernel, count in words)


def _mark(bundle: Bundle) -> None:
    for file in (bundle.program_path / "net").glob("bknn_*.c"):
        text = file.read_text(encoding="utf-8")
        head, brace, body = text.partition("_infer(")
        if brace:
            marked, count = _CALL.subn(r'\g<0>\n    el_mark("\1");', body)
            if count:
                file.write_text(f"void el_mark(const char *layer);\n{head}{brace}{marked}", encoding="utf-8")
                return
    raise BundleError(
        f"the layers of {bundle.spec.name} can't be told apart.",
        "its C has no calls of kernels in the form that bakenn 1.0 writes.",
        "install the version of requirements.lock: pip install bakenn==1.0.0",
    )
