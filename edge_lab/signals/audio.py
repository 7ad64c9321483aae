"""From a recording to what a model hears. The reference: the C++ runner and the firmware repeat this arithmetic.

1. A WAV file holds PCM: 8-bit unsigned, (v - 128) / 128; 16, 24 or 32-bit signed, v / 2^(bits - 1); or 32-bit float.
2. Channels become their mean (float64, rounded to float32 once).
3. Another rate is resampled with a Kaiser-windowed sinc (float64, rounded once); see `resample`.
4. The recording is fitted to the model's window: shorter, and zeros go on both sides, `(samples - n) // 2` of them in
   front; longer, and its middle is cut out.

Everything here needs NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from edge_lab.core.errors import DataError, InputError
from edge_lab.signals.wav import LOUDEST, SILENT, open_wav, too_loud

_FULL_SCALE = 32767 / 32768
_CLIPPED = 0.05  # share of samples at full scale above which words can't be told apart any more
_HALF_WIDTH = 16  # of the resampling filter, in zero crossings
_PART = 1 << 14  # output samples that are resampled at once
_BETA = 8.6  # of its Kaiser window: 90 dB of stop band


@dataclass(frozen=True)
class LogMel:
    """A log-mel spectrogram: frames of `window` samples every `hop`, no padding at the ends.

    Each frame is multiplied by a periodic Hann window and transformed (`fft` points); the squared magnitudes are
    summed by `mels` triangular filters, equally spaced on the HTK mel scale from `low_hz` to `high_hz`; the feature is
    `ln(energy + floor)`. Waveforms lie in [-1, 1).
    """

    window: int = 512
    hop: int = 256
    fft: int = 512
    mels: int = 40
    low_hz: float = 60.0
    high_hz: float = 3800.0
    floor: float = 1e-4

    def frames(self, samples: int) -> int:
        """How many frames a waveform of so many samples gives."""
        return 1 + (samples - self.window) // self.hop


@dataclass(frozen=True)
class Listen:
    """How a stream is searched for words; `edge_lab.signals.recognize` says exactly how.

    Attributes:
        hop: samples between two windows.
        smooth: windows whose probabilities are averaged.
        threshold: mean probability from which a word is reported.
        quiet: samples after a word in which no other is reported.
        gate_db: level in dB of full scale; a window without any louder `hop` samples is not given to the network.
        background: label of what is no word; "" if the model has none.
    """

    hop: int = 1600
    smooth: int = 4
    threshold: float = 0.7
    quiet: int = 8000
    gate_db: float = -50.0
    background: str = ""


@dataclass(frozen=True)
class Audio:
    """What a model hears: `samples` at `sample_rate` (Hz).

    `features` None: the program takes the waveform, float32 of shape (1, samples), and computes its features itself.
    Otherwise it takes the log-mel map, float32 of shape (1, 1, frames, mels), which the device computes.
    """

    sample_rate: int = 16000
    samples: int = 16000
    features: LogMel | None = None
    listen: Listen = field(default_factory=Listen)


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording: float32 samples of shape (N,), one channel, in [-1, 1], and their rate in Hz."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def hear(sound: Sound | np.ndarray | Path | str, audio: Audio) -> np.ndarray:
    """The input tensor of one recording: (1, samples) waveform, or (1, 1, frames, mels) features.

    Args:
        sound: a WAV file, a Sound, or float samples (N,) that have the model's rate already.
        audio: of the model's spec.

    Raises:
        DataError: the file can't be read, or the samples are silence, clipped, not from -1 to 1, or no numbers.
        InputError: it is no sound: integers, several channels.
    """
    if isinstance(sound, (str, Path)):
        x = _heard(sound, audio)
    else:
        sound = Sound(sound, audio.sample_rate) if isinstance(sound, np.ndarray) else sound
        samples = checked(sound.samples, "the recording")
        _Level().of(samples).refuse("the recording")
        x = fit(resample(samples, sound.rate, audio.sample_rate), audio.samples)
    if audio.features is None:
        return x.reshape(1, -1)  # x[None] would have a stride of 0, which ExecuTorch's exporter refuses
    features = log_mel(x, audio.sample_rate, audio.features)
    return features.reshape(1, 1, *features.shape)


def _heard(path: str | Path, audio: Audio) -> np.ndarray:
    """What a model hears of a file: its middle, which alone is resampled and kept."""
    with open_wav(path) as wav:
        level = _Level()
        for piece in wav.pieces():
            level = level.of(piece)
        level.refuse(wav.name)
        all_of_it = resampled_length(level.count, wav.rate, audio.sample_rate)
        kept = min(all_of_it, audio.samples)
        first = (all_of_it - kept) // 2

        def read(start: int, end: int) -> np.ndarray:
            wav.seek(start)
            return next(wav.pieces(end - start))

        if wav.rate == audio.sample_rate:
            return fit(read(first, first + kept), audio.samples)
        return fit(_outputs(read, level.count, _ratio(wav.rate, audio.sample_rate), first, kept), audio.samples)


def checked(samples: np.ndarray, name: str) -> np.ndarray:
    """The samples as float32 (N,), if that is what they are.

    Raises:
        InputError: integers, or several channels. DataError: values that are no numbers, or beyond what sound can be.
    """
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise InputError(
            f"{name} is {samples.dtype} {samples.shape}.",
            "sound is floats from -1 to 1, of shape (N,).",
            "average channels: x.mean(axis=1); divide integers: x / 32768 of int16, x / 2**31 of int32.",
        )
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if not math.isfinite(peak):
        raise DataError(
            f"{name} holds values that are no numbers.",
            f"{np.count_nonzero(~np.isfinite(samples))} of {len(samples)} samples are NaN or infinite.",
            "look at what computed them; np.nan_to_num(x) makes them finite.",
        )
    if peak > LOUDEST:
        raise too_loud(name, peak)
    return samples.astype(np.float32, copy=False)


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """The middle `length` samples of a waveform, with zeros on both sides if it is shorter; float32."""
    n = len(samples)
    if n >= length:
        start = (n - length) // 2
        return np.ascontiguousarray(samples[start : start + length], np.float32)
    out = np.zeros(length, np.float32)
    start = (length - n) // 2
    out[start : start + n] = samples
    return out


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A waveform at another rate: `ceil(N * wanted / rate)` float32 samples.

    With wanted/rate = L/M in lowest terms, cutoff c = min(1, L/M) and half width w = 16/c input samples, output n is
    the sum of `x[k] * c * sinc(c (t - k)) * I0(8.6 sqrt(1 - ((t - k)/w)^2)) / I0(8.6)` over |t - k| <= w, t = n M/L.

    Source: Smith, Digital Audio Resampling (ccrma.stanford.edu/~jos/resample); Kaiser's window.
    """
    if rate == wanted or not len(samples):
        return np.asarray(samples, np.float32)
    count = resampled_length(len(samples), rate, wanted)
    return _outputs(lambda a, b: samples[a:b], len(samples), _ratio(rate, wanted), 0, count)


def resampled_length(samples: int, rate: int, wanted: int) -> int:
    """How many samples a recording has at another rate."""
    return -(-samples * wanted // rate)


class Resampler:
    """`resample` of a stream: the same samples, as soon as what they depend on has come."""

    def __init__(self, rate: int, wanted: int) -> None:
        self._same, self._ratio = rate == wanted, _ratio(rate, wanted)
        self._held = np.zeros(0, np.float32)  # input samples from number `_begin` on
        self._begin = self._next = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take any number of samples (N,); those of the other rate that can be computed now, float32."""
        if self._same:
            return np.asarray(samples, np.float32)
        self._held = np.concatenate([self._held, samples])
        (up, down), (taps, reach) = self._ratio, _filters(*self._ratio)
        under = self._begin + len(self._held) - taps.shape[1] - reach  # the last input number whose output is ready
        found = self._until(((under + 1) * up - 1) // down + 1)
        unused = min(max(0, self._next * down // up + reach - self._begin), len(self._held))
        self._held, self._begin = self._held[unused:], self._begin + unused
        return found

    def finish(self) -> np.ndarray:
        """The rest, with zeros after the last sample."""
        up, down = self._ratio
        empty = np.zeros(0, np.float32)
        return empty if self._same else self._until(-(-(self._begin + len(self._held)) * up // down))

    def _until(self, end: int) -> np.ndarray:
        first, self._next = self._next, max(self._next, end)
        total = self._begin + len(self._held)
        read = lambda a, b: self._held[a - self._begin : b - self._begin]  # noqa: E731
        return _outputs(read, total, self._ratio, first, self._next - first)


def _ratio(rate: int, wanted: int) -> tuple[int, int]:
    common = math.gcd(rate, wanted)
    return wanted // common, rate // common


def _outputs(
    read: Callable[[int, int], np.ndarray], total: int, ratio: tuple[int, int], first: int, count: int
) -> np.ndarray:
    """Samples `first` to before `first + count` at the other rate, of `total` that `read(start, end)` gives."""
    up, down = ratio
    taps, reach = _filters(up, down)
    out = np.empty(count, np.float32)
    for begin in range(0, count, _PART):  # a recording of an hour must not become 40 copies of itself
        position = np.arange(first + begin, first + min(begin + _PART, count)) * down
        start = position // up + reach  # first input sample under the filter
        low, high = int(start[0]), int(start[-1]) + taps.shape[1]
        held = read(max(low, 0), min(high, total)).astype(np.float64)
        padded = np.pad(held, (max(-low, 0), max(high - total, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])
        out[begin : begin + _PART] = np.einsum("nt,nt->n", windows[start - low], taps[position % up])
    return out


@lru_cache(maxsize=16)
def _filters(up: int, down: int) -> tuple[np.ndarray, int]:
    """Filter of each of `up` phases, float64 (up, taps), and where it starts: input samples before the output's."""
    cutoff = min(1.0, up / down)
    width = _HALF_WIDTH / cutoff
    first = -math.floor(width)
    offsets = np.arange(first, math.floor(width) + 2)
    t = np.arange(up)[:, None] / up - offsets[None, :]
    inside = np.clip(1 - (t / width) ** 2, 0, None)
    taps = cutoff * np.sinc(cutoff * t) * np.i0(_BETA * np.sqrt(inside)) / np.i0(_BETA)
    taps[np.abs(t) > width] = 0
    return taps, first


@dataclass(frozen=True)
class _Level:
    """How loud the samples of a recording are: how many, the highest, and how many lie at full scale or beyond."""

    count: int = 0
    peak: float = 0.0
    full: int = 0

    def of(self, samples: np.ndarray) -> _Level:
        """With these samples too."""
        level = np.abs(samples)
        peak = float(level.max()) if len(level) else 0.0
        full = int(np.count_nonzero(level >= _FULL_SCALE))
        return _Level(self.count + len(level), max(self.peak, peak), self.full + full)

    def refuse(self, name: str) -> None:
        """Raise DataError for a recording of silence, or one of which much is clipped or beyond full scale."""
        if self.peak < SILENT:
            raise DataError(
                f"{name} is silent.",
                f"its loudest sample is {self.peak:.6f} of full scale.",
                "check the microphone and its level (arecord -l, alsamixer), and record again.",
            )
        clipped = self.full / self.count
        if clipped > _CLIPPED and self.peak > 1:
            raise too_loud(name, self.peak)
        if clipped > _CLIPPED:
            raise DataError(
                f"{name} is clipped.",
                f"{100 * clipped:.0f} % of its samples are at full scale: their true values are lost.",
                "lower the recording level and record again.",
            )


@lru_cache(maxsize=8)
def mel_filters(rate: int, recipe: LogMel) -> np.ndarray:
    """Triangular filters, float32 (mels, fft // 2 + 1), peak 1, on the HTK mel scale: 2595 log10(1 + f/700)."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (recipe.low_hz, recipe.high_hz))
    edges = 700 * (10 ** (np.linspace(low, high, recipe.mels + 2) / 2595) - 1)
    bins = np.arange(recipe.fft // 2 + 1) * rate / recipe.fft
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    filters = np.maximum(filters, 0).astype(np.float32)
    if not filters.any(axis=1).all():
        raise InputError(
            f"{recipe} leaves filters empty.",
            f"its lowest filters are narrower than a bin of {rate / recipe.fft:.0f} Hz.",
            "use fewer mels, a longer fft, or a higher low_hz.",
        )
    filters.setflags(write=False)
    return filters


def hann(window: int) -> np.ndarray:
    """Periodic Hann window, float32 (window,)."""
    angle = 2 * np.pi * np.arange(window) / window
    return (0.5 - 0.5 * np.cos(angle)).astype(np.float32)


def log_mel(waveform: np.ndarray, rate: int, recipe: LogMel) -> np.ndarray:
    """Features of a waveform, float32 (frames, mels): the NumPy twin of what `speechnet` has inside its graph."""
    if len(waveform) < recipe.window:
        raise InputError(
            f"{len(waveform)} samples are too short for a frame.",
            f"a frame has {recipe.window}.",
            "pad the waveform: audio.fit.",
        )
    frames = np.lib.stride_tricks.sliding_window_view(waveform, recipe.window)[:: recipe.hop] * hann(recipe.window)
    power = np.abs(np.fft.rfft(frames, recipe.fft)) ** 2
    energy = power @ mel_filters(rate, recipe).T.astype(np.float64)
    return np.log(energy + recipe.floor).astype(np.float32)


def read_wav(path: Path | str) -> Sound:
    """Read a WAV file: 8, 16, 24 or 32-bit PCM or 32-bit float, any number of channels, any rate.

    Raises:
        DataError: missing, no WAV file, cut off, compressed, empty, or values that are no numbers.
    """
    with open_wav(path) as wav:
        return Sound(np.concatenate(list(wav.pieces())), wav.rate)


def write_wav(path: Path | str, sound: Sound) -> None:
    """Write 16-bit PCM, one channel; values outside [-1, 1) are cut off."""
    import wave

    values = np.clip(np.round(sound.samples * 32768), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(values.tobytes())
