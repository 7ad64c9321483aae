"""`edge-lab listen`: words of a WAV file, of raw samples from a pipe, or of the microphone, as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import DataError, InputError
from edge_lab.formats.runtime import load
from edge_lab.signals.audio import Audio, Resampler
from edge_lab.signals.recognize import Recognizer, Word, microphone
from edge_lab.signals.signature import START, TO_PIPE, sound_in_pipe
from edge_lab.signals.wav import Joined, WavReader, open_wav

PIPE = "-"


def listen(bundle: Path | str, source: Path | str | None) -> Iterator[Word]:
    """Yield the words of a source.

    Args:
        bundle: of a model that takes waveforms (task "keyword").
        source: a WAV file, None for the microphone, or "-" for standard input: a WAV file in a pipe, or raw 16-bit
            little-endian mono samples at the model's rate.

    Raises:
        InputError: the bundle does not hear. DataError: the recording can't be read, or the microphone ended.
        BundleError, MissingTool: the bundle can't run here.
    """
    recognizer, audio = open_recognizer(bundle)
    with ExitStack() as stack:
        for block in _blocks(source, audio, stack):
            yield from recognizer.push(block)


def open_recognizer(bundle: Path | str) -> tuple[Recognizer, Audio]:
    """A recognizer over a bundle's program in its own engine, on one thread."""
    opened = Bundle.load(bundle)
    audio = opened.spec.audio
    if audio is None:
        raise InputError(
            f"{opened.name} does not hear.",
            f"its task is {opened.spec.task!r}, and its spec says nothing about sound.",
            "use a bundle of a model such as speechnet.",
        )
    return Recognizer(load(opened), opened.spec.labels, audio), audio


def _blocks(source: Path | str | None, audio: Audio, stack: ExitStack) -> Iterable[np.ndarray]:
    if source is None:
        return stack.enter_context(microphone(audio.sample_rate))
    if str(source) == PIPE:
        return _from_pipe(sys.stdin.buffer, audio)
    return _resampled(stack.enter_context(open_wav(source)), audio.sample_rate)


def _from_pipe(pipe: BinaryIO, audio: Audio) -> Iterator[np.ndarray]:
    """A WAV file says at its start what it is; other bytes are raw samples at the model's rate."""
    start = pipe.read(START)
    rest = Joined(start, pipe)
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        return _resampled(WavReader(rest, "standard input", None), audio.sample_rate, audio.listen.hop)
    if kind := sound_in_pipe(start):
        raise DataError(f"standard input is {kind}.", "WAV, or raw 16-bit mono samples, can be heard.", TO_PIPE)
    return _raw(rest, audio.listen.hop)


def _resampled(wav: WavReader, wanted: int, length: int = 1 << 17) -> Iterator[np.ndarray]:
    resampler = Resampler(wav.rate, wanted)
    for piece in wav.pieces(length):
        yield resampler.push(piece)
    yield resampler.finish()


def _raw(pipe: Joined, count: int) -> Iterator[np.ndarray]:
    while block := pipe.read(2 * count):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2").astype(np.float32) / 32768
