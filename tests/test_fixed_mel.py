"""The integer front end: close to the float one, without overflow, and its tables as C."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_lab.core.errors import InputError
from edge_lab.signals.audio import LogMel, fit, log_mel
from edge_lab.signals.fixed_mel import _log2, as_floats, c_header, fixed_mel, log2_energy, multiplier, quantized

RATE, RECIPE = 16000, LogMel()


def _integers(waveform: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)
    return values


def _both(samples: np.ndarray, recipe: LogMel = RECIPE) -> tuple[np.ndarray, np.ndarray]:
    floats = log_mel((samples / 32768).astype(np.float32), RATE, recipe)
    return floats, as_floats(log2_energy(samples, fixed_mel(RATE, recipe)))


def test_real_speech_has_the_features_that_floats_give() -> None:
    from edge_lab import data
    from edge_lab.signals.audio import resample

    sounds = data.load_sounds("spoken-digits")
    found = []
    for i in range(0, len(sounds), 4):
        sound = sounds[i]
        floats, fixed = _both(_integers(fit(resample(sound.samples, sound.rate, RATE), RATE)))
        error = floats - fixed
        found.append((10 * np.log10(np.sum(floats**2) / np.sum(error**2)), np.abs(error).max()))
        assert np.corrcoef(floats.ravel(), fixed.ravel())[0, 1] > 0.999999
    sqnr, worst = min(s for s, _ in found), max(e for _, e in found)
    print(
        f"{len(found)} recordings: SQNR at least {sqnr:.1f} dB, largest error {worst:.5f} (an int8 step is about 0.08)"
    )
    assert sqnr > 80
    assert worst < 0.005


@pytest.mark.parametrize(
    ("name", "worst"), [("silence", 1e-3), ("quiet", 5e-3), ("loud", 5e-3), ("extremes", 5e-3), ("constant", 5e-3)]
)
def test_no_level_overflows_or_drowns(name: str, worst: float) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(RATE)
    samples = {
        "silence": np.zeros(RATE, np.int16),
        "quiet": _integers(noise * 2e-4),
        "loud": _integers(noise * 0.5),
        "extremes": np.where(noise > 0, 32767, -32768).astype(np.int16),
        "constant": np.full(RATE, -32768, np.int16),
    }[name]
    floats, fixed = _both(samples)
    assert floats.shape == fixed.shape == (61, 40)
    assert np.abs(floats - fixed).max() < worst


def test_the_loudest_tone_in_every_bin() -> None:
    t = np.arange(RECIPE.window)
    worst = 0.0
    for bin_ in range(1, 256, 5):
        floats, fixed = _both(_integers(np.sin(2 * np.pi * bin_ * t / RECIPE.fft)))
        loud = floats > -4  # 60 dB and more below the tone, rounding of window and samples shows
        worst = max(worst, float(np.abs(floats - fixed)[loud].max(initial=0)))
    assert worst < 0.01


def test_the_logarithm() -> None:
    front = fixed_mel(RATE, RECIPE)
    values = np.array([1, 2, 3, 2**30, 2**31 - 1, 2**31, 2**53 - 1, 2**53 + 1, 2**61 - 1, 2**61], np.int64)
    wanted = np.log2(values.astype(np.float64)) - 43
    assert np.abs(_log2(values, front) / 65536 - wanted).max() < 3e-4


@pytest.mark.parametrize(
    "recipe",
    [replace(RECIPE, window=256, hop=128, fft=256, mels=20), replace(RECIPE, window=256, hop=256, fft=512)],
)
def test_other_recipes(recipe: LogMel) -> None:
    samples = _integers(np.random.default_rng(1).standard_normal(4000) * 0.1)
    floats, fixed = _both(samples, recipe)
    assert floats.shape == fixed.shape
    assert np.abs(floats - fixed).max() < 5e-3


@pytest.mark.parametrize(
    "change", [{"fft": 1024}, {"fft": 500, "window": 500, "hop": 250}, {"hop": 200}, {"fft": 256}, {"high_hz": 9000.0}]
)
def test_recipes_that_the_device_can_not_compute(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="fixed point"):
        fixed_mel(RATE, replace(RECIPE, **change))  # type: ignore[arg-type]


def test_samples_must_be_integers() -> None:
    with pytest.raises(InputError, match="int16"):
        log2_energy(np.zeros(16000, np.float32), fixed_mel(RATE, RECIPE))
    with pytest.raises(InputError, match="int16"):
        log2_energy(np.zeros(100, np.int16), fixed_mel(RATE, RECIPE))


def test_int8_features_are_within_a_step_of_rounded_floats() -> None:
    samples = _integers(np.random.default_rng(2).standard_normal(RATE) * 0.1)
    scale, zero = 0.0789, -3
    floats, _ = _both(samples)
    wanted = np.clip(np.rint(floats / scale) + zero, -128, 127)
    q = quantized(log2_energy(samples, fixed_mel(RATE, RECIPE)), scale, zero).astype(int)
    assert np.abs(q - wanted).max() <= 1
    assert np.mean(q == wanted) > 0.99
    with pytest.raises(InputError, match="scale"):
        multiplier(1e-3)


def test_the_header_holds_every_table() -> None:
    header = c_header(fixed_mel(RATE, RECIPE), 61, 0.08, 5)
    for line in ("#define EL_MEL_FRAMES 61", "#define EL_MEL_ZERO 5", "el_mel_window[512]", "el_mel_cosine[256]"):
        assert line in header
    assert f"{2**30}," in header  # cos 0 in Q30
