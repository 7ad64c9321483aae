"""What a file that is no checkpoint is, seen by its first bytes, and the way from it to weights."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edge_lab.signals.signature import LFS_POINTER, WEB_PAGE, XML, signature_of

_AGAIN = "copy or download it again."
_STARTS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "it is a gzip archive.", "unpack it (tar xzf, or gunzip) and name the checkpoint inside."),
    (257, b"ustar", "it is a tar archive.", "unpack it (tar xf) and name the checkpoint inside."),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "it is an HDF5 file, which Keras and TensorFlow write.",
        "export it from there (ONNX, or arrays by name), and save a state dict of the PyTorch network.",
    ),
    (
        0,
        b"\x93NUMPY",
        "it is one NumPy array.",
        "torch.save({name: torch.from_numpy(array)}, 'weights.pt'), with the network's name of that tensor.",
    ),
    (0, b"GGUF", "it is a GGUF file of llama.cpp.", "take the checkpoint that it was converted from."),
    (4, b"TFL3", "it is a TensorFlow Lite program.", "take the PyTorch checkpoint; a program is no set of weights."),
    (4, b"ET1", "it is an ExecuTorch program (.pte).", "take the checkpoint that it was exported from."),
)
_STATE = "torch.save({}.state_dict{}, 'weights.pt')"


def kind_of(path: Path) -> tuple[str, str] | None:
    """(What it is, what to do) of a file that is no checkpoint, by its start; None for what may be one."""
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "it is empty.", _AGAIN
    for place, mark, what, fix in _STARTS:
        if start[place : place + len(mark)] == mark:
            return what, fix
    return _text(path, start) or _program(path, start)


def _text(path: Path, start: bytes) -> tuple[str, str] | None:
    words = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = signature_of(start)
    if kind in (LFS_POINTER, WEB_PAGE):
        return f"it is {kind.name}.", kind.fix
    if words.startswith(b"<?xml"):
        return f"it is {XML.name}.", WEB_PAGE.fix
    if not words.startswith(b"{") or b"\0" in start:
        return None
    if path.name.endswith(".index.json") or b'"weight_map"' in start:
        return (
            "it is the list of a checkpoint's parts, in JSON.",
            "join the parts that it names: load each into one dict and save that with torch.save.",
        )
    return "it is JSON text.", "name the file with the tensors (.pt, .pth or .safetensors)."


def _program(path: Path, start: bytes) -> tuple[str, str] | None:
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and b"pytorch" in start[:64]):
        return "it is an ONNX program.", "take the PyTorch checkpoint that it was exported from."
    if not start.startswith(b"PK"):
        return None
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        return "it is cut off: the end of the zip archive is missing.", _AGAIN
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return "it is a TorchScript program, not weights.", _STATE.format("torch.jit.load(path)", "()")
    if "archive_format" in ends or any(name.endswith(".json") and "/models/" in name for name in names):
        return "it is a program of torch.export (.pt2), not weights.", _STATE.format("torch.export.load(path)", "")
    if all(name.endswith(".npy") for name in names):
        arrays = "{k: torch.from_numpy(v) for k, v in np.load(path).items()}"
        return "it holds NumPy arrays (.npz).", f"torch.save({arrays}, 'weights.pt')."
    if not ends & {"data.pkl"}:
        return "it is a zip archive.", "unpack it and name the checkpoint inside."
    return None
