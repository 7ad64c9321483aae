"""Is a picture's file whole? Pillow fills what is missing with black or grey and says nothing.

The C++ runner refuses the same files: libpng checks its sums, and libjpeg says when it met the end of the picture
before the last pixel.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MOST = 1 << 31  # bytes; Pillow's limit of 179 million pixels is less, with 8 bytes each
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # inside of compressed data everything else belongs to it
_LARGE = 1 << 20  # pixels
_MOST_SCANS = 500  # as in the runner
_SOS, _EOI, _ARITHMETIC = 0xDA, 0xD9, (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length


def damage(data: bytes) -> str:
    """What is missing or changed in a file that is a PNG or a JPEG; "" if nothing is, and for files of other kinds."""
    if data.startswith(PNG):
        return _of_png(data)
    if not data.startswith(b"\xff\xd8"):
        return ""
    end, scans = _end_marker(data)
    if scans > _MOST_SCANS:  # a small file of this kind would be decoded for minutes
        return f"the JPEG has over {_MOST_SCANS} scans"
    return "the JPEG ends before its last pixel" if end is not None and _ends_early(data, end) else ""


def opened(data: bytes) -> Image:
    """What Pillow makes of an image file, without its remarks: about large ones, of which it refuses those
    beyond its limit, and about EXIF that can't be read, which counts as none.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")
    return Image.open(io.BytesIO(data))


def _of_png(data: bytes) -> str:
    header, compressed, palette, named = b"", list[bytes](), False, True
    for kind, body, whole in _chunks(data):
        named = named and kind.isalpha()
        if kind == b"IDAT" and not named:
            return "a part of the PNG has no proper name"
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            compressed.append(body)
        palette |= kind == b"PLTE"
        if whole is None and kind == b"IDAT":
            return "the PNG is cut off"
        if not whole and kind in (b"IHDR", b"PLTE", b"IDAT"):
            return f"the checksum of a part of the PNG ({kind.decode('latin-1')}) is wrong: it was changed on its way"
    if len(header) != 13 or not compressed or _raw_bytes(header) > _MOST:
        return ""  # Pillow's business, which refuses pictures that are too large without unpacking them
    if header[9] == 3 and not palette:
        return "the PNG's palette is missing"
    wanted, found, inflate = _raw_bytes(header), 0, zlib.decompressobj()
    try:
        for body in compressed:
            while body and found < wanted:
                found += len(inflate.decompress(body, 1 << 20))
                body = inflate.unconsumed_tail
    except zlib.error as error:
        return f"the PNG's pixels can't be unpacked ({error})"
    return "the PNG ends before its last row" if found < wanted else ""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool | None]]:
    """(Kind, content, whether its checksum is right) of every chunk; None for the last one, if its end is missing."""
    place = len(PNG)
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 12 + length
        if end > len(data):
            yield data[place + 4 : place + 8], b"", None
            return
        kind, body = data[place + 4 : place + 8], data[place + 8 : end - 4]
        yield kind, body, zlib.crc32(kind + body) == int.from_bytes(data[end - 4 : end], "big")
        if kind == b"IEND":
            return
        place = end


def without_remarks(png: bytes) -> bytes:
    """The parts of a PNG that matter here: Pillow refuses a picture for the checksum of a remark, or a long text."""
    kept, keys = [PNG], (b"Raw profile type ", b"XML:com.adobe.xmp\0")
    for kind, body, whole in _chunks(png):
        text = kind in (b"tEXt", b"zTXt", b"iTXt") and body.startswith(keys)
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND") or (whole and (text or kind == b"eXIf")):
            sums = zlib.crc32(kind + body).to_bytes(4, "big")
            kept.append(len(body).to_bytes(4, "big") + kind + body + sums)
    return b"".join(kept)


def _raw_bytes(header: bytes) -> int:
    """Bytes that the pixels of a PNG have when they are unpacked: a byte for the filter and the pixels of each row."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _CHANNELS.get(header[9], 1)
    passes = _ADAM7 if header[12] else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _ends_early(data: bytes, end: int) -> bool:
    """Whether a decoder meets the end marker too early: then bytes that are put before it change the picture."""
    from PIL import Image

    filler = np.random.default_rng(0).integers(0, 255, 4096, np.uint8).tobytes()  # no 255: that begins a marker
    try:
        return _digest(data) != _digest(data[:end] + filler + data[end:])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False  # whoever opens it will hear why


def _end_marker(data: bytes) -> tuple[int | None, int]:
    """Where a decoder meets the end of the pixels, and how many scans there are.

    That is the end marker, or a marker in the middle of a scan that leads nowhere; None: there is none, or nothing can
    be told (arithmetic coding).
    """
    place, scans, stop = 2, 0, None
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return stop, scans
        kind = data[place + 1]
        if kind == 0xFF or kind in _BARE:
            place += 1 if kind == 0xFF else 2
            continue
        if kind == _EOI:
            return place, scans
        if kind in _ARITHMETIC:
            return None, scans
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == _SOS:
            scans += 1
            found = _MARKER.search(data, place)
            if found is None:
                return None, scans
            place = stop = found.start()
    return (place if data[place : place + 2] == b"\xff\xd9" else stop), scans


def _digest(data: bytes) -> int:
    """A sum of a JPEG's pixels, in bands: two pictures at once may be more than there is memory.

    A large one is decoded at an eighth of its size, which still reads all of it; a progressive one is not: detail comes
    last.
    """
    with opened(data) as image:
        if image.width * image.height > _LARGE and not image.info.get("progressive"):
            image.draft(None, (image.width // 8 or 1, image.height // 8 or 1))
        image.load()
        total, band = 0, max(1, (1 << 20) // image.width)
        for top in range(0, image.height, band):
            rows = image.crop((0, top, image.width, min(top + band, image.height)))
            total = zlib.crc32(rows.tobytes(), total)
    return total
