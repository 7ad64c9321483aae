"""Pictures of every kind to 8-bit RGB, and the resize of the spec: the wanted part of its result, and no more.

Of 16-bit values the high byte counts (`v >> 8`), as Pillow and libpng read 16-bit colours. Floats and 32-bit integers
are refused: nothing in them says which number is white. PNG and JPEG files that were cut or changed are refused, too
(`edge_lab.damage`). `edge_lab.spec` says what is done with the pixels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_lab.damage import damage
from edge_lab.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Filter = Literal["bilinear", "bicubic"]
ARRAY_FIX = (
    "of 16 bits: (x >> 8).astype(np.uint8); of floats from 0 to 1: (x * 255).round().astype(np.uint8); "
    "of grey (height, width): np.repeat(x[:, :, None], 3, axis=2)."
)
_BITS = 22  # of a weight, behind the point: 32 less 8 for a pixel and 2 for the overshoot of bicubic
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def read_image(path: Path | str) -> Image:
    """Decode an image file to 8-bit RGB, turned upright by its EXIF tag; 16-bit values give their high byte.

    Raises:
        DataError: the file is missing, damaged, not an image, or holds floats or 32-bit integers.
    """
    from PIL import Image, ImageOps

    try:
        data = path.read() if isinstance(path, io.IOBase) else Path(path).read_bytes()
        if problem := damage(data):
            raise DataError(f"{path} is damaged.", f"{problem}.", "copy or download it again, or leave it out.")
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(ImageOps.exif_transpose(image), image, str(path))
    except DataError:
        raise
    except InputError as error:
        raise DataError(*error.args) from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large to be read.",
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels; every reader stops there.",
            "make it smaller first.",
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"there is no picture {path}.", "nothing exists at that path.", "check the path.") from error
    except Exception as error:  # Pillow's readers raise what they like: NotImplementedError, IndexError, struct.error
        raise DataError(
            f"{path} could not be read as an image.",
            str(error) or type(error).__name__,
            "open it in an image viewer; save it again as JPEG or PNG, or leave it out.",
        ) from error


def to_rgb(image: Image, opened: Image | None = None, name: str = "the picture") -> Image:
    """A PIL image of any mode as 8-bit RGB; alpha is dropped.

    Args:
        image: the pixels.
        opened: the image as its file gave it, if `image` is a copy that has lost what the file says about its values.
        name: for messages.

    Raises:
        InputError: it is no PIL image, has no pixels, or holds floats (mode F) or 32-bit integers (mode I), whose white
            is not known.
    """
    from PIL import Image as pillow

    if not isinstance(image, pillow.Image):
        raise InputError(
            f"{name} is a {type(image).__name__}.",
            "a picture is a path, a PIL image, or a uint8 array (height, width, 3).",
            "pass one of these; a tensor x of shape (3, height, width): (x * 255).byte().permute(1, 2, 0).numpy().",
        )
    if 0 in image.size:
        raise InputError(f"{name} is empty.", f"it has {image.width} x {image.height} pixels.", "leave it out.")
    opened = opened or image
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PPM"):  # a PGM's white is 65535
        return _high_bytes(np.asarray(image), opened).convert("RGB")
    if image.mode in ("I", "F"):
        raise _no_white(np.asarray(image), image.mode, name)
    return image.convert("LA" if image.mode == "La" else "RGB").convert("RGB")


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


def resize_and_crop(image: Image, short: int, crop: tuple[int, int], kind: Filter) -> np.ndarray:
    """The centre `crop` (height, width) of an RGB or L image whose short side became `short`: uint8 (H, W, channels).

    Equals Pillow's resize of the rows and then of the columns, to the bit. Of a picture that grows only the crop is
    computed: a strip of 20000 x 1 pixels takes as little memory as a square.
    """
    from PIL import Image

    width, height = image.size
    long = short * max(width, height) // min(width, height)
    out_w, out_h = (short, long) if width <= height else (long, short)
    left, top = (out_w - crop[1]) // 2, (out_h - crop[0]) // 2
    if out_h > height:  # then it is wider as well
        return _grown(np.asarray(image), (out_h, out_w), (top, left), crop, kind)
    if out_h < height:  # in two steps: at once, Pillow 13 takes the vertical pass first for pictures that are tall
        method = Image.Resampling[kind.upper()]
        image = image.resize((out_w, height), method).crop((left, 0, left + crop[1], height))
        image, left = image.resize((crop[1], out_h), method), 0
    pixels = np.asarray(image.crop((left, top, left + crop[1], top + crop[0])))
    return pixels.reshape(*crop, -1)


def _grown(
    pixels: np.ndarray, size: tuple[int, int], start: tuple[int, int], crop: tuple[int, int], kind: Filter
) -> np.ndarray:
    """The window of `crop` at `start` of what `pixels` (height, width[, channels]) become at `size`."""
    down, down_weights = _taps(pixels.shape[0], size[0], start[0], crop[0], kind)
    across, across_weights = _taps(pixels.shape[1], size[1], start[1], crop[1], kind)
    rows = pixels.reshape(*pixels.shape[:2], -1)[down.min() : down.max() + 1]
    middle = _weighted(rows.swapaxes(0, 1), across, across_weights).swapaxes(0, 1)
    return _weighted(middle, down - down.min(), down_weights)


def _taps(size: int, out: int, start: int, count: int, kind: Filter) -> tuple[np.ndarray, np.ndarray]:
    """Which of `size` values each of `count` outputs from `start` on (of `out` in all, more than `size`) is made of.

    Source: Pillow's Resample.c, whose doubles these are, operation by operation.

    Returns:
        Places and weights (22 bits behind the point), integers (count, taps); a tap that is not used has the weight 0.
    """
    reach = 1.0 if kind == "bilinear" else 2.0
    centre = (np.arange(start, start + count)[:, None] + 0.5) * (size / out)
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    places = first + np.arange(2 * int(reach) + 1)
    used = places < np.minimum((centre + reach + 0.5).astype(np.int64), size)
    x = np.abs(places - centre + 0.5)
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
