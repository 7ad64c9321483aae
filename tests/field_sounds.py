"""Recordings as they lie about: `sounds()` makes them, always the same ones, with what every reader must do."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import numpy as np
from field_pictures import READ, REFUSED, File, foreign, photo, saved

RATE = 16000


def sounds() -> Iterator[File]:
    """Every kind of recording, and files that are none under a recording's name."""
    for part in (_formats, _streams, _oddities, _refused, _damaged):
        yield from part()
    for name, content in foreign().items():
        yield f"{name}.wav", content, REFUSED
    yield "picture.wav", saved(photo(), "JPEG"), REFUSED


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def wav(
    content: bytes, *, form: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, size: int | None = None,
    before: bytes = b"", behind: bytes = b"",
) -> bytes:  # fmt: skip
    """A WAV file around raw samples; `size`: what its header claims; other chunks before and behind the samples."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate, rate * block, block, bits)
    data = chunk(b"data", content) if size is None else b"data" + struct.pack("<I", size) + content
    body = b"WAVE" + before + chunk(b"fmt ", head) + data + behind
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tones(rate: int, seconds: float = 0.6) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return 0.3 * np.sin(2 * np.pi * 400 * t) + 0.1 * np.sin(2 * np.pi * 1500 * t)


def encoded(samples: np.ndarray, bits: int, floats: bool) -> bytes:
    if floats:
        return samples.astype("<f4").tobytes()
    if bits == 8:
        return np.round(samples * 127 + 128).astype(np.uint8).tobytes()
    whole = np.round(samples * (2.0 ** (bits - 1) - 1)).astype("<i4")
    return (
        whole.astype("<i2").tobytes() if bits == 16 else whole.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    )


def _formats() -> Iterator[File]:
    formats = [(8, False), (16, False), (24, False), (32, False), (32, True)]
    for (bits, floats), channels, rate in itertools.product(formats, (1, 2, 6), (8000, RATE, 44100)):
        samples = np.repeat(tones(rate)[:, None], channels, 1) * np.linspace(1, 0.4, channels)
        content = encoded(samples.reshape(-1), bits, floats)
        name = f"{bits}{'f' if floats else ''}-{channels}-{rate}.wav"
        yield name, wav(content, form=3 if floats else 1, channels=channels, rate=rate, bits=bits), READ
    for rate in (4000, 11025, 22050, 48000, 96000, 192000):
        yield f"rate{rate}.wav", wav(encoded(tones(rate), 16, False), rate=rate), READ
    for length in (1, 2, 7999, 8000, 8001, 31337):
        yield f"length{length}.wav", wav(encoded(tones(RATE, 3)[1 : length + 1], 16, False)), READ


def _streams() -> Iterator[File]:
    content = encoded(tones(RATE), 16, False)
    for size in (0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF):
        yield f"stream{size:x}.wav", wav(content, size=size), READ
        yield f"stream{size:x}-odd.wav", wav(content[:-1], size=size), READ
    yield "empty-stream.wav", wav(b"", size=0xFFFFFFFF), REFUSED


def _oddities() -> Iterator[File]:
    content = encoded(tones(RATE), 16, False)
    words = chunk(b"LIST", b"INFOsome words")
    yield "list.wav", wav(content, before=words), READ
    yield "odd-list.wav", wav(content, before=chunk(b"note", b"odd")), READ
    yield "long-list.wav", wav(content, before=chunk(b"id3 ", bytes(200_001))), READ
    yield "behind.wav", wav(content, behind=words * 3), READ
    yield "odd-behind.wav", wav(content, behind=chunk(b"note", b"odd")[:-1]), READ
    yield "rest.wav", wav(content, behind=b"rest"), READ
    right = encoded(np.stack([tones(RATE), 0 * tones(RATE)], 1).reshape(-1), 16, False)
    yield "one-side.wav", wav(right, channels=2), READ
    loud = tones(RATE) / 0.4 * 1.5
    yield (
        "few-loud.wav",
        wav(encoded(np.where(np.arange(len(loud)) < 9, 1.5, loud / 3), 32, True), form=3, bits=32),
        READ,
    )


def _refused() -> Iterator[File]:
    content, x = encoded(tones(RATE), 16, False), tones(RATE)
    opposite = np.stack([x, -x], 1).reshape(-1)
    yield "opposite.wav", wav(encoded(opposite, 16, False), channels=2), REFUSED
    yield "opposite-floats.wav", wav(encoded(opposite, 32, True), form=3, bits=32, channels=2), REFUSED
    yield "nothing.wav", wav(b""), REFUSED
    yield "then-chunks.wav", wav(b"", behind=chunk(b"LIST", b"words")), REFUSED
    yield "cut.wav", wav(content)[:-5], REFUSED
    yield "half.wav", wav(content[:-1]), REFUSED
    yield "claims.wav", wav(content, size=len(content) + 2), REFUSED
    yield "silent.wav", wav(bytes(8000)), REFUSED
    yield "quiet.wav", wav(encoded(x / 9000, 16, False)), REFUSED
    yield "clipped.wav", wav(encoded(np.clip(9 * x, -1, 1), 16, False)), REFUSED
    for scale in (32768, 8388608.0, 2.0**31):
        yield f"integers{scale:.0f}.wav", wav(encoded(x * scale, 32, True), form=3, bits=32), REFUSED
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        bad = np.where(np.arange(len(x)) == 77, value, x)
        yield f"{name}.wav", wav(encoded(bad, 32, True), form=3, bits=32), REFUSED
    for form, name in ((2, "ms-adpcm"), (6, "a-law"), (7, "mu-law"), (17, "ima"), (85, "mp3"), (0xFF, "aac")):
        yield f"form-{name}.wav", wav(content, form=form, bits=8 if form in (6, 7) else 4), REFUSED
    yield "double.wav", wav(x.astype("<f8").tobytes(), form=3, bits=64), REFUSED
    yield "12-bit.wav", wav(content, bits=12), REFUSED
    yield "0-channels.wav", wav(content, channels=0), REFUSED
    yield "17-channels.wav", wav(content + bytes(2), channels=17), REFUSED
    yield "slow.wav", wav(content, rate=3999), REFUSED
    yield "fast.wav", wav(content, rate=192001), REFUSED
    yield "samples-first.wav", b"RIFF\0\0\0\0WAVE" + chunk(b"data", content) + wav(content)[12:], REFUSED
    yield "no-format.wav", b"RIFF\0\0\0\0WAVE" + chunk(b"LIST", b"words"), REFUSED


def _damaged() -> Iterator[File]:
    """A header with one byte changed: whatever comes of it, it is the same in every reader."""
    whole, rng = wav(encoded(tones(RATE), 16, False)), np.random.default_rng(2)
    for place in range(12, 44):
        value = int(rng.integers(1, 256))
        yield f"byte{place}.wav", whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1 :], ""
