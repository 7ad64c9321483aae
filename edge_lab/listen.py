"""`edge-lab listen`: words of a WAV file, of raw samples from a pipe, or of the microphone, as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_lab.audio import Audio, read_wav, resample
from edge_lab.bundle import Bundle
from edge_lab.errors import InputError
from edge_lab.recognize import Recognizer, Word, microphone
from edge_lab.runtime import load

PIPE = "-"


def listen(bundle: Path | str, source: Path | str | None) -> Iterator[Word]:
    """Yield the words of a source.

    Args:
        bundle: of a model that takes waveforms (task "keyword").
        source: a WAV file, "-" for raw 16-bit little-endian mono samples from standard input, None for the microphone.

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
        return _raw(sys.stdin.buffer, audio.listen.hop)
    sound = read_wav(source)
    return [resample(sound.samples, sound.rate, audio.sample_rate)]


def _raw(pipe: BinaryIO, count: int) -> Iterator[np.ndarray]:
    while block := pipe.read(2 * count):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2").astype(np.float32) / 32768
