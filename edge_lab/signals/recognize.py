"""Words in a stream of sound: the window that moves, the gate, the smoothing. The C++ runner repeats this exactly.

Every `hop` samples (of `ModelSpec.audio.listen`) the newest `samples` are looked at; before the stream began there were
zeros. At each such moment t:

1. *Gate.* The window's hops, newest first, have levels in dB of full scale, `10 log10(mean(x^2))`. If none of them
   reaches `gate_db`, the network is not called and the probabilities are 1 for the background and 0 for the rest.
2. Otherwise they are the softmax of the network's output.
3. *Smoothing.* The mean of the last `smooth` probabilities (of fewer, right after a start) counts.
4. The best label other than the background is a word if its mean reaches `threshold`, `smooth` windows have been
   averaged, and t is not within `quiet` samples after the last word.
5. After a word the window and the means start afresh: what was heard is zeros from now on.

Needs NumPy, and something that maps a waveform to logits: a Session, or any other function.
"""

from __future__ import annotations

import math
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from edge_lab.core.errors import DataError, InputError, MissingTool
from edge_lab.signals.audio import Audio, checked

_BLOCK = 1600  # samples that a microphone is read in: a tenth of a second at 16 kHz
_NO_SOUND = 1e-10  # -100 dB: the logarithm of silence


@dataclass(frozen=True)
class Word:
    """A word that was heard: its label, the mean probability, and when it was reported (seconds from the start)."""

    label: str
    probability: float
    seconds: float


@dataclass(frozen=True)
class Effort:
    """How much listening cost: windows looked at, and windows for which the network was called."""

    windows: int = 0
    calls: int = 0


class Recognizer:
    """Finds words in a stream: `for word in recognizer.push(samples)`.

    Args:
        network: waveform, float32 (1, samples), to logits (1, classes); a Session of a bundle that takes waveforms.
        labels: of the logits.
        audio: of the model's spec, with `features` None.

    Raises:
        InputError: the model takes features, not waveforms, or the background is none of its labels.
    """

    def __init__(self, network: Callable[[np.ndarray], np.ndarray], labels: tuple[str, ...], audio: Audio) -> None:
        if audio.features is not None:
            raise InputError(
                "this model takes features, not sound.",
                "it was made for a device that computes the log-mel map by itself.",
                "use a bundle of the same model for another target, such as pi-xnnpack-fp32.",
            )
        if audio.listen.background and audio.listen.background not in labels:
            raise InputError(
                f"the background {audio.listen.background!r} is no label of this model.",
                f"its labels are {', '.join(labels)}.",
                "make the spec's audio.listen.background one of them, or empty.",
            )
        self._network, self._labels, self._audio = network, labels, audio
        self._window = np.zeros(audio.samples, np.float32)
        self._pending = np.zeros(0, np.float32)
        self._recent: deque[np.ndarray] = deque(maxlen=audio.listen.smooth)
        self._now = 0
        self._silent_until = 0
        self.effort = Effort()

    def push(self, samples: np.ndarray) -> Iterator[Word]:
        """Take any number of samples (floats (N,), at the model's rate) and yield the words that they complete.

        Raises:
            InputError, DataError: the samples are no sound: integers, several channels, not from -1 to 1.
        """
        hop = self._audio.listen.hop
        self._pending = np.concatenate([self._pending, checked(samples, "the sound")])
        while len(self._pending) >= hop:
            new, self._pending = self._pending[:hop], self._pending[hop:]
            kept = self._window[hop:] if hop < len(self._window) else self._window[:0]
            self._window = np.concatenate([kept, new[-len(self._window) :]])
            self._now += hop
            if (word := self._step()) is not None:
                yield word

    def _step(self) -> Word | None:
        listen = self._audio.listen
        self._recent.append(self._probabilities())
        if len(self._recent) < listen.smooth or self._now < self._silent_until:
            return None
        mean = np.stack(self._recent).mean(axis=0)
        if listen.background:
            mean[self._labels.index(listen.background)] = -1
        best = int(mean.argmax())
        if mean[best] < listen.threshold:
            return None
        self._recent.clear()
        self._window[:] = 0
        self._silent_until = self._now + listen.quiet
        return Word(self._labels[best], float(mean[best]), self._now / self._audio.sample_rate)

    def _probabilities(self) -> np.ndarray:
        calls = self.effort.calls
        if self._loudest() < self._audio.listen.gate_db:
            found = np.array([float(label == self._audio.listen.background) for label in self._labels])
        else:
            calls += 1
            logits = np.asarray(self._network(self._window[None]), np.float64).reshape(-1)
            powers = np.exp(logits - logits.max())
            found = powers / powers.sum()
        self.effort = Effort(self.effort.windows + 1, calls)
        return found

    def _loudest(self) -> float:
        """Level of the loudest hop in the window, in dB of full scale; hops are counted from the newest sample."""
        hop = min(self._audio.listen.hop, len(self._window))
        whole = len(self._window) // hop * hop
        power = np.square(self._window[-whole:], dtype=np.float64).reshape(-1, hop).mean(axis=1)
        return 10 * math.log10(max(float(power.max()), _NO_SOUND))


def words(recognizer: Recognizer, samples: np.ndarray) -> list[Word]:
    """All words of a recording that is at hand as a whole (float32, at the model's rate)."""
    return list(recognizer.push(samples))


@contextmanager
def microphone(rate: int, command: tuple[str, ...] = ()) -> Iterator[Iterable[np.ndarray]]:
    """Blocks of float32 samples of the default microphone, a tenth of a second each, until the program ends.

    Args:
        rate: in Hz.
        command: a program that writes raw 16-bit little-endian mono samples; default: ALSA's `arecord`.

    Raises:
        MissingTool: the program is not installed. DataError: it ended, as without a microphone.
    """
    given = command or ("arecord", "-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(rate))
    try:
        process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise MissingTool(
            f"{given[0]} could not be started, so there is no microphone.",
            str(error),
            "on Linux: sudo apt install alsa-utils. Elsewhere pipe raw samples: sox -d -t raw ... | edge-lab listen -",
        ) from error
    try:
        yield _blocks(process, given[0])
    finally:
        process.terminate()
        process.wait()


def _blocks(process: subprocess.Popen[bytes], name: str) -> Iterator[np.ndarray]:
    assert process.stdout is not None
    assert process.stderr is not None
    while block := process.stdout.read(2 * _BLOCK):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2").astype(np.float32) / 32768
    if process.wait() != 0:
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise DataError(
            f"{name} ended with status {process.returncode}.",
            said[-1] if said else "it said nothing.",
            "arecord -l lists the microphones; choose one with ALSA's default device (~/.asoundrc).",
        )
