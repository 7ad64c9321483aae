"""The log-mel front end in integers, to the bit as a microcontroller computes it (mcu/src/log_mel.c).

From 16-bit samples to int8 features, frame by frame:

1. window: `(x * w + 256) >> 9`, w in Q15. Samples are then 2^21 times a waveform in [-1, 1).
2. real FFT as a complex one of half the length (even samples real, odd ones imaginary), radix 2, decimation in time,
   32-bit values without scaling: the sum of the window bounds them by 2^29. Twiddle factors are Q30, every product is
   `(sum + 2^29) >> 30`.
3. power, at twice the amplitude: `(re^2 + im^2) >> 16`, so 2^28 times the float power.
4. mel filters in Q15, the floor added: 2^43 times the float energy, in 64 bits.
5. log2 in Q16: the place of the highest bit, and 32 straight lines for the rest (error below 2e-4).
6. int8: `((log2 * m + 2^39) >> 40) + zero` with m = ln 2 / scale in Q24.

Everything here needs NumPy only. Source of the split into half the length: Cooley, Lewis, Welch, The Fast Fourier
Transform Algorithm (1970).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.signals.audio import LogMel, hann, mel_filters

_ENERGY_BITS = 43  # integer energies are 2^43 times those of a waveform in [-1, 1)
_SEGMENTS = 32  # of the logarithm
_ONE = 1 << 16  # of the logarithm's result


@dataclass(frozen=True, eq=False)
class FixedMel:
    """Tables of a recipe, all integers.

    Attributes:
        rate: of the samples, in Hz; `recipe`: what is computed.
        window: Q15, (window,).
        cosine, sine: Q30, (fft / 2,), of the angles -2 pi k / fft.
        first, count: of each filter, (mels,): its first bin and how many; `weights` holds them one after another, Q15.
        floor: in units of the energy.
        logarithm: Q16, (33,): log2(1 + i / 32).
    """

    rate: int
    recipe: LogMel
    window: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray
    floor: int
    logarithm: np.ndarray


@lru_cache(maxsize=8)
def fixed_mel(rate: int, recipe: LogMel) -> FixedMel:
    """The integer tables of a recipe.

    Raises:
        InputError: the transform's length is no power of two from 8 to 512 or shorter than the window, the window is no
            multiple of the hop, or the filters go beyond half the sampling rate.
    """
    n = recipe.fft
    if n not in (8, 16, 32, 64, 128, 256, 512) or recipe.window > n or recipe.window % recipe.hop:
        raise _unfit(recipe, "the fft is a power of two up to 512, no shorter than the window; hops divide the window.")
    if recipe.high_hz > rate / 2:
        raise _unfit(recipe, f"at {rate} Hz there is nothing above {rate // 2} Hz.")
    angle = -2 * np.pi * np.arange(n // 2) / n
    filters = np.rint(mel_filters(rate, recipe).astype(np.float64) * (1 << 15)).astype(np.int64)
    used = [np.flatnonzero(row) for row in filters]
    if not all(len(u) for u in used):
        raise _unfit(recipe, "a filter has no weight that is visible in 16 bits.")
    return FixedMel(
        rate,
        recipe,
        np.rint(hann(recipe.window).astype(np.float64) * (1 << 15)).astype(np.int64),
        np.rint(np.cos(angle) * (1 << 30)).astype(np.int64),
        np.rint(np.sin(angle) * (1 << 30)).astype(np.int64),
        np.array([u[0] for u in used]),
        np.array([u[-1] - u[0] + 1 for u in used]),
        np.concatenate([row[u[0] : u[-1] + 1] for row, u in zip(filters, used, strict=True)]),
        max(1, round(recipe.floor * 2**_ENERGY_BITS)),
        np.rint(np.log2(1 + np.arange(_SEGMENTS + 1) / _SEGMENTS) * _ONE).astype(np.int64),
    )


def _unfit(recipe: LogMel, why: str) -> InputError:
    return InputError(f"{recipe} can't be computed in fixed point.", why, "use another recipe, or floats.")


def log2_energy(samples: np.ndarray, front: FixedMel) -> np.ndarray:
    """int64 (frames, mels): log2 of energy + floor in Q16, of int16 samples (N,)."""
    if samples.dtype != np.int16 or samples.ndim != 1 or len(samples) < front.recipe.window:
        raise InputError(
            f"int16 samples of shape (N,) are needed, not {samples.dtype} {samples.shape}.",
            f"a frame has {front.recipe.window} of them.",
            "np.round(waveform * 32768).astype(np.int16), after audio.fit.",
        )
    recipe = front.recipe
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.int64), recipe.window)[:: recipe.hop]
    windowed = np.zeros((len(frames), recipe.fft), np.int64)
    windowed[:, : recipe.window] = (frames * front.window + 256) >> 9
    power = _power(windowed, front)
    ends = np.cumsum(front.count)
    energy = np.empty((len(frames), recipe.mels), np.int64)
    for band, (first, count, end) in enumerate(zip(front.first, front.count, ends, strict=True)):
        energy[:, band] = power[:, first : first + count] @ front.weights[end - count : end] + front.floor
    return _log2(energy, front)


def _power(frames: np.ndarray, front: FixedMel) -> np.ndarray:
    """int64 (frames, fft / 2): power of every bin below half the sampling rate."""
    re, im = _transform(frames[:, 0::2], frames[:, 1::2], front)
    half = re.shape[1]
    other = -np.arange(half) % half
    even_re, even_im = re + re[:, other], im - im[:, other]
    odd_re, odd_im = im + im[:, other], re[:, other] - re
    k = np.arange(half)
    low = k <= half // 2  # the upper half is computed with its mirror image's numbers, as on the device
    turned_re, turned_im = _times(odd_re, odd_im, front.cosine[k], front.sine[k])
    plus = ((even_re + turned_re) ** 2 + (even_im + turned_im) ** 2) >> 16
    minus = ((even_re - turned_re) ** 2 + (even_im - turned_im) ** 2) >> 16
    found: np.ndarray = np.where(low, plus, minus[:, other])
    return found


def _transform(re: np.ndarray, im: np.ndarray, front: FixedMel) -> tuple[np.ndarray, np.ndarray]:
    """Complex FFT along axis 1, of half the recipe's length."""
    count = re.shape[1]
    bits = count.bit_length() - 1
    order = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(count)])
    re, im = re[:, order].copy(), im[:, order].copy()
    size = 2
    while size <= count:
        half = size // 2
        angle = np.arange(half) * (front.recipe.fft // size)
        r, i = re.reshape(len(re), -1, size), im.reshape(len(im), -1, size)
        top_re, top_im = r[..., :half].copy(), i[..., :half].copy()
        t_re, t_im = _times(r[..., half:], i[..., half:], front.cosine[angle], front.sine[angle])
        r[..., :half], i[..., :half] = top_re + t_re, top_im + t_im
        r[..., half:], i[..., half:] = top_re - t_re, top_im - t_im
        size *= 2
    return re, im


def _times(re: np.ndarray, im: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = 1 << 29
    return (re * cosine - im * sine + half) >> 30, (re * sine + im * cosine + half) >> 30


def _log2(values: np.ndarray, front: FixedMel) -> np.ndarray:
    """log2 in Q16 of positive integer energies, as floats would have them."""
    highest = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    highest -= (values >> highest) == 0  # a value just below a power of two is rounded up to it as a float
    mantissa = np.where(highest >= 31, values >> np.maximum(highest - 31, 0), values << np.maximum(31 - highest, 0))
    segment, rest = (mantissa >> 26) & (_SEGMENTS - 1), (mantissa >> 10) & 0xFFFF
    low, high = front.logarithm[segment], front.logarithm[segment + 1]
    found: np.ndarray = (highest - _ENERGY_BITS) * _ONE + low + (((high - low) * rest) >> 16)
    return found


def as_floats(log2: np.ndarray) -> np.ndarray:
    """float32 features: what `audio.log_mel` computes in floats."""
    found: np.ndarray = (log2 * (math.log(2) / _ONE)).astype(np.float32)
    return found


def multiplier(scale: float) -> int:
    """ln 2 / scale in Q24, from logarithms to int8; InputError if it leaves 32 bits."""
    found = round(math.log(2) / scale * (1 << 24))
    if not 0 < found < 1 << 31:
        raise InputError(
            f"features with a scale of {scale} can't be computed in fixed point.",
            "ln 2 / scale does not fit 32 bits in Q24.",
            "calibrate the model with features of the size that audio.log_mel gives.",
        )
    return found


def quantized(log2: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """int8 features, for a model whose input means `scale * (q - zero)`."""
    q = ((log2 * multiplier(scale) + (1 << 39)) >> 40) + zero
    found: np.ndarray = np.clip(q, -128, 127).astype(np.int8)
    return found


def c_header(front: FixedMel, frames: int, scale: float, zero: int) -> str:
    """The tables for mcu/src/log_mel.c, with the number of frames and the int8 scale of the model."""
    recipe = front.recipe
    numbers = {
        "RATE": front.rate,
        "WINDOW": recipe.window,
        "HOP": recipe.hop,
        "FFT": recipe.fft,
        "BANDS": recipe.mels,
        "FRAMES": frames,
        "FLOOR": f"{front.floor}u",
        "MULTIPLIER": multiplier(scale),
        "ZERO": zero,
    }
    arrays = (
        ("uint16_t", "window", front.window),
        ("int32_t", "cosine", front.cosine),
        ("int32_t", "sine", front.sine),
        ("uint16_t", "first", front.first),
        ("uint16_t", "count", front.count),
        ("uint16_t", "weights", front.weights),
        ("int32_t", "logarithm", front.logarithm),
    )
    title = f"/* Tables of the front end, written by edge_lab.signals.fixed_mel for {recipe}. */"
    lines = [title, "#include <stdint.h>", ""]
    lines += [f"#define EL_MEL_{name} {value}" for name, value in numbers.items()]
    lines += ["", "#ifdef EL_MEL_TABLES"]  # only log_mel.c wants them: elsewhere they would be unused constants
    lines += [
        f"static const {kind} el_mel_{name}[{len(values)}] = {{{', '.join(map(str, values.tolist()))}}};"
        for kind, name, values in arrays
    ]
    return "\n".join([*lines, "#endif"]) + "\n"
