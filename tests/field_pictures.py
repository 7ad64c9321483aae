"""Pictures as they lie about: `pictures()` makes them, always the same ones, with what every reader must do.

READ: Python, the C++ runner and the NumPy client give the same tensor. REFUSED: all three refuse. PILLOW: formats that
only Python reads (animations: their first frame), and the others refuse by name.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

READ, REFUSED, PILLOW = "read", "refused", "pillow"
PHOTO = sorted((Path(__file__).parents[1] / "edge_lab/assets/photos").glob("*.jpg"))[0]
File = tuple[str, bytes, str]  # name, content, what must come of it
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pictures() -> Iterator[File]:
    """Every kind of picture, and files that are none under a picture's name."""
    for part in (_jpegs, _pngs, _turned, _turned_by_text, _odd_pngs, _odd_jpegs, _damaged, _extremes, _others):
        yield from part()


def photo(width: int = 61, height: int = 43, mode: str = "RGB") -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB").resize((width, height)).convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def header(width: int, height: int, depth: int = 8, kind: int = 0, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))


def with_chunks(png: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    """A PNG with more chunks in front of its pixels, or behind them."""
    at = png.rindex(b"IEND") - 4 if behind else png.index(b"IDAT") - 4
    return png[:at] + b"".join(chunks) + png[at:]


def tiff(orientation: int, order: str = "<", kind: int = 3, count: int = 1, tag: int = 0x0112) -> bytes:
    """An EXIF block with one entry more than the orientation."""
    value = {1: "B3x", 3: "H2x", 4: "I", 6: "b3x", 8: "h2x", 9: "i", 11: "f"}[kind]
    entry = struct.pack(f"{order}HHI{value}", tag, kind, count, orientation)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IHHHI4s", 8, 2, 0x010F, 2, 3, b"ab\0\0") + entry + bytes(4)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + block)


def xmp(orientation: object, form: str = '<a tiff:Orientation="{}"/>') -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + form.format(orientation).encode())


def _jpegs() -> Iterator[File]:
    kinds: dict[str, dict[str, Any]] = {
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "420": {"subsampling": 2, "quality": 40},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_rows": 1},
        "rgb": {"keep_rgb": True},
        "best": {"quality": 100},
        "worst": {"quality": 1},
    }
    for name, options in kinds.items():
        for width, height in ((61, 43), (40, 130)):
            yield f"{name}-{width}.jpg", saved(photo(width, height), "JPEG", **options), READ
    for mode in ("L", "CMYK"):
        yield f"{mode}.jpg", saved(photo(mode=mode), "JPEG"), READ
        yield f"{mode}-progressive.jpg", saved(photo(mode=mode), "JPEG", progressive=True), READ


def _pngs() -> Iterator[File]:
    rng = np.random.default_rng(0)
    for kind, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
        for depth in depths:
            bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
            rows = b"".join(b"\0" + rng.bytes(-(-9 * bits // 8)) for _ in range(9))
            palette = chunk(b"PLTE", rng.bytes(3 * min(1 << depth, 200))) if kind == 3 else b""
            yield f"{kind}-{depth}.png", _png(header(9, 9, depth, kind), palette, rows), READ
    for mode in ("RGB", "RGBA", "LA", "P", "1", "L"):
        yield f"{mode}.png", saved(photo(mode=mode), "PNG"), READ
    clear = photo(mode="RGBA")
    clear.putalpha(0)
    yield "clear.png", saved(clear, "PNG"), READ
    yield "clear-palette.png", saved(photo(mode="P"), "PNG", transparency=bytes(256)), READ


def _png(head: bytes, more: bytes, rows: bytes) -> bytes:
    return _SIGNATURE + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _turned() -> Iterator[File]:
    """Orientation by EXIF and XMP: every value, number types that don't count, blocks that can't be read."""
    jpeg, png = saved(photo(31, 22), "JPEG"), saved(photo(31, 22), "PNG")
    for value in range(10):
        yield f"exif{value}.jpg", with_segments(jpeg, exif(tiff(value))), READ
        yield f"exif{value}.png", with_chunks(png, chunk(b"eXIf", tiff(value, ">"))), READ
        yield f"xmp{value}.jpg", with_segments(jpeg, xmp(value)), READ
    for kind in (1, 4, 6, 8, 9, 11):
        for order in "<>":
            block = tiff(6, order, kind)
            yield f"type{kind}{'le' if order == '<' else 'be'}.jpg", with_segments(jpeg, exif(block)), READ
            yield f"type{kind}{'le' if order == '<' else 'be'}.png", with_chunks(png, chunk(b"eXIf", block)), READ
    for count in (0, 2, 1 << 31):
        yield f"count{count}.jpg", with_segments(jpeg, exif(tiff(6, count=count))), READ
    broken = {
        "cut": tiff(6)[:20],
        "header": tiff(6).replace(b"*\0", b"+\0"),
        "order": b"XX" + tiff(6)[2:],
        "far": tiff(6)[:4] + b"\xff" * 4,
        "empty": b"",
        "without": tiff(6, tag=0x0113),
        "twice": b"Exif\0\0" + tiff(6),
    }
    for name, block in broken.items():
        yield f"{name}.jpg", with_segments(jpeg, exif(block)), READ
        yield f"{name}-xmp.jpg", with_segments(jpeg, exif(block), xmp(8)), READ
        yield f"{name}-xmp.png", with_chunks(png, chunk(b"eXIf", block), _itxt(xmp(8)[33:])), READ
    yield "both.jpg", with_segments(jpeg, exif(tiff(6)), xmp(3)), READ
    yield "element.jpg", with_segments(jpeg, xmp(5, "<tiff:Orientation>{}</tiff:Orientation>")), READ
    yield "words.jpg", with_segments(jpeg, xmp("up")), READ
    yield "two-xmp.jpg", with_segments(jpeg, xmp(3), xmp(6)), READ
    yield "in-parts.jpg", with_segments(jpeg, exif(tiff(6)[:21]), exif(tiff(6)[21:])), READ


def _itxt(text: bytes, key: bytes = b"XML:com.adobe.xmp") -> bytes:
    return chunk(b"iTXt", key + b"\0\0\0\0\0" + text)


def _turned_by_text() -> Iterator[File]:
    """Orientation in the texts that ImageMagick writes, in front of the pixels and behind them."""
    png = saved(photo(31, 22), "PNG")

    def profile(block: bytes, name: str = "exif") -> bytes:
        digits = block.hex()
        lines = [digits[i : i + 72] for i in range(0, len(digits), 72)]
        return f"\n{name}\n{len(block):8d}\n".encode() + "\n".join(lines).encode() + b"\n"

    def text(body: bytes, packed: bool, key: bytes = b"Raw profile type exif") -> bytes:
        return chunk(b"zTXt", key + b"\0\0" + zlib.compress(body)) if packed else chunk(b"tEXt", key + b"\0" + body)

    for value in (1, 3, 6, 8, 9):
        for packed in (False, True):
            for behind in (False, True):
                body = text(profile(b"Exif\0\0" + tiff(value)), packed)
                yield f"profile{value}{packed:d}{behind:d}.png", with_chunks(png, body, behind=behind), READ
    yield "app1.png", with_chunks(png, text(profile(b"Exif\0\0" + tiff(6)), True, b"Raw profile type APP1")), READ
    yield "bare.png", with_chunks(png, text(profile(tiff(6)), False)), READ
    yield "no-hex.png", with_chunks(png, text(b"\nexif\n  4\nzz\n", False)), READ
    yield "half-hex.png", with_chunks(png, text(profile(tiff(6))[:-2] + b"\n", False)), READ
    yield "no-lines.png", with_chunks(png, text(b"exif", False)), READ
    yield "profile-and-exif.png", with_chunks(png, text(profile(tiff(6)), False), chunk(b"eXIf", tiff(3))), READ
    yield "xmp-behind.png", with_chunks(png, _itxt(xmp(7)[33:]), behind=True), READ


def _odd_pngs() -> Iterator[File]:
    """Whole pictures with something odd around their pixels."""
    png = saved(photo(), "PNG")
    at, end = png.index(b"IDAT") - 4, png.index(b"IEND") - 4
    body = png[at + 8 : end - 4]
    idat = [chunk(b"IDAT", body[i : i + 100]) for i in range(0, len(body), 100)]
    yield "parts.png", png[:at] + b"".join(idat) + png[end:], READ
    yield "empty-part.png", png[:at] + chunk(b"IDAT", b"") + png[at:], READ
    yield "rest.png", png + b"rest" * 99, READ
    yield "gamma.png", with_chunks(png, chunk(b"gAMA", struct.pack(">I", 100000))), READ
    yield "srgb.png", with_chunks(png, chunk(b"sRGB", b"\0")), READ
    yield "unknown.png", with_chunks(png, chunk(b"prVt", b"words")), READ
    yield "text-sum.png", with_chunks(png, chunk(b"tEXt", b"Title\0words", wrong=1)), READ
    yield "time-sum.png", with_chunks(png, chunk(b"tIME", bytes(7), wrong=1)), READ
    yield "profile.png", with_chunks(png, chunk(b"iCCP", b"P3\0\0" + zlib.compress(bytes(300)))), READ
    yield "bad-profile.png", with_chunks(png, chunk(b"iCCP", b"P3\0\0" + b"no zlib")), READ
    yield "long-text.png", with_chunks(png, chunk(b"zTXt", b"Title\0\0" + zlib.compress(b"x" * 3_000_000))), READ
    yield "text-no-zlib.png", with_chunks(png, chunk(b"zTXt", b"Title\0\0no zlib")), READ
    frames = PngImagePlugin.PngInfo()
    yield "animated.png", saved(photo(), "PNG", save_all=True, append_images=[photo(mode="L")], pnginfo=frames), READ
    yield "no-end.png", png[:end], READ
    palette = saved(photo(mode="P"), "PNG")
    few = chunk(b"PLTE", bytes(range(30)))
    start, stop = palette.index(b"PLTE") - 4, palette.index(b"IDAT") - 4
    yield "few-colours.png", palette[:start] + few + palette[stop:], READ


def _odd_jpegs() -> Iterator[File]:
    jpeg = saved(photo(), "JPEG")
    yield "comment.jpg", with_segments(jpeg, segment(0xFE, b"words")), READ
    yield "fill.jpg", jpeg[:2] + b"\xff\xff\xff" + jpeg[2:], READ
    yield "bare-start.jpg", jpeg[:2] + jpeg[20:], READ  # without JFIF's own segment
    yield "profile.jpg", with_segments(jpeg, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(300))), READ
    yield "two.jpg", jpeg + jpeg, READ
    yield "rest.jpg", jpeg + b"rest" * 99, READ
    yield "thumbnail.jpg", with_segments(jpeg, exif(tiff(1) + jpeg[:9000])), READ
    scan = jpeg.index(b"\xff\xda")
    progressive = saved(photo(), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    many = progressive[:-2] + progressive[last:-2] * 600 + b"\xff\xd9"
    yield "many-scans.jpg", many, REFUSED
    yield "no-scan.jpg", jpeg[:scan] + b"\xff\xd9", REFUSED
    frame = jpeg.index(b"\xff\xc0")
    yield "five.jpg", jpeg[: frame + 9] + b"\5" + jpeg[frame + 10 :], REFUSED
    yield "12-bit.jpg", jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :], REFUSED
    yield "no-rows.jpg", jpeg[: frame + 5] + b"\0\0" + jpeg[frame + 7 :], REFUSED


def _damaged() -> Iterator[File]:
    rng = np.random.default_rng(1)
    for name, options in (("plain", {}), ("progressive", {"progressive": True}), ("grey", {"mode": "L"})):
        jpeg = saved(photo(170, 130, options.pop("mode", "RGB")), "JPEG", **options)
        start = jpeg.rindex(b"\xff\xda") + 20
        for i, place in enumerate(sorted(rng.integers(start, len(jpeg) - 12, 6))):
            yield f"{name}-cut{i}.jpg", jpeg[:place].rstrip(b"\xff"), REFUSED
            yield f"{name}-closed{i}.jpg", jpeg[:place].rstrip(b"\xff") + b"\xff\xd9", REFUSED
    for mode in ("RGB", "P", "I;16"):
        png = saved(photo(170, 130, "L" if mode == "I;16" else mode).convert(mode), "PNG")
        first, last = png.index(b"IDAT") + 4, png.rindex(b"IEND") - 8
        for i, place in enumerate(rng.integers(first, last, 6)):
            yield f"{mode[0]}-cut{i}.png", png[:place], REFUSED
            yield f"{mode[0]}-flip{i}.png", png[:place] + bytes([png[place] ^ 0x55]) + png[place + 1 :], REFUSED
    yield "rows.png", _png(header(2, 300), b"", b"\0\xff\xff" * 3), REFUSED
    yield "head-sum.png", _SIGNATURE + header(2, 3)[:-1] + b"!" + _png(b"", b"", b"\0\1\2" * 3)[8:], REFUSED
    yield "no-pixels.png", _SIGNATURE + header(2, 3) + chunk(b"IEND", b""), REFUSED
    yield "no-palette.png", _png(header(2, 3, 8, 3), b"", b"\0\1\2" * 3), REFUSED


def _extremes() -> Iterator[File]:
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 500), (500, 1), (20000, 2), (60000, 1), (1, 60000)):
        yield f"{width}x{height}.png", saved(Image.new("L", (width, height), 128), "PNG"), READ
    for width, height in ((1, 1), (65500, 1), (1, 65500), (3000, 7)):
        yield f"{width}x{height}.jpg", saved(photo(width, height), "JPEG"), READ
    yield "no-width.png", _png(header(0, 3), b"", b""), REFUSED
    yield "13400x13400.png", saved(Image.new("1", (13400, 13400)), "PNG"), REFUSED
    yield "huge.png", _png(header(1 << 30, 1 << 30), b"", b"\0"), REFUSED


def _others() -> Iterator[File]:
    """Other formats under names that promise a JPEG or PNG."""
    image, grey = photo(), photo(mode="L")
    for form in ("GIF", "WEBP", "AVIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "JPEG2000", "PCX"):
        options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
        yield f"{form.lower()}.jpg", saved(image, form, **options), PILLOW
    yield "animated.jpg", saved(image, "GIF", save_all=True, append_images=[grey.convert("RGB")]), PILLOW
    yield "pages.png", saved(image, "TIFF", save_all=True, append_images=[grey]), PILLOW
    wide = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) << 11)
    yield "wide.png", saved(wide, "TIFF"), PILLOW
    yield "float.png", saved(Image.fromarray(np.full((4, 6), 0.5, np.float32)), "TIFF"), REFUSED
    dds = struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44)
    form = struct.pack("<2I4s5I", 32, 4, b"DX10", 0, 0, 0, 0, 0) + bytes(20) + struct.pack("<5I", 93, 3, 0, 1, 0)
    yield "dds.jpg", b"DDS " + dds + form, REFUSED
    for name, content in foreign().items():
        yield f"it-is-{name}.jpg", content, REFUSED


def foreign() -> dict[str, bytes]:
    """Files of other kinds, of which the first bytes are enough; "text" is of no kind at all."""
    box = b"\0\0\0\x18ftyp"
    return {
        "empty": b"",
        "text": b"these are only words",
        "heic": box + b"heic" + bytes(40),
        "m4a": box + b"M4A " + bytes(40),
        "mp4": box + b"isom" + bytes(40),
        "mov": box + b"qt  " + bytes(40),
        "jxl": b"\xff\x0a" + bytes(40),
        "jxl-box": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
        "svg": b'<?xml version="1.0"?><svg/>',
        "pdf": b"%PDF-1.7\n" + bytes(40),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "page": b"\xef\xbb\xbf\n<!DOCTYPE HTML><html></html>",
        "json": b'{"error": "not found"}',
        "zip": b"PK\3\4" + bytes(40),
        "gz": b"\x1f\x8b\x08" + bytes(40),
        "npy": b"\x93NUMPY\1\0" + bytes(40),
        "flac": b"fLaC" + bytes(40),
        "ogg": b"OggS" + bytes(40),
        "mp3": b"ID3\3" + bytes(40),
        "mp3-bare": b"\xff\xfb\x90" + bytes(40),
        "aac": b"\xff\xf1\x50" + bytes(40),
        "amr": b"#!AMR\n" + bytes(40),
        "aiff": b"FORM\0\0\0\x20AIFF" + bytes(40),
        "au": b".snd" + bytes(40),
        "caf": b"caff\0\1" + bytes(40),
        "webm": b"\x1aE\xdf\xa3" + bytes(40),
        "wma": b"0&\xb2u\x8ef\xcf\x11" + bytes(40),
        "avi": b"RIFF\x20\0\0\0AVI LIST" + bytes(40),
        "rifx": b"RIFX\0\0\0\x20WAVE" + bytes(40),
        "rf64": b"RF64\xff\xff\xff\xffWAVE" + bytes(40),
    }
