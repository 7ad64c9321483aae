"""Pictures of every kind become 8-bit pixels or are refused; resizing computes what the crop needs, to the bit."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_lab.bundle.spec import ModelSpec, Preprocess, TensorSpec, preprocess
from edge_lab.core.errors import DataError, InputError
from edge_lab.signals.image import Filter, Picture, read_image, resize_and_crop

AS_IT_IS = Preprocess(24, (24, 24), (0.0,) * 3, (1.0,) * 3, scale=1.0)
SPEC = ModelSpec("m", "classify", TensorSpec("x", (1, 3, 24, 24)), AS_IT_IS)
WIDE = np.random.default_rng(0).integers(0, 65536, (24, 24), np.uint16)
WIDE[0, :4] = 0, 255, 256, 65535


def tiff(values: np.ndarray, bits: int = 16, photometric: int = 1, order: str = "<", kind: int = 1) -> bytes:
    """An uncompressed grey TIFF; 12-bit values are packed."""
    packed = values.astype(f"{order}u2").tobytes() if kind == 1 else values.tobytes()
    if bits == 12:
        high, low = values[:, ::2].astype(np.uint32), values[:, 1::2].astype(np.uint32)
        whole = (high << 12 | low).reshape(-1)
        packed = np.stack([whole >> 16, whole >> 8 & 255, whole & 255], 1).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(packed), 339: kind}
    end = 8 + len(packed)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", end)
    return head + packed + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def pgm(values: np.ndarray, white: int) -> bytes:
    return f"P5\n{values.shape[1]} {values.shape[0]}\n{white}\n".encode() + values.astype(">u2").tobytes()


SIXTEEN = {
    "tiff": (tiff(WIDE), WIDE >> 8),
    "big-endian tiff": (tiff(WIDE, order=">"), WIDE >> 8),
    "tiff, 0 is white": (tiff(WIDE, photometric=0), 255 - (WIDE >> 8)),
    "12-bit tiff": (tiff(WIDE >> 4, bits=12), WIDE >> 8),
    "pgm": (pgm(WIDE, 65535), WIDE >> 8),
    "10-bit pgm": (pgm(WIDE >> 6, 1023), np.round((WIDE >> 6) * (65535 / 1023)).astype(int) >> 8),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_sixteen_bits_give_their_high_byte(name: str, tmp_path: Path) -> None:
    content, wanted = SIXTEEN[name]
    (tmp_path / "x").write_bytes(content)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x"))[:, :, 1], wanted)
    with Image.open(tmp_path / "x") as opened:
        np.testing.assert_array_equal(preprocess(opened, SPEC), preprocess(tmp_path / "x", SPEC))


def test_a_sixteen_bit_png_is_not_white(tmp_path: Path) -> None:
    Image.fromarray(WIDE).save(tmp_path / "x.png")
    pixels = np.asarray(read_image(tmp_path / "x.png"))
    np.testing.assert_array_equal(pixels, np.repeat((WIDE >> 8)[:, :, None], 3, 2))
    np.testing.assert_array_equal(preprocess(Image.fromarray(WIDE), SPEC), preprocess(tmp_path / "x.png", SPEC))


# fmt: off
MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBX",
    "RGBA",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Palette images")
def test_a_picture_of_every_mode_is_right_or_refused(mode: str) -> None:
    """Grey 200 in each of them: its own number of that mode, not what Pillow's conversion to the mode makes of it."""
    grey = {"1": 255, "CMYK": (0, 0, 0, 55), "YCbCr": (200, 128, 128), "LAB": (205, 128, 128), "HSV": (0, 0, 200)}
    grey |= {"RGB": (200,) * 3, "I": 200, "F": 200.0, "LA": (200, 255), "La": (200, 255), "L": 200}
    grey |= dict.fromkeys(("RGBX", "RGBA", "RGBa"), (200, 200, 200, 255))
    if mode in ("P", "PA"):
        image = Image.new("RGB", (30, 24), grey["RGB"]).quantize(2).convert(mode)
    elif mode.startswith("I;16"):
        image = Image.frombytes(mode, (30, 24), np.full(720, 200 << 8, ">u2" if "B" in mode else "<u2").tobytes())
    else:
        image = Image.new(mode, (30, 24), grey[mode])
    if mode in ("I", "F"):
        with pytest.raises(InputError, match=rf"\(mode {mode}\), from 200 to 200.*\n.*white"):
            preprocess(image, SPEC)
        return
    wanted = 255 if mode == "1" else 200
    assert np.abs(preprocess(image, SPEC) - wanted).max() <= (4 if mode == "LAB" else 1)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 255.0), (0.0, 65535.0), (0.0, 70000.0)])
def test_floats_are_refused_with_a_line_that_scales_them(low: float, high: float, tmp_path: Path) -> None:
    ramp = np.linspace(low, high, 30 * 24, dtype=np.float32).reshape(24, 30)
    for values in (ramp, ramp.astype(np.int32)):
        if values.max() > 1 or values is ramp:
            (tmp_path / "x.tif").write_bytes(tiff(values, 32, kind=3 if values is ramp else 2))
            with pytest.raises(DataError, match=r"x\.tif has pixels that are (floats|32-bit integers)") as refused:
                read_image(tmp_path / "x.tif")
            assert str(refused.value).count("\n") == 2
            line = refused.value.fix.split(": ", 1)[1].removesuffix(".").replace("scaled.png", str(tmp_path / "s.png"))
            exec(line, {"np": np, "Image": Image, "image": Image.open(tmp_path / "x.tif")})
            scaled = np.asarray(read_image(tmp_path / "s.png"))
            assert (scaled[0, 0, 0], scaled[-1, -1, 0]) == (0, 255)
            assert len(np.unique(scaled)) > 200


ARRAYS = {
    "of 16 bits": np.full((30, 40, 3), 200 << 8, np.uint16),
    "of floats from 0 to 1": np.full((30, 40, 3), 200 / 255, np.float32),
    "of grey (height, width)": np.full((30, 40), 200, np.uint8),
}


@pytest.mark.parametrize("name", [*ARRAYS, "nothing", "channels first"])
def test_other_arrays_are_refused_with_a_line_that_helps(name: str) -> None:
    x = ARRAYS.get(name, np.zeros((0, 4, 3), np.uint8) if name == "nothing" else np.zeros((3, 9, 9), np.uint8))
    with pytest.raises(InputError, match=str(x.dtype)) as refused:
        preprocess(x, SPEC)
    assert str(x.shape) in refused.value.what
    if name in ARRAYS:
        fixes = dict(part.rsplit(": ", 1) for part in refused.value.fix.removesuffix(".").split("; "))
        repaired = eval(fixes[name], {"x": x, "np": np})
        assert np.abs(preprocess(repaired, SPEC) - 200).max() <= 1


def test_what_is_no_picture() -> None:
    import torch

    with pytest.raises(InputError, match="is a Tensor"):
        preprocess(torch.zeros(3, 8, 8), SPEC)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 x 5 pixels"):
        Picture(Image.new("RGB", (0, 5)))


def in_two_steps(image: Image.Image, short: int, crop: tuple[int, int], kind: Filter) -> np.ndarray:
    """The definition: Pillow's resize of all rows, then of all columns, then the crop."""
    width, height = image.size
    long = short * max(width, height) // min(width, height)
    size = (short, long) if width <= height else (long, short)
    method = Image.Resampling[kind.upper()]
    image = image.resize((size[0], height), method).resize(size, method)
    left, top = (size[0] - crop[1]) // 2, (size[1] - crop[0]) // 2
    return np.asarray(image.crop((left, top, left + crop[1], top + crop[0]))).reshape(*crop, -1)


def test_resizing_the_crop_alone_gives_the_same_bits() -> None:
    rng, grew = np.random.default_rng(1), 0
    for i in range(800):
        height, width = (int(2 ** rng.uniform(0, 8)) for _ in range(2))
        short = int(2 ** rng.uniform(0, 7))
        if short * max(height, width) // min(height, width) > 20_000:
            continue
        crop = (int(rng.integers(1, short + 1)), int(rng.integers(1, short + 1)))
        pixels = rng.integers(0, 256, (height, width, 3) if i % 3 else (height, width), np.uint8)
        if i % 2:
            pixels = (pixels > 127).astype(np.uint8) * 255  # hard edges: bicubic overshoots and is cut off
        image, kind = Image.fromarray(pixels), ("bilinear", "bicubic")[i // 2 % 2]
        wanted = in_two_steps(image, short, crop, kind)  # type: ignore[arg-type]
        found = resize_and_crop(Picture(image), short, crop, kind, image.mode)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, wanted, err_msg=f"{image.size} {short} {crop} {kind}")
        grew += short > min(height, width)
    assert 200 < grew < 700


def test_a_strip_takes_no_more_memory_than_a_square() -> None:
    """With all of its 5 million columns made, 20000 x 1 took 5.7 GB."""
    code = """
import resource, sys
import numpy as np
from PIL import Image
from edge_lab.signals.image import Picture, resize_and_crop
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for size in ((8000, 1), (20000, 1), (1, 20000), (20000, 2), (1, 1), (3_000_000, 1)):
    image = Image.fromarray(np.full((size[1], size[0], 3), 77, np.uint8))
    for kind in ("bilinear", "bicubic"):
        assert (resize_and_crop(Picture(image), 256, (224, 224), kind) == 77).all()
print("good")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "good\n", done.stderr[-500:]


@pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
def test_inputs_have_the_strides_of_their_shape(color: str) -> None:
    """An axis of size 1 may have any stride in NumPy; exporters refuse a stride of 0."""
    channels = 1 if color == "L" else 3
    recipe = Preprocess(24, (24, 24), (0.0,) * channels, (1.0,) * channels, color=color)  # type: ignore[arg-type]
    spec = ModelSpec("m", "classify", TensorSpec("x", (1, channels, 24, 24)), recipe)
    x = preprocess(np.zeros((30, 40, 3), np.uint8), spec)
    for array in (x, spec.input.check(x[0][None]), spec.input.check(np.asfortranarray(x))):
        assert array.strides == np.zeros(array.shape, np.float32).strides


@pytest.mark.slow
def test_a_grey_model_becomes_a_program(artifacts: Path) -> None:
    import torch
    from torch import nn

    import edge_lab

    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    recipe = Preprocess(64, (64, 64), (0.0,), (1.0,), color="L")
    model = edge_lab.from_module(net.eval(), (1, 1, 64, 64), preprocess=recipe, name="grey")
    bundle = edge_lab.to(model, "linux-portable-fp32", out=artifacts)
    x = next(bundle.golden_cases())[1]
    np.testing.assert_allclose(edge_lab.load(bundle)(x), edge_lab.eager(model)(x), rtol=1e-4, atol=1e-5)
