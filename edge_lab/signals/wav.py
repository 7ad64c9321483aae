"""The bytes of a WAV file, read without trusting any of them. `edge_lab.signals.audio.read_wav` is the way in."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_lab.core.errors import DataError
from edge_lab.signals.signature import START, TO_WAV, not_a_recording

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_RATES = (4000, 192_000)  # Hz
_UNKNOWN = 0x7FFF0000  # sizes from here on stand in headers that were written before the end was known
_LAYOUT = 40  # bytes of a format chunk that count
_PIECE = 1 << 17  # samples that are read at once
_CANCELLED = 0.01  # the mean of the channels below this share of the loudest: they are opposite
LOUDEST = 8.0  # 18 dB over full scale: floats above it are integers that nobody divided
SILENT = 1e-4  # a peak below this (-80 dB of full scale) is no recording of anything


class WavReader:
    """A WAV file or pipe, read in pieces: a recording of hours takes no more memory than one of a second.

    Args:
        file: open at the first byte; of a pipe only `read` is used.
        name: for messages.
        size: of the file in bytes; None for a pipe, whose end is not known.

    Attributes:
        rate: in Hz.
        count: samples of one channel; None if only the end of a pipe will tell.

    Raises:
        DataError: it is no WAV, compressed, contradicts itself, is cut off, or holds no samples.
    """

    def __init__(self, file: BinaryIO | Joined, name: str, size: int | None) -> None:
        self._file, self.name, self._size, self._at = file, name, size, 0
        self._layout, self._bytes = self._header()
        self._start = self._at
        self.rate = self._layout[2]
        self.count = None if self._bytes is None else self._bytes // _frame(self._layout)

    def pieces(self, length: int = _PIECE) -> Iterator[np.ndarray]:
        """Float32 samples (at most `length`,) from -1 to 1, channels averaged, until the recording ends.

        Raises:
            DataError: values that are no numbers or far beyond full scale; at the end, if the channels cancelled each
                other or a pipe ended before its time.
        """
        peak = loudest = 0.0
        for values in self._values(length):
            mono: np.ndarray = values.mean(axis=1).astype(np.float32)
            peak, loudest = max(peak, float(np.abs(mono).max())), max(loudest, float(np.abs(values).max()))
            if peak > LOUDEST:
                rest = () if self._size is None else self._values(length)
                raise too_loud(self.name, max(peak, *(_peak(more) for more in rest), 0.0))
            yield mono
        if loudest >= SILENT and peak < _CANCELLED * loudest:
            raise DataError(
                f"{self.name} has channels that cancel each other.",
                f"one of its {self._layout[1]} channels reaches {loudest:.6f} of full scale, their mean {peak:.6f}.",
                "keep one channel: ffmpeg -i INPUT -af 'pan=mono|c0=c0' OUTPUT.wav (Debian: sudo apt install ffmpeg).",
            )

    def seek(self, sample: int) -> None:
        """Go on from this sample; files only."""
        self._at = self._start + sample * _frame(self._layout)
        self._seek(self._at)

    def _values(self, length: int) -> Iterator[np.ndarray]:
        """Float64 (N, channels), scaled to full scale."""
        frame, done = _frame(self._layout), self._at - self._start
        while self._bytes is None or done < self._bytes:
            wanted = length * frame if self._bytes is None else min(length * frame, self._bytes - done)
            data = self._take(wanted)
            done += len(data)
            if len(data) < wanted and self._bytes is not None:
                raise _bad(self.name, f"it is cut off: {done} of {self._bytes} bytes")
            data = data[: len(data) // frame * frame]  # a stream may end anywhere
            if not data and done < frame:
                raise _bad(self.name, "it holds no samples")
            if not data:
                return
            form, channels, _, bits = self._layout
            values = _floats(data, bits) if form == _FLOAT else _integers(data, bits)
            if not np.isfinite(values).all():
                raise _bad(self.name, "it holds values that are no numbers")
            yield values.reshape(-1, channels)

    def _header(self) -> tuple[tuple[int, int, int, int], int | None]:
        """The layout, and how many bytes of samples come next (None: until the pipe ends)."""
        head, layout = self._take(START), None
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            raise _no_wav(self.name, head)
        self._back(head, 12)
        while len(head := self._take(8)) == 8:
            size = struct.unpack_from("<I", head, 4)[0]
            if head[:4] == b"data":
                if layout is None:
                    raise _bad(self.name, "its samples come before their format")
                return layout, self._samples(size, _frame(layout))
            body = self._take(min(size, _LAYOUT)) if head[:4] == b"fmt " else b""
            if head[:4] == b"fmt ":
                layout = _layout(body, self.name)
            self._skip(size + size % 2 - len(body))
        raise _bad(self.name, "it holds no samples")

    def _samples(self, size: int, frame: int) -> int | None:
        """Bytes of samples, where the header claims `size`."""
        left = None if self._size is None else self._size - self._at
        if size >= _UNKNOWN or (size == 0 and not self._chunks_follow()):
            if left is None:
                return None
            size = left - left % frame  # a stream may end anywhere
        if left is not None and size > left:
            raise _bad(self.name, f"it is cut off: {left} of {size} bytes")
        if size == 0 or size % frame:
            raise _bad(self.name, "its samples end in the middle of one" if size else "it holds no samples")
        return size

    def _chunks_follow(self) -> bool:
        """Whether the rest of a file is chunks to its end, and not the samples of a stream of unknown length."""
        if self._size is None:
            return False
        at = self._at
        while at + 8 <= self._size:
            self._seek(at)
            head = self._file.read(8)
            if not all(0x20 <= letter < 0x7F for letter in head[:4]):
                break
            size = struct.unpack_from("<I", head, 4)[0]
            at += 8 + size + size % 2
        self._seek(self._at)
        return at >= self._size and at - self._size <= 1

    def _seek(self, to: int) -> None:
        assert not isinstance(self._file, Joined)
        self._file.seek(to)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        self._at += len(data)
        return data

    def _back(self, data: bytes, to: int) -> None:
        """Forget what was read beyond byte `to`."""
        self._at = to
        if self._size is None:
            self._file = Joined(data[to:], self._file)
        else:
            self._seek(to)

    def _skip(self, count: int) -> None:
        if self._size is not None:
            self._at += count
            self._seek(self._at)
            return
        while count > 0 and (data := self._take(min(count, 1 << 16))):
            count -= len(data)


@dataclass
class Joined:
    """What was read of a pipe already, and then the pipe."""

    held: bytes
    pipe: BinaryIO | Joined

    def read(self, count: int) -> bytes:
        """At most `count` bytes; fewer only at the end."""
        first, self.held = self.held[:count], self.held[count:]
        return first + (self.pipe.read(count - len(first)) if len(first) < count else b"")


@contextmanager
def open_wav(path: Path | str) -> Iterator[WavReader]:
    """A WAV file, read in pieces; DataError if it is missing, no WAV file, cut off, compressed or empty."""
    try:
        with Path(path).open("rb") as file:
            yield WavReader(file, str(path), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise DataError(
            f"{path} could not be read as a recording.", str(error), "check the path and its permissions."
        ) from error


def decode(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples of a WAV file that lies in memory, float32 (N,), and their rate in Hz; DataError as `WavReader`."""
    wav = WavReader(io.BytesIO(content), name, len(content))
    return np.concatenate(list(wav.pieces())), wav.rate


def _peak(values: np.ndarray) -> float:
    return float(np.abs(values.mean(axis=1).astype(np.float32)).max())


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


def _no_wav(name: str, head: bytes) -> DataError:
    what, fix = not_a_recording(head) or ("it is no RIFF/WAVE file.", TO_WAV)
    return DataError(f"{name} could not be read as a recording.", what, fix)


def _bad(name: str, why: str) -> DataError:
    return DataError(f"{name} could not be read as a recording.", f"{why}.", TO_WAV)
