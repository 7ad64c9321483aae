"""Damaged pictures: refused by Python and by the C++ runner, whole ones read by both, to the same bits."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runner_build import client, runner_build

from edge_lab import data
from edge_lab.core.errors import DataError
from edge_lab.signals.damage import damage
from edge_lab.signals.image import read_image

PHOTO = sorted((Path(__file__).parents[1] / "edge_lab/assets/photos").glob("*.jpg"))[0]
JPEGS: dict[str, dict[str, Any]] = {
    "444": {"subsampling": 0, "quality": 95},
    "420": {"subsampling": 2, "quality": 60},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
}


def _photo(mode: str = "RGB") -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert(mode).resize((173, 131))


def _jpeg(kind: str) -> bytes:
    options, file = dict(JPEGS[kind]), io.BytesIO()
    _photo(options.pop("mode", "RGB")).save(file, "JPEG", **options)
    return file.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, rows: bytes, interlaced: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


@pytest.fixture(scope="module")
def library(artifacts: Path) -> Path:
    return runner_build(artifacts) / "libedge_lab.so"


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Whole and damaged ones: JPEGs cut at seeded places and closed again, PNGs with changed bytes or missing rows."""
    rng, whole, damaged = np.random.default_rng(0), list[Path](), list[Path]()

    def write(name: str, content: bytes, to: list[Path]) -> None:
        (folder / name).write_bytes(content)
        to.append(folder / name)

    for kind in JPEGS:
        complete = _jpeg(kind)
        write(f"{kind}.jpg", complete, whole)
        write(f"{kind}-twice.jpg", complete + complete, whole)  # cameras put previews behind
        start = complete.rindex(b"\xff\xda") + 20
        for i, place in enumerate(sorted(rng.integers(start, len(complete) - 12, 12))):
            write(f"{kind}-{i}.jpg", complete[:place].rstrip(b"\xff") + b"\xff\xd9", damaged)
    for mode in ("RGB", "L", "P", "1", "LA", "RGBA", "I;16"):
        file = io.BytesIO()
        _photo("L" if mode == "I;16" else "RGB").convert("I" if mode == "I;16" else mode).convert(mode).save(
            file, "PNG"
        )
        complete = file.getvalue()
        write(f"{mode.replace(';', '')}.png", complete, whole)
        first, last = complete.index(b"IDAT") + 4, complete.rindex(b"IEND") - 8
        for i, place in enumerate(rng.integers(first, last, 12)):
            changed = complete[:place] + bytes([complete[place] ^ 0xFF]) + complete[place + 1 :]
            write(f"{mode.replace(';', '')}-{i}.png", changed, damaged)
    write("rows.png", _png(2, 300, b"\0\xff\xff" * 3), damaged)
    write("passes.png", _png(9, 9, b"\0" * 20, interlaced=1), damaged)
    write("all.png", _png(2, 3, b"\0\xff\xff" * 3), whole)
    return whole, damaged


def test_every_reader_refuses_what_is_damaged_and_reads_the_rest(library: Path, tmp_path: Path) -> None:
    whole, damaged = _files(tmp_path)
    for path in whole:
        assert not damage(path.read_bytes()), path.name
        np.testing.assert_array_equal(client().decode(path, library), np.asarray(read_image(path)), err_msg=path.name)
    answered = []
    for path in damaged:
        with pytest.raises(DataError):
            answered.append(("python", path.name, np.asarray(read_image(path)).shape))
        with pytest.raises(client().RunnerError):
            answered.append(("c++", path.name, client().decode(path, library).shape))
    assert not answered
    images = data.folder(tmp_path)
    assert (len(images), images.skipped) == (len(whole), len(damaged))


def test_the_message_says_what_is_wrong(tmp_path: Path) -> None:
    complete = _jpeg("420")
    (tmp_path / "half.jpg").write_bytes(complete[: len(complete) // 2] + b"\xff\xd9")
    with pytest.raises(
        DataError, match=r"half\.jpg is damaged(.|\n)*ends before its last pixel(.|\n)*download it again"
    ):
        read_image(tmp_path / "half.jpg")
