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
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from edge_lab.errors import DataError, InputError
from edge_lab.wav import LOUDEST, SILENT, decode, too_loud

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
    """How a stream is searched for words; `edge_lab.recognize` says exactly how.

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
    name = str(sound) if isinstance(sound, (str, Path)) else "the recording"
    if isinstance(sound, (str, Path)):
        sound = read_wav(sound)
    elif isinstance(sound, np.ndarray):
        sound = Sound(sound, audio.sample_rate)
    samples = checked(sound.samples, name)
    refuse_unusable(samples, name)
    x = fit(resample(samples, sound.rate, audio.sample_rate), audio.samples)
    if audio.features is None:
        return x.reshape(1, -1)  # x[None] would have a stride of 0, which ExecuTorch's exporter refuses
    features = log_mel(x, audio.sample_rate, audio.features)
    return features.reshape(1, 1, *features.shape)


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
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    taps, first = _filters(up, down)
    count = -(-len(samples) * up // down)
    position = np.arange(count) * down
    start = position // up + first  # first input sample under the filter
    padded = np.pad(samples.astype(np.float64), (-first, taps.shape[1] + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])
    out = np.empty(count, np.float32)
    for begin in range(0, count, _PART):  # a recording of an hour must not become 40 copies of itself
        part = slice(begin, begin + _PART)
        filters = taps[position[part] % up]
        out[part] = np.einsum("nt,nt->n", windows[start[part] - first], filters)
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


def refuse_unusable(samples: np.ndarray, name: str) -> None:
    """Raise DataError for a recording of silence, or one of which much is clipped or beyond full scale."""
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if peak < SILENT:
        raise DataError(
            f"{name} is silent.",
            f"its loudest sample is {peak:.6f} of full scale.",
            "check the microphone and its level (arecord -l, alsamixer), and record again.",
        )
    clipped = float(np.mean(np.abs(samples) >= _FULL_SCALE))
    if clipped > _CLIPPED and peak > 1:
        raise too_loud(name, peak)
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
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} could not be read as a recording.", str(error), "check the path and its permissions."
        ) from error
    return Sound(*decode(content, str(path)))


def write_wav(path: Path | str, sound: Sound) -> None:
    """Write 16-bit PCM, one channel; values outside [-1, 1) are cut off."""
    import wave

    values = np.clip(np.round(sound.samples * 32768), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(values.tobytes())
