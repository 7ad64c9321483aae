"""Files that are no checkpoints: each is called what it is, with the way from it to weights."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_lab.core.errors import DataError
from edge_lab.signals.image import read_image
from edge_lab.zoo.weights import fill, read_checkpoint

Writer = Callable[[Path], object]


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("net.pt"), io.BytesIO())


def _program(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), path)


KINDS: list[tuple[str, Writer, str, str]] = [
    ("empty.pt", lambda p: p.write_bytes(b""), "empty", "again"),
    ("a.pt", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"), "LFS", "git lfs pull"),
    ("a.pth", lambda p: p.write_text("<!DOCTYPE html><html></html>"), "web page", "/resolve/"),
    ("a.html.pt", lambda p: p.write_text("\n  <html lang=en>"), "web page", "the file itself"),
    ("m.safetensors.index.json", lambda p: p.write_text(json.dumps({"weight_map": {"a": "b"}})), "parts", "join"),
    ("config.json", lambda p: p.write_text('{"hidden_size": 8}'), "JSON", "tensors"),
    ("a.pt.gz", lambda p: p.write_bytes(gzip.compress(b"abc")), "gzip", "unpack"),
    ("a.tar", _tar, "tar archive", "unpack"),
    ("a.h5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5", "state dict"),
    ("a.npy", lambda p: np.save(p, np.zeros(3)), "NumPy", "torch.save"),
    ("a.npz", lambda p: np.savez(p, a=np.zeros(3)), "NumPy", "torch.save"),
    ("net.onnx", lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch"), "ONNX", "checkpoint"),
    ("net.tflite", lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(32)), "TensorFlow Lite", "checkpoint"),
    ("net.gguf", lambda p: p.write_bytes(b"GGUF" + bytes(32)), "GGUF", "checkpoint"),
    ("script.pt", lambda p: torch.jit.save(torch.jit.script(nn.Linear(3, 2)), str(p)), "TorchScript", "torch.jit.load"),
    ("net.pt2", _program, "torch.export", "torch.export.load"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "what", "fix"), KINDS, ids=[name for name, *_ in KINDS])
def test_what_is_no_checkpoint_is_called_by_its_name(
    name: str, write: Writer, what: str, fix: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_checkpoint(tmp_path / name)
    assert what in caught.value.why
    assert fix in caught.value.fix


def test_the_way_from_a_program_to_weights_works(tmp_path: Path) -> None:
    net, file = nn.Linear(3, 2), tmp_path / "weights.pt"
    torch.jit.save(torch.jit.script(net), str(tmp_path / "script.pt"))
    torch.save(torch.jit.load(str(tmp_path / "script.pt")).state_dict(), file)
    assert torch.equal(fill(lambda: nn.Linear(3, 2), str(file))[0].weight, net.weight)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3),)), tmp_path / "net.pt2")
    torch.save(torch.export.load(tmp_path / "net.pt2").state_dict, file)
    assert torch.equal(fill(lambda: nn.Linear(3, 2), str(file))[0].weight, net.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: (w * 100).to(torch.int8), "weight is int8 there"),
        (lambda w: w > 0, "weight is bool there"),
        (lambda w: w.to(torch.complex64), "weight is complex64 there"),
        (lambda w: w.to_sparse(), r"save weight\.to_dense"),
        (lambda w: w.to("meta"), "has no numbers"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "is quantized"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(
    change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    state = nn.Linear(3, 2).state_dict()
    torch.save(state | {"weight": change(state["weight"])}, tmp_path / "net.pt")
    with pytest.raises(DataError, match=message):
        fill(lambda: nn.Linear(3, 2), str(tmp_path / "net.pt"))


def test_half_precision_is_weights(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).half().state_dict(), tmp_path / "net.pt")
    assert fill(lambda: nn.Linear(3, 2), str(tmp_path / "net.pt"))[0].weight.dtype == torch.float32


def test_pictures_that_no_reader_of_pillow_expects(tmp_path: Path) -> None:
    import struct

    head = struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44)
    form = struct.pack("<2I4s5I", 32, 4, b"DX10", 0, 0, 0, 0, 0) + bytes(20) + struct.pack("<5I", 93, 3, 0, 1, 0)
    (tmp_path / "texture.jpg").write_bytes(b"DDS " + head + form)
    with pytest.raises(DataError, match="could not be read as an image"):
        read_image(tmp_path / "texture.jpg")
    with pytest.raises(DataError, match=r"there is no picture(.|\n)*check the path"):
        read_image(tmp_path / "missing.jpg")
