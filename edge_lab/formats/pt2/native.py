"""Compiled libraries run their own machine code when they are loaded: only those that were compiled here are.

A checksum proves that a file is whole, not where it came from. So an export notes the SHA-256 of every library that it
compiles in the user's cache folder, and loading compares. A bundle from elsewhere is refused; export the model again.
"""

from __future__ import annotations

from pathlib import Path

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError
from edge_lab.core.files import sha256, writing_file
from edge_lab.core.made_with import version_of
from edge_lab.data.download import cache_folder


def vouch(program: Path) -> None:
    """Note that this machine compiled `program`, and for which CPU instructions."""
    with writing_file(_note(sha256(program))) as temporary:
        temporary.write_text(_cpu(), encoding="utf-8")


def refuse_foreign(bundle: Bundle) -> None:
    """Raise BundleError unless this user compiled the bundle's program, on a CPU and with a PyTorch like these."""
    note = _note(sha256(bundle.program_path))
    again = f'compile it here: edge_lab.to(model, "{bundle.target}"), or use a target that holds no machine code.'
    if not note.is_file():
        raise BundleError(
            f"{bundle.program_path} was refused: it holds machine code that was not compiled here.",
            "loading it would run that code, and a checksum does not say who wrote it.",
            again,
        )
    made_with, here = bundle.runtime.made_with, version_of("torch")
    if made_with != here:
        raise BundleError(
            f"{bundle.program_path} was compiled for another PyTorch.",
            f"it calls functions of PyTorch {made_with}; this is {here}, and machine code does not notice.",
            again,
        )
    made_for = note.read_text(encoding="utf-8")
    if made_for != _cpu():
        raise BundleError(
            f"{bundle.program_path} was compiled for another CPU.",
            f"it uses {made_for} instructions; this CPU has {_cpu()}.",
            again,
        )


def _note(digest: str) -> Path:
    return cache_folder() / "compiled-here" / digest


def _cpu() -> str:
    import platform

    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
