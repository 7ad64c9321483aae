"""Pictures of every kind to 8-bit RGB, and the resize of the spec: the wanted part of its result, and no more.

Of 16-bit values the high byte counts (`v >> 8`), as Pillow and libpng read 16-bit colours. Floats and 32-bit integers
are refused: nothing in them says which number is white. PNG and JPEG files that were cut or changed are refused, too
(`edge_lab.signals.damage`). `edge_lab.bundle.spec` says what is done with the pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_lab.core.errors import DataError, InputError
from edge_lab.signals.damage import PNG, damage, opened, without_remarks
from edge_lab.signals.exif import orientation
from edge_lab.signals.signature import START, not_a_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Filter = Literal["bilinear", "bicubic"]
ARRAY_FIX = (
    "of 16 bits: (x >> 8).astype(np.uint8); of floats from 0 to 1: (x * 255).round().astype(np.uint8); "
    "of grey (height, width): np.repeat(x[:, :, None], 3, axis=2)."
)
_TURNS = {  # by EXIF's number; 1 is upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_BAND = 1 << 21  # pixels that are resized at once
_BITS = 22  # of a weight, behind the point: 32 less 8 for a pixel and 2 for the overshoot of bicubic
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture of any mode, which becomes upright 8-bit RGB a few rows at a time: a copy of all of it may be
    more than a device has.

    Args:
        pixels: a PIL image.
        turned: how it lies, as EXIF numbers it (`edge_lab.signals.exif`).
        name: for messages.

    Raises:
        InputError: it has no pixels, or holds floats (mode F) or 32-bit integers (mode I), whose white is not known.
    """

    pixels: Image
    turned: int = 1
    name: str = "the picture"

    def __post_init__(self) -> None:
        image = self.pixels
        if 0 in image.size:
            raise InputError(
                f"{self.name} is empty.", f"it has {image.width} x {image.height} pixels.", "leave it out."
            )
        if image.mode in ("I", "F") and not _is_wide(image):
            raise _no_white(np.asarray(image), image.mode, self.name)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        width, height = self.pixels.size
        return (height, width) if self.turned >= 5 else (width, height)

    def rows(self, first: int = 0, last: int | None = None) -> Image:
        """The upright rows from `first` to before `last` (all), in mode RGB."""
        from PIL import Image

        image, last = self.pixels, self.size[1] if last is None else last
        if (first, last) != (0, self.size[1]):
            image = image.crop(self._box(first, last))
        image = _to_rgb(image, self.pixels)
        if self.turned == 1:
            return image
        upright = image.transpose(Image.Transpose[_TURNS[self.turned]])
        upright.info = {}  # its EXIF would turn it once more
        return upright

    def _box(self, first: int, last: int) -> tuple[int, int, int, int]:
        width, height = self.pixels.size
        if self.turned in (3, 4, 7, 8):  # the last row or column comes first
            first, last = self.size[1] - last, self.size[1] - first
        return (first, 0, last, height) if self.turned >= 5 else (0, first, width, last)


def open_picture(source: Path | str | io.IOBase) -> Picture:
    """Decode an image file that is whole (`edge_lab.signals.damage`).

    Raises:
        DataError: the file is missing, damaged, not an image, or holds floats or 32-bit integers.
    """
    try:
        data = source.read() if isinstance(source, io.IOBase) else Path(source).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no picture {source}.", "nothing exists at that path.", "check the path.") from error
    except OSError as error:
        raise DataError(
            f"{source} can't be read.", f"{error.strerror}.", "check the path, and that you may read it."
        ) from error
    if problem := damage(data):
        raise DataError(f"{source} is damaged.", f"{problem}.", "copy or download it again, or leave it out.")
    return decode_picture(data, str(source))


def decode_picture(data: bytes, name: str) -> Picture:
    """Decode the bytes of an image file; of animations and pages the first.

    Raises:
        DataError: they are no image, or cut off where Pillow sees it, or hold floats or 32-bit integers.
    """
    from PIL import Image

    try:
        image = _loaded(data)
        return Picture(image, orientation(image), name)
    except InputError as error:
        raise DataError(*error.args) from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name} is too large to be read.",
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels; every reader stops there.",
            "make it smaller first.",
        ) from error
    except Exception as error:  # Pillow's readers raise what they like: NotImplementedError, IndexError, struct.error
        raise _unreadable(name, data, error) from error


def _loaded(data: bytes) -> Image:
    """Decoded; a PNG whose remarks Pillow can't read is decoded without them, as libpng does it."""
    try:
        with opened(data) as image:
            image.load()
            return image
    except Exception:
        if not data.startswith(PNG):
            raise
    with opened(without_remarks(data)) as image:
        image.load()
        return image


def _unreadable(name: str, data: bytes, error: Exception) -> DataError:
    unknown = "it is of no kind that Pillow knows." if "BytesIO" in str(error) else ""  # its text holds an address
    what, fix = not_a_picture(data[:START]) or (
        unknown or str(error) or type(error).__name__,
        "open it in an image viewer; save it again as JPEG or PNG, or leave it out.",
    )
    return DataError(f"{name} could not be read as an image.", what, fix)


def read_image(path: Path | str) -> Image:
    """Decode an image file to 8-bit RGB, turned upright (`edge_lab.signals.exif`); 16-bit values give their high byte.

    Raises:
        DataError: the file is missing, damaged, not an image, or holds floats or 32-bit integers.
    """
    return open_picture(path).rows()


def picture_of(image: object) -> Picture:
    """A PIL image, or a uint8 array (height, width, 3), as a Picture; InputError for anything else."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        return Picture(from_array(image))
    if not isinstance(image, Image.Image):
        raise InputError(
            f"the picture is a {type(image).__name__}.",
            "a picture is a path, a PIL image, or a uint8 array (height, width, 3).",
            "pass one of these; a tensor x of shape (3, height, width): (x * 255).byte().permute(1, 2, 0).numpy().",
        )
    return Picture(image)


def _is_wide(image: Image) -> bool:
    """16 bits in whatever Pillow holds them; a PGM's white is 65535."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _to_rgb(image: Image, opened: Image) -> Image:
    """`opened` knows what the file says about its values, which `image`, a part of it, has lost."""
    if _is_wide(opened):
        return _high_bytes(np.asarray(image), opened).convert("RGB")
    if image.mode == "La":  # premultiplied: Pillow knows no other way
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(values: np.ndarray, opened: Image) -> Image:
    from PIL import Image

    bits, inverted = 16, False
    if opened.format == "TIFF":  # Pillow hands 12-bit values and "0 is white" on as they are
        tags = opened.tag_v2  # type: ignore[attr-defined]
        bits, inverted = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_PHOTOMETRIC) == 0
    high = (values >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - high if inverted else high)


def _no_white(values: np.ndarray, mode: str, name: str) -> InputError:
    low, high = float(values.min()), float(values.max())
    white = next((w for w in (1, 255, 65535) if high <= w), high)
    kind = "floats" if mode == "F" else "32-bit integers"
    scaled = f"(np.asarray(image) * {255 / white!r}).clip(0, 255).round().astype(np.uint8)"
    return InputError(
        f"{name} has pixels that are {kind} (mode {mode}), from {low:g} to {high:g}.",
        "nothing in it says which number is white, and a picture of a model has 8 bits.",
        f"if {white:g} is white: Image.fromarray({scaled}).save('scaled.png').",
    )


def from_array(array: np.ndarray) -> Image:
    """A uint8 array (height, width, 3) as a PIL image; InputError for anything else."""
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(
            f"the image array is {array.dtype} {array.shape}.",
            "an image is uint8 with shape (height, width, 3); normalising is this function's work.",
            ARRAY_FIX,
        )
    return Image.fromarray(array)


def resize_and_crop(
    picture: Picture, short: int, crop: tuple[int, int], kind: Filter, mode: Literal["RGB", "L"] = "RGB"
) -> np.ndarray:
    """The centre `crop` (height, width) of a picture whose short side became `short`: uint8 (H, W, channels).

    Equals Pillow's resize of the rows and then of the columns, to the bit. (At once, Pillow 13 takes the columns first
    for pictures that are tall.) Only what the crop needs is computed, a band of rows at a time: beside the picture
    itself this takes a few megabytes, whatever its size and shape.
    """
    width, height = picture.size
    long = short * max(width, height) // min(width, height)
    out_w, out_h = (short, long) if width <= height else (long, short)
    left, top = (out_w - crop[1]) // 2, (out_h - crop[0]) // 2
    places, weights = _taps(height, out_h, top, crop[0], kind)
    first, last = int(places.min()), int(places.max()) + 1
    band = max(1, _BAND // max(width, out_w))
    bands = [
        _across(picture.rows(row, min(row + band, last)).convert(mode), out_w, left, crop[1], kind)
        for row in range(first, last, band)
    ]
    return _weighted(np.concatenate(bands), places - first, weights).reshape(*crop, -1)


def _across(rows: Image, out_w: int, left: int, count: int, kind: Filter) -> np.ndarray:
    """Rows of a picture at `out_w` columns, of these `count` from `left` on: uint8 (rows, count, channels)."""
    from PIL import Image

    if out_w > rows.width:
        places, weights = _taps(rows.width, out_w, left, count, kind)
        pixels = np.asarray(rows).reshape(rows.height, rows.width, -1)
        return _weighted(pixels.swapaxes(0, 1), places, weights).swapaxes(0, 1)
    resized = rows.resize((out_w, rows.height), Image.Resampling[kind.upper()])  # fast, where there is much to add up
    return np.asarray(resized.crop((left, 0, left + count, rows.height))).reshape(rows.height, count, -1)


def _taps(size: int, out: int, start: int, count: int, kind: Filter) -> tuple[np.ndarray, np.ndarray]:
    """Which of `size` values each of `count` outputs from `start` on (of `out` in all) is made of.

    Source: Pillow's Resample.c, whose doubles these are, operation by operation.

    Returns:
        Places and weights (22 bits behind the point), integers (count, taps); a tap that is not used has the weight 0.
    """
    scale = size / out
    stretch = max(scale, 1.0)  # shrinking widens the filter: that is the antialiasing
    reach, step = (1.0 if kind == "bilinear" else 2.0) * stretch, 1.0 / stretch
    centre = (np.arange(start, start + count)[:, None] + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    places = first + np.arange(int(np.ceil(reach)) * 2 + 1)
    used = places < np.minimum((centre + reach + 0.5).astype(np.int64), size)
    x = np.abs((places - centre + 0.5) * step)
    if kind == "bilinear":
        exact = np.where(x < 1, 1 - x, 0.0)
    else:  # Keys, a = -0.5
        inner, outer = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
        exact = np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
    exact = np.where(used, exact, 0.0)
    total = np.zeros(count)
    for tap in exact.T:  # one after the other: another order would round otherwise
        total += tap
    exact /= np.where(total == 0, 1, total)[:, None]
    weights = (exact * (1 << _BITS) + np.where(exact < 0, -0.5, 0.5)).astype(np.int32)
    return np.minimum(places, size - 1), weights


def _weighted(pixels: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Along the first axis: the sums of the pixels at `places` by their weights, rounded to uint8."""
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    sums = np.full((len(places), flat.shape[1]), 1 << (_BITS - 1), np.int32)
    for place, weight in zip(places.T, weights.T, strict=True):
        sums += flat[place] * weight[:, None]
    return (sums >> _BITS).clip(0, 255).astype(np.uint8).reshape(-1, *pixels.shape[1:])
