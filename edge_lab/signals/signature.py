"""What a file is, by its first bytes, where it is not what a reader takes; and the way from it to something that is.

The C++ runner knows the same kinds by the same words (`rpi/runner/src/signature.cpp`). The commands were tried on
Debian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

START = 64  # bytes that are enough
_Family = Literal["picture", "foreign", "sound", "video", "other"]

_TO_PNG = "convert it: convert 'INPUT[0]' OUTPUT.png (Debian: sudo apt install imagemagick)."
_TO_JPEG = "convert it: heif-convert INPUT OUTPUT.jpg (Debian: sudo apt install libheif-examples)."
_FRAME = "take a picture out of it: ffmpeg -i INPUT -frames:v 1 OUTPUT.png (Debian: sudo apt install ffmpeg)."
TO_WAV = "convert it: ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.wav (Debian: sudo apt install ffmpeg)."
TO_PIPE = "pipe raw samples: ffmpeg -i INPUT -f s16le -ar 16000 -ac 1 - | edge-lab listen BUNDLE -"
_UNPACK = "unpack it, and name the file inside."
_SVG = "convert it: rsvg-convert INPUT -o OUTPUT.png (Debian: sudo apt install librsvg2-bin)."
_PAGES = "convert it: pdftoppm -png INPUT OUTPUT (Debian: sudo apt install poppler-utils)."
_ARRAY = "write its values as they are: np.load(INPUT).tofile('x.bin')."
_AGAIN = "copy or download it again."
_PAGE = "download the file itself (on Hugging Face the link with /resolve/, on GitHub the one of the Download button)."


@dataclass(frozen=True)
class Signature:
    """A kind of file: its name, what it holds, and what makes a file of it that is read.

    "picture": Pillow reads it, the runner only JPEG and PNG; "foreign": a picture that neither reads.
    """

    name: str
    family: _Family
    fix: str = ""


_JXL = Signature(
    "a JPEG XL picture", "foreign", "convert it: djxl INPUT OUTPUT.png (Debian: sudo apt install libjxl-tools)."
)
_PICTURES = (
    (0, b"\xff\xd8\xff", Signature("a JPEG picture", "picture")),
    (0, b"\x89PNG\r\n\x1a\n", Signature("a PNG picture", "picture")),
    (0, b"GIF8", Signature("a GIF picture", "picture", _TO_PNG)),
    (8, b"WEBP", Signature("a WebP picture", "picture", _TO_PNG)),
    (0, b"II*\0", Signature("a TIFF picture", "picture", _TO_PNG)),
    (0, b"MM\0*", Signature("a TIFF picture", "picture", _TO_PNG)),
    (0, b"BM", Signature("a BMP picture", "picture", _TO_PNG)),
    (0, b"8BPS", Signature("a Photoshop picture", "picture", _TO_PNG)),
    (0, b"\0\0\0\x0cjP  ", Signature("a JPEG 2000 picture", "picture", _TO_PNG)),
    (0, b"\xff\x0a", _JXL),
    (0, b"\0\0\0\x0cJXL ", _JXL),
)
_SOUNDS = (
    (8, b"WAVE", Signature("a WAV recording", "sound")),
    (0, b"fLaC", Signature("a FLAC recording", "sound")),
    (0, b"OggS", Signature("an Ogg recording (Vorbis or Opus)", "sound")),
    (0, b"ID3", Signature("an MP3 recording", "sound")),
    (0, b"\xff\xfb", Signature("an MP3 recording", "sound")),
    (0, b"\xff\xf3", Signature("an MP3 recording", "sound")),
    (0, b"\xff\xf2", Signature("an MP3 recording", "sound")),
    (0, b"\xff\xf1", Signature("an AAC recording", "sound")),
    (0, b"\xff\xf9", Signature("an AAC recording", "sound")),
    (0, b"#!AMR", Signature("an AMR recording", "sound")),
    (0, b"FORM", Signature("an AIFF recording", "sound")),
    (0, b"caff", Signature("a Core Audio recording", "sound")),
    (0, b".snd", Signature("an AU recording", "sound")),
    (0, b"RF64", Signature("a WAV recording of 64 bits", "sound")),
    (0, b"RIFX", Signature("a WAV recording with its bytes the other way round", "sound")),
    (0, b"0&\xb2u", Signature("a Windows Media file", "video")),
    (0, b"\x1aE\xdf\xa3", Signature("a WebM or Matroska file", "video")),
    (8, b"AVI ", Signature("an AVI video", "video")),
)
LFS_POINTER = Signature(
    "a Git LFS pointer: a note about a file that was not fetched",
    "other",
    "git lfs pull, in the folder of the repository.",
)
WEB_PAGE = Signature("a web page", "other", _PAGE)
XML = Signature("XML: an SVG drawing, or a page about an error", "foreign", _SVG)
_OTHERS = (
    (0, b"version https://git-lfs", LFS_POINTER),
    (0, b"\x1f\x8b", Signature("a gzip archive", "other", _UNPACK)),
    (0, b"PK\x03\x04", Signature("a zip archive", "other", _UNPACK)),
    (
        0,
        b"%PDF",
        Signature("a PDF document", "other", _PAGES),
    ),
    (
        0,
        b"\x93NUMPY",
        Signature("a NumPy array", "other", _ARRAY),
    ),
)
_BRANDS = {  # of files whose second word is "ftyp"
    "heic heix heim heis hevc hevx mif1 msf1": Signature("a HEIC picture, as iPhones take them", "foreign", _TO_JPEG),
    "avif avis": Signature("an AVIF picture", "picture", _TO_PNG),
    "M4A  M4B": Signature("an MPEG-4 recording (m4a)", "sound"),
}


def signature_of(start: bytes) -> Signature | None:
    """The kind of a file by its first bytes (`START` of them); None if it is none of those that are known here."""
    if not start:
        return Signature("an empty file", "other", _AGAIN)
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("latin-1")
        known = (kind for brands, kind in _BRANDS.items() if len(brand) == 4 and brand.strip() in brands.split())
        return next(known, Signature("an MPEG-4 or QuickTime file", "video"))
    for place, mark, kind in (*_PICTURES, *_SOUNDS, *_OTHERS):
        if start[place : place + len(mark)] == mark and (place == 0 or start[:4] == b"RIFF"):
            return kind
    words = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    if words.startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if words.startswith((b"<svg", b"<?xml")):
        return XML
    return Signature("JSON text", "other", "name the file that it is about.") if words.startswith(b"{") else None


def not_a_picture(start: bytes) -> tuple[str, str] | None:
    """(What it is, what to do) of a file of a known kind that is no picture, or none that Pillow can read."""
    kind = signature_of(start)
    if kind is None or kind.family == "picture":
        return None
    if kind.family in ("sound", "video"):
        return f"it is {kind.name}.", "name a picture." if kind.family == "sound" else _FRAME
    return f"it is {kind.name}.", kind.fix


def not_a_recording(start: bytes) -> tuple[str, str] | None:
    """(What it is, what to do) of a file of a known kind that is no WAV."""
    kind = signature_of(start)
    if kind is None or kind.name == "a WAV recording":
        return None
    if kind.family in ("sound", "video"):
        return f"it is {kind.name}, and only WAV is read.", TO_WAV
    return f"it is {kind.name}.", kind.fix if kind.family == "other" else "name a recording."


def sound_in_pipe(start: bytes) -> str:
    """The name of a kind of sound other than WAV that raw samples don't begin with by chance; "" if it is none."""
    kind = signature_of(start)
    rare = start[:1] != b"\xff" and kind is not None and kind.family in ("sound", "video")
    return kind.name if rare and kind is not None else ""
