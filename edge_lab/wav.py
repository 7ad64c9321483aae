"""The bytes of a WAV file, read without trusting any of them. `edge_lab.audio.read_wav` is the way in."""

from __future__ import annotations

import struct

import numpy as np

from edge_lab.errors import DataError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_RATES = (4000, 192_000)  # Hz
_UNKNOWN = 0x7FFF0000  # sizes from here on stand in headers that were written before the end was known
_CANCELLED = 0.01  # the mean of the channels below this share of the loudest: they are opposite
LOUDEST = 8.0  # 18 dB over full scale: floats above it are integers that nobody divided
SILENT = 1e-4  # a peak below this (-80 dB of full scale) is no recording of anything


def decode(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples as float32 (N,) in [-1, 1], channels averaged, and the rate in Hz; DataError if that can't be had."""
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise _bad(name, "it is no RIFF/WAVE file")
    layout: tuple[int, int, int, int] | None = None
    at = 12
    while at + 8 <= len(content):
        kind, size = content[at : at + 4], struct.unpack_from("<I", content, at + 4)[0]
        body, left = at + 8, len(content) - at - 8
        if kind == b"fmt ":
            layout = _layout(content[body : body + min(size, left)], name)
        elif kind == b"data":
            if layout is None:
                raise _bad(name, "its samples come before their format")
            if size >= _UNKNOWN or (size == 0 and not _chunks_follow(content, body)):
                size = left - left % _frame(layout)  # a stream may end anywhere
            if size > left:
                raise _bad(name, f"it is cut off: {left} of {size} bytes")
            return _samples(content[body : body + size], layout, name), layout[2]
        at = body + size + size % 2
    raise _bad(name, "it holds no samples")


def _chunks_follow(content: bytes, at: int) -> bool:
    """Whether the rest of the file is chunks to its end, and not the samples of a stream of unknown length."""
    while at + 8 <= len(content) and all(0x20 <= letter < 0x7F for letter in content[at : at + 4]):
        size = struct.unpack_from("<I", content, at + 4)[0]
        at += 8 + size + size % 2
    return at >= len(content) and at - len(content) <= 1


def _frame(layout: tuple[int, int, int, int]) -> int:
    """Bytes of one sample of all channels."""
    return layout[1] * layout[3] // 8


def _layout(body: bytes, name: str) -> tuple[int, int, int, int]:
    """(format, channels, rate, bits), checked."""
    if len(body) < 16:
        raise _bad(name, "its format chunk is cut off")
    form, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", body)
    if form == _EXTENSIBLE and len(body) >= 26:
        form = struct.unpack_from("<H", body, 24)[0]
    known = (form == _PCM and bits in (8, 16, 24, 32)) or (form == _FLOAT and bits == 32)
    if not known:
        raise _bad(name, f"its samples are of format {form} with {bits} bits, not PCM of 8, 16, 24, 32 or float32")
    if not 1 <= channels <= 16 or block != channels * bits // 8:
        raise _bad(name, f"its header contradicts itself: {channels} channels of {bits} bits, {block} bytes together")
    if not _RATES[0] <= rate <= _RATES[1]:
        raise _bad(name, f"it claims {rate} samples a second; {_RATES[0]} to {_RATES[1]} are read")
    return form, channels, rate, bits


def _samples(data: bytes, layout: tuple[int, int, int, int], name: str) -> np.ndarray:
    form, channels, _, bits = layout
    if not data or len(data) % _frame(layout):
        raise _bad(name, "its samples end in the middle of one" if data else "it holds no samples")
    values = _floats(data, bits) if form == _FLOAT else _integers(data, bits)
    if not np.isfinite(values).all():
        raise _bad(name, "it holds values that are no numbers")
    mono: np.ndarray = values.reshape(-1, channels).mean(axis=1).astype(np.float32)
    peak, loudest = float(np.abs(mono).max()), float(np.abs(values).max())
    if peak > LOUDEST:
        raise too_loud(name, peak)
    if loudest >= SILENT and peak < _CANCELLED * loudest:
        raise DataError(
            f"{name} has channels that cancel each other.",
            f"one of its {channels} channels reaches {loudest:.6f} of full scale, their mean {peak:.6f}.",
            "keep one channel: sox INPUT OUTPUT.wav remix 1.",
        )
    return mono


def too_loud(name: str, peak: float) -> DataError:
    """The error for samples beyond full scale: floats that are integers in truth, or too loud."""
    white = next((2.0**n for n in (15, 23, 31) if LOUDEST < peak <= 2**n), peak)
    return DataError(
        f"{name} goes beyond full scale.",
        f"its float samples go up to {peak:g}; sound is from -1 to 1.",
        f"divide them by {white:.10g} where they come from.",
    )


def _floats(data: bytes, bits: int) -> np.ndarray:
    return np.frombuffer(data, f"<f{bits // 8}").astype(np.float64)


def _integers(data: bytes, bits: int) -> np.ndarray:
    if bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if bits == 24:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = (parts[:, 0] << 8) | (parts[:, 1] << 16) | (parts[:, 2] << 24)
        return (whole >> 8) / 2.0**23
    return np.frombuffer(data, f"<i{bits // 8}") / 2.0 ** (bits - 1)


def _bad(name: str, why: str) -> DataError:
    return DataError(
        f"{name} could not be read as a recording.",
        f"{why}.",
        "convert it: sox INPUT -r 16000 -c 1 -b 16 OUTPUT.wav.",
    )
