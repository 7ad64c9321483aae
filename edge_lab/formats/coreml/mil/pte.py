"""The Core ML program inside an ExecuTorch file (.pte), as the .mlpackage that it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_lab.core.errors import BundleError
from edge_lab.core.quiet import quiet

_DIRECTORY = 1  # the other kind is a file
_BACKEND = "CoreMLBackend"


def unpack_coreml(pte: Path, folder: Path) -> Path:
    """Write the .mlpackage inside a .pte to a folder and return its path.

    Raises:
        BundleError: the file is no .pte, or not exactly one Core ML program is in it.
    """
    try:
        with quiet():
            from executorch.exir._serialize._program import deserialize_pte_binary

            program = deserialize_pte_binary(pte.read_bytes()).program
        blobs = _blobs(program)
        for number, blob in enumerate(blobs):
            _unflatten(blob, folder / str(number))
    except Exception as error:  # flatbuffers, JSON, file system: many kinds
        raise unreadable(pte, error) from error
    found = sorted(folder.rglob("*.mlpackage"))
    if len(found) != 1:
        raise BundleError(
            f"{pte} holds {len(found)} Core ML programs.",
            "exactly one can be interpreted, with the whole network in it.",
            "lower the network for Core ML as one piece, or compare the .mlpackage.",
        )
    return found[0]


def _blobs(program: Any) -> list[bytes]:
    """What the Core ML delegates of all methods were given, each once."""
    places = {
        delegate.processed.index: None
        for plan in program.execution_plan
        for delegate in plan.delegates
        if delegate.id == _BACKEND
    }
    return [bytes(program.backend_delegate_data[place].data) for place in places]


def _unflatten(blob: bytes, folder: Path) -> None:
    """Write the folder that ExecuTorch packed into one blob: file contents, then a JSON index, its bytes reversed.

    The wheel's own `executorchcoreml.unflatten_directory_contents` ends the process on a damaged index, and takes any
    file name.
    """
    index, _ = json.JSONDecoder().raw_decode(blob[::-1].decode("latin-1"))
    nodes = index["nodes"]

    def write(node: dict[str, Any], path: Path) -> None:
        if node["kind"] != _DIRECTORY:
            begin, size = node["dataRegion"]["offset"], node["dataRegion"]["size"]
            if min(begin, size) < 0 or begin + size > len(blob):
                raise ValueError(f"{path.name} reaches beyond the end of the data")
            path.write_bytes(blob[begin : begin + size])
            return
        path.mkdir()
        for name, place in node["children"].items():
            if Path(name).name != name or name == "..":
                raise ValueError(f"{name!r} is not a file name")
            write(nodes[place], path / name)

    write(nodes[-1], folder)  # the root comes last


def unreadable(path: Path, error: Exception) -> BundleError:
    """The one sentence for a file that is no Core ML program, or a damaged one."""
    text = str(error).splitlines()[0] if str(error) else "no message"
    return BundleError(
        f"{path} can't be read as a Core ML program.",
        f"{type(error).__name__}: {text}",
        "it may be damaged, of another kind, or made by a newer coremltools: export it again.",
    )
