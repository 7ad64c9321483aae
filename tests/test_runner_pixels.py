"""The C++ runner sees what Python sees: every picture decodes, resizes and normalises to the very same bits."""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import struct
import wave
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from runner_build import client, runner_build

from edge_lab.bundle.spec import ModelSpec, Preprocess, TensorSpec, preprocess
from edge_lab.signals.image import read_image

PHOTOS = Path(__file__).parents[1] / "edge_lab/assets/photos"


@pytest.fixture(scope="module")
def library(artifacts: Path) -> Path:
    return runner_build(artifacts) / "libedge_lab.so"


@pytest.fixture(scope="module")
def lib(library: Path) -> ctypes.CDLL:
    loaded: ctypes.CDLL = client().load_library(library)
    return loaded


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A piece of a real photo plus noise: edges, flat places and grain."""
    names = sorted(PHOTOS.glob("*.jpg"))
    with Image.open(names[seed % len(names)]) as image:
        base = image.convert("RGB").resize((width, height))
    grain = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(base, np.int16) + grain, 0, 255).astype(np.uint8))


def same_pixels(path: Path, library: Path) -> None:
    expected = np.asarray(read_image(path))
    found = client().decode(path, library)
    assert found.shape == expected.shape, path.name
    np.testing.assert_array_equal(found, expected, err_msg=path.name)


JPEGS: dict[str, dict[str, Any]] = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2, "quality": 60},
    "progressive": {"progressive": True, "subsampling": 2},
    "rough": {"quality": 3, "subsampling": 2},
    "restarts": {"restart_marker_rows": 1},
    "rgb": {"keep_rgb": True},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs(kind: str, library: Path, tmp_path: Path) -> None:
    for i, size in enumerate([(1, 1), (7, 5), (8, 8), (17, 33), (250, 131), (1, 40)]):
        path = tmp_path / f"{kind}{i}.jpg"
        photo(*size, seed=i).save(path, "JPEG", **JPEGS[kind])
        same_pixels(path, library)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs(mode: str, library: Path, tmp_path: Path) -> None:
    for i, progressive in enumerate([False, True]):
        path = tmp_path / f"{i}.jpg"
        image = photo(61, 37).convert(mode)
        if mode == "CMYK":  # Pillow's own conversion leaves black at 0
            image = Image.merge("CMYK", (*image.split()[:3], photo(61, 37, 1).convert("L")))
        image.save(path, "JPEG", progressive=progressive, quality=90)
        same_pixels(path, library)


def with_exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    make = struct.pack(order + "HHI", 0x010F, 2, 3) + b"ab\0\0"
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, 2) + make + entry + bytes(4)


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_upright(orientation: int, library: Path, tmp_path: Path) -> None:
    image = photo(31, 22)
    tag = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    for order, kind in (("<", 3), (">", 3), ("<", 4), (">", 1)):
        image.save(tmp_path / "exif.jpg", exif=with_exif(orientation, order, kind))
        same_pixels(tmp_path / "exif.jpg", library)
    image.save(tmp_path / "exif.png", exif=with_exif(orientation))
    image.save(tmp_path / "xmp.jpg", xmp=tag)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", tag.decode(), zip=True)
    image.save(tmp_path / "xmp.png", pnginfo=text)
    image.save(tmp_path / "both.jpg", exif=with_exif(6), xmp=tag)
    for name in ("exif.png", "xmp.jpg", "xmp.png", "both.jpg"):
        same_pixels(tmp_path / name, library)


def broken_exif() -> list[bytes]:
    good = with_exif(6)
    return [good[:n] for n in range(6, len(good), 5)] + [good[:10] + b"\xff" * 20, good.replace(b"*\0", b"+\0")]


def test_broken_exif_turns_nothing_and_breaks_nothing(library: Path, tmp_path: Path) -> None:
    image = photo(20, 12)
    plain = io.BytesIO()
    image.save(plain, "JPEG")
    for exif in broken_exif():
        block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        (tmp_path / "x.jpg").write_bytes(plain.getvalue()[:2] + block + plain.getvalue()[2:])
        assert client().decode(tmp_path / "x.jpg", library).shape in ((12, 20, 3), (20, 12, 3))


def png(width: int, height: int, depth: int, kind: int, interlaced: bool, seed: int, extra: bytes = b"") -> bytes:
    """Noise as a PNG of any kind; Pillow writes neither 16-bit colour nor interlaced ones."""
    rng = np.random.default_rng(seed)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x0, y0, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x0, width, dx)), len(range(y0, height, dy))
        stride = (columns * channels * depth + 7) // 8
        for _ in range(rows if columns else 0):
            raw += bytes([int(rng.integers(0, 5))]) + rng.bytes(stride)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", rng.bytes(3 * min(200, 1 << depth))) if kind == 3 else b""
    body = chunk(b"IHDR", head) + palette + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", [0, 2, 3, 4, 6])
def test_pngs(kind: int, interlaced: bool, library: Path, tmp_path: Path) -> None:
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}[kind]
    for depth in depths:
        for i, (width, height) in enumerate([(1, 1), (3, 2), (13, 9), (32, 31)]):
            path = tmp_path / f"{depth}-{i}.png"
            path.write_bytes(png(width, height, depth, kind, interlaced, seed=i))
            same_pixels(path, library)


def test_pngs_of_pillow(library: Path, tmp_path: Path) -> None:
    image = photo(45, 23)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        made = image.convert("L").convert(mode) if mode in ("LA", "I;16") else image.convert(mode)
        made.save(tmp_path / "x.png")
        same_pixels(tmp_path / "x.png", library)
    image.convert("P").save(tmp_path / "x.png", transparency=bytes(range(200)))
    same_pixels(tmp_path / "x.png", library)
    image.quantize(11).save(tmp_path / "x.png", bits=4, transparency=3)
    same_pixels(tmp_path / "x.png", library)


def recipe(rng: np.random.Generator) -> Preprocess:
    color = ("RGB", "BGR", "L")[int(rng.integers(3))]
    channels = 1 if color == "L" else 3
    resize = int(rng.integers(1, 80))
    return Preprocess(
        resize=resize,
        crop=(int(rng.integers(1, resize + 1)), int(rng.integers(1, resize + 1))),
        mean=tuple(rng.normal(0.4, 0.2, channels).tolist()),
        std=tuple(rng.uniform(0.1, 2, channels).tolist()),
        scale=(1 / 255, 1.0, 0.0123)[int(rng.integers(3))],
        interpolation=("bilinear", "bicubic")[int(rng.integers(2))],  # type: ignore[arg-type]
        color=color,  # type: ignore[arg-type]
    )


def by_runner(lib: ctypes.CDLL, pixels: np.ndarray, how: Preprocess) -> np.ndarray:
    out = np.empty((1, 1 if how.color == "L" else 3, *how.crop), np.float32)
    text = json.dumps(asdict(how)).encode()
    height, width = pixels.shape[:2]
    pixels = np.ascontiguousarray(pixels)
    code = lib.edge_lab_preprocess_recipe(text, pixels.ctypes.data, height, width, out.ctypes.data, out.size)
    assert code == 0, lib.edge_lab_last_error().decode()
    return out


def by_python(pixels: np.ndarray, how: Preprocess, *, two_steps: bool = False) -> np.ndarray:
    """edge_lab.preprocess; with `two_steps`, of an image that Pillow resized by its rows first, then its columns.

    The spec says rows first. Pillow 13 does columns first where that saves work (h - h' > 2 (w - w'), such as a photo
    more than twice as high as wide), and then some pixels differ by one.
    """
    channels = 1 if how.color == "L" else 3
    spec = ModelSpec("x", "classify", TensorSpec("x", (1, channels, *how.crop)), how)
    if two_steps:
        image = Image.fromarray(pixels).convert("L" if how.color == "L" else "RGB")
        width, height = resized(pixels, how)
        method = Image.Resampling[how.interpolation.upper()]
        image = image.resize((width, image.height), method).resize((width, height), method)
        pixels = np.asarray(image.convert("RGB"))
    return preprocess(pixels, spec)


def resized(pixels: np.ndarray, how: Preprocess) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    long = how.resize * max(height, width) // min(height, width)
    return (how.resize, long) if width <= height else (long, how.resize)


def columns_first(pixels: np.ndarray, how: Preprocess) -> bool:
    """Whether Pillow 13 leaves the order of the spec."""
    width, height = resized(pixels, how)
    return pixels.shape[0] - height > max(0, 2 * (pixels.shape[1] - width))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def test_six_hundred_random_recipes_and_sizes(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(5)
    compared = 0
    for i in range(600):
        how = recipe(rng)
        height, width = (int(n) for n in rng.integers(1, 120, 2))
        if i % 7 == 0:
            width = how.resize  # one side or both need no resizing
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        if i % 2:
            pixels = (pixels > 127).astype(np.uint8) * 255  # hard edges: bicubic overshoots and is cut off
        found = by_runner(lib, pixels, how)
        assert same_bits(found, by_python(pixels, how, two_steps=True)), (i, how, pixels.shape)
        if not columns_first(pixels, how):
            assert same_bits(found, by_python(pixels, how)), (i, how, pixels.shape)
            compared += 1
    assert compared > 400


def test_every_color_becomes_the_same_grey(lib: ctypes.CDLL) -> None:
    how = Preprocess(64, (64, 64), (0.0,), (1.0,), scale=1.0, color="L")
    rng = np.random.default_rng(0)
    for _ in range(25):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        assert same_bits(by_runner(lib, pixels, how), by_python(pixels, how))


def test_a_very_long_picture_needs_no_more_memory(lib: ctypes.CDLL) -> None:
    how = Preprocess(300, (224, 224), (0.5,) * 3, (0.5,) * 3)
    line = np.random.default_rng(0).integers(0, 256, (1, 50_000, 3), np.uint8)  # resized: 300 x 15 million
    assert np.isfinite(by_runner(lib, line, how)).all()
    short = line[:, 24_000:24_300]
    assert same_bits(by_runner(lib, short, how), by_python(short, how, two_steps=True))


def test_preprocess_refuses_what_would_go_wrong(lib: ctypes.CDLL) -> None:
    good = asdict(Preprocess(32, (32, 32), (0.5,) * 3, (0.5,) * 3))
    pixels, out = np.zeros((4, 4, 3), np.uint8), np.empty((1, 3, 32, 32), np.float32)
    bad = [{"resize": 8}, {"std": [0, 1, 1]}, {"mean": [1]}, {"color": "CMYK"}, {"crop": [0, 32]}, {"scale": "1"}]
    bad += [
        {"resize": 10**9},
        {"crop": [32, 32, 32]},
        {"resize": -1},
        {"interpolation": "nearest"},
        {"std": [1e99] * 3},
    ]
    for change in bad:
        text = json.dumps(good | change).encode()
        assert lib.edge_lab_preprocess_recipe(text, pixels.ctypes.data, 4, 4, out.ctypes.data, out.size) == -1, change
        assert lib.edge_lab_last_error().count(b"\n") == 2
    text = json.dumps(good).encode()
    for height, width, count in ((0, 4, out.size), (-1, 4, out.size), (1 << 40, 1 << 40, out.size), (4, 4, 7)):
        assert lib.edge_lab_preprocess_recipe(text, pixels.ctypes.data, height, width, out.ctypes.data, count) == -1


@pytest.mark.real_data
def test_real_photos(library: Path, lib: ctypes.CDLL, tmp_path: Path) -> None:
    how = Preprocess(256, (224, 224), (127.0,) * 3, (128.0,) * 3, scale=1.0, interpolation="bicubic")
    with zipfile.ZipFile(Path(os.environ["EDGE_LAB_DATA"]) / "imagenet_sample_even.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        for name in names[:: max(1, len(names) // 40)]:
            path = tmp_path / "x.jpg"
            path.write_bytes(archive.read(name))
            same_pixels(path, library)
            pixels = np.asarray(read_image(path))
            assert same_bits(by_runner(lib, pixels, how), by_python(pixels, how)), name


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"some words", "neither JPEG nor PNG"),
        (b"GIF89a" + bytes(40), "it is a GIF picture, and JPEG and PNG are read here"),
        (b"\xff\xd8\xff", "JPEG"),
        (png(9, 9, 8, 2, False, 0)[:90], "cut off"),
        (png(9, 9, 8, 2, False, 0).replace(b"IDAT", b"IDAX"), "PNG"),
        (png(9, 9, 8, 3, False, 0).replace(b"PLTE", b"plTe"), "PNG"),
    ],
)
def test_bad_pictures_are_refused_in_three_lines(content: bytes, why: str, library: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(client().RunnerError, match=why) as caught:
        client().decode(path, library)
    assert str(caught.value).count("\n") == 2


def test_cut_off_jpegs_and_huge_pictures_are_refused(library: Path, tmp_path: Path) -> None:
    photo(200, 150).save(tmp_path / "x.jpg", quality=95)
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(client().RunnerError, match="cut off"):
        client().decode(tmp_path / "x.jpg", library)
    huge = bytearray(png(9, 9, 8, 0, False, 0))
    huge[16:24] = struct.pack(">II", 1 << 30, 1 << 30)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    (tmp_path / "x.png").write_bytes(huge)
    with pytest.raises(client().RunnerError, match="too large to be read"):
        client().decode(tmp_path / "x.png", library)
    for missing in (tmp_path / "none.png", tmp_path):
        with pytest.raises(client().RunnerError, match="can't be read"):
            client().decode(missing, library)


def wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def test_sha256(lib: ctypes.CDLL, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hexes = ctypes.create_string_buffer(65)
    for size in (*range(130), 65535, 65536, 65537, 300_001):
        content = rng.bytes(size)
        (tmp_path / "x").write_bytes(content)
        assert lib.edge_lab_sha256_file(os.fsencode(tmp_path / "x"), hexes) == 0
        assert hexes.value.decode() == hashlib.sha256(content).hexdigest(), size
