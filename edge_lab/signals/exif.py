"""Which way up a picture is: one rule for every reader, C++ repeats it (`rpi/runner/src/image.cpp`).

1. EXIF: the first entry 0x0112 of the first IFD, if it is one number of type SHORT or LONG. A value from 1 to 8 counts;
   any other value, type or count means upright, as in most viewers.
2. Where EXIF is missing, can't be read or has no such entry: the first digit behind `tiff:Orientation` in the XMP.

A JPEG's EXIF is the content of its APP1 segments that start with "Exif", joined. A PNG's is its eXIf chunk, or a text
"Raw profile type exif" (or APP1) in hexadecimal, as ImageMagick writes it; wherever it stands in the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
_HEADER = b"Exif\0\0"
_XMP = re.compile(r'tiff:Orientation(?:="|>)([0-9])')
_PROFILES = ("Raw profile type exif", "Raw profile type APP1")


def orientation(image: Image) -> int:
    """1 to 8 as EXIF numbers them, of a picture that was opened from a file and is loaded; 1 is upright."""
    if image.format not in ("JPEG", "MPO", "PNG"):
        return _known(image.getexif().get(_ORIENTATION, 1))
    info = image.info
    block = info.get("exif") or b""
    if image.format == "PNG" and block[len(_HEADER) :][:2] not in (b"II", b"MM"):  # libpng takes no other chunk
        block = b""
    for held in (block, *(_unhexed(info[name]) for name in _PROFILES if name in info)):
        if found := in_tiff(held):
            return found
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or ""
    text = xmp.decode("latin-1") if isinstance(xmp, bytes) else str(xmp)
    match = _XMP.search(text)
    return _known(int(match[1])) if match else 1


def in_tiff(block: bytes) -> int:
    """The orientation that an EXIF block holds: 1 to 8, or 0 if there is no such entry."""
    while block.startswith(_HEADER):
        block = block[len(_HEADER) :]
    order = {b"II": "little", b"MM": "big"}.get(block[:2])

    def number(at: int, width: int) -> int:
        part = block[at : at + width]
        return int.from_bytes(part, "big" if order == "big" else "little") if len(part) == width else 0

    if order is None or number(2, 2) != 42:
        return 0
    first = number(4, 4)
    for entry in range(number(first, 2)):
        at = first + 2 + 12 * entry
        if at + 12 > len(block):
            return 0
        if number(at, 2) == _ORIENTATION:
            width = {_SHORT: 2, _LONG: 4}.get(number(at + 2, 2), 0)
            return _known(number(at + 8, width)) if width and number(at + 4, 4) == 1 else 1
    return 0


def _known(value: Any) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _unhexed(text: str) -> bytes:
    """An ImageMagick profile: an empty line, its name, its length, and the bytes in hexadecimal; b"" if it is none."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""
