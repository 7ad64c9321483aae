"""Recordings, disturbed in many ways and turned into features once, so that many trainings can share the work.

What is done to a word: speed (and with it pitch and formants), place in the window, a random equaliser and room
(exponentially decaying noise as impulse response; Ko et al. 2017 for the idea), noise from white to brown or babble,
and level. Disturbing two thousand recordings forty times takes minutes; a training on the result takes no longer
than on the recordings themselves. A large network may listen along (`Ears`), before the word is disturbed, so that a
small one can learn from what it heard (distillation with privileged information; Lopez-Paz et al. 2016).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.core.files import locked, writing_file
from edge_lab.signals.audio import Audio, LogMel

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from edge_lab.data import SoundSet

_CHUNK = 128  # recordings that are disturbed together, with random numbers of their own
_FFT = 32768
_BLOCK = 160  # samples over which loudness is told
_LONGEST = 24000  # samples of a recording that are used
_SHORTEST = 1600  # samples that must be left of a word
_BANDS_HZ = (0.0, 150.0, 400.0, 800.0, 1500.0, 2500.0, 4000.0, 8000.0)


@dataclass(frozen=True)
class Disturb:
    """Ranges (lowest, highest) that every copy draws from.

    Attributes:
        speed: factor; also moves pitch and formants.
        equaliser_db: gain of each of eight bands.
        room_s: reverberation time; 60 % of the copies are in a room.
        snr_db: of the noise, against the word.
        level_db: of the word, in dB of full scale.
        background_db: of recordings that hold no word.
        clean: share of copies without added noise.
        dry: share of copies without equaliser and room.
        cut: share of copies whose noise begins and ends with the word, as in a recording cut out of a longer one.
        tight: share of copies whose quiet beginning and end are cut off, as detectors of speech do: a hiss at the
            start of a word goes with them.
        tight_db: of these, what is quiet, against the loudest 10 ms of the word.
        narrow: share of copies that end below `narrow_hz`, as recordings at 8 kHz and over telephones do.
        narrow_hz: where the band of these ends.
        seed: of all of it.
    """

    speed: tuple[float, float] = (0.77, 1.25)
    equaliser_db: tuple[float, float] = (-7.0, 7.0)
    room_s: tuple[float, float] = (0.03, 0.4)
    snr_db: tuple[float, float] = (3.0, 45.0)
    level_db: tuple[float, float] = (-42.0, -12.0)
    background_db: tuple[float, float] = (-75.0, -15.0)
    clean: float = 0.3
    dry: float = 0.35
    cut: float = 0.5
    tight: float = 0.6
    tight_db: tuple[float, float] = (-36.0, -6.0)
    narrow: float = 0.6
    narrow_hz: tuple[float, float] = (3400.0, 4000.0)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Ears:
    """A network that was trained on many more voices than there are here, and whose embeddings can be learnt from.

    Attributes:
        name: changes with the network and with how it is used.
        width: of an embedding.
        hear: float32 waveforms (n, samples), peak 1, to embeddings (n, width).
    """

    name: str
    width: int
    hear: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Bank:
    """Features of disturbed recordings.

    Attributes:
        features: float16 (N, frames, mels), on disk.
        targets: int64 (N,): index of the word, the number of words for background.
        speakers: (N,) of str: set and speaker as "fsdd/george", "background" for noise.
        names: (N,) of str: set and recording as "fsdd/0_george_3.wav", "background" for noise.
        key: changes with the recordings and with what was done to them.
        embeddings: float16 (N, width), on disk: what `Ears` heard of each word at its speed and place, without room,
            equaliser and noise. None without `Ears`; zeros for background.
    """

    features: np.ndarray
    targets: np.ndarray
    speakers: np.ndarray
    names: np.ndarray
    key: str = ""
    embeddings: np.ndarray | None = None


def make_bank(
    sets: Sequence[tuple[SoundSet, int]],
    audio: Audio,
    recipe: LogMel,
    folder: Path,
    *,
    background: int = 12000,
    disturb: Disturb | None = None,
    ears: Ears | None = None,
    progress: bool = True,
) -> Bank:
    """Disturb every recording of every set so many times, and add `background` windows without a word.

    What was made stays in `folder` (700 MB for 120,000 windows); a run that was killed goes on at the chunk it was at.

    Args:
        sets: recordings and how many copies of each. Recordings with target -1 become background.
        audio: rate and length of the window.
        recipe: of the features.
        folder: where the bank is kept.
        background: windows of noise and babble alone.
        disturb: how; default `Disturb()`.
        ears: hears every word too, before it is disturbed.
        progress: a bar on stderr.
    """
    disturb = disturb or Disturb()
    if len({s.labels for s, _ in sets}) != 1:
        raise InputError("the sets have different words.", "a bank has one list of targets.", "give sets of one kind.")
    window = (audio.sample_rate, audio.samples)
    settings = [asdict(disturb), window, asdict(recipe), background, [(s.fingerprint, n) for s, n in sets]]
    settings += [ears.name] if ears else []
    path = folder / f"bank-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}.npy"
    order = np.concatenate([*_copies(sets), -np.ones(background, np.int64)])
    with locked(path):
        if not path.exists():
            _fill(path, order, _Maker(sets, audio, recipe, disturb, ears), progress)
    targets = np.concatenate([s.y for s, _ in sets])
    words = len(sets[0][0].labels)
    speakers = np.array([f"{s.name}/{who}" for s, _ in sets for who in s.speakers])
    known = order >= 0
    found = np.where(known, targets[order], -1)
    names = np.array([f"{s.name}/{name}" for s, _ in sets for name in s.names])
    who, which = (np.where(known, one[order], "background") for one in (speakers, names))
    embeddings = np.load(_heard(path), mmap_mode="r") if ears else None
    return Bank(np.load(path, mmap_mode="r"), np.where(found < 0, words, found), who, which, path.stem, embeddings)


def _copies(sets: Sequence[tuple[SoundSet, int]]) -> list[np.ndarray]:
    """Indices into all recordings one after another, each as often as its set is copied."""
    ends = np.cumsum([len(s) for s, _ in sets])
    return [np.tile(np.arange(end - len(s), end), n) for end, (s, n) in zip(ends, sets, strict=True)]


def _heard(path: Path) -> Path:
    """Where the embeddings of a bank are."""
    return path.with_name(path.stem + "-heard.npy")


def _fill(path: Path, order: np.ndarray, maker: _Maker, progress: bool) -> None:
    import torch
    from tqdm import tqdm

    parts = {whole.with_suffix(".part.npy"): whole for whole in (path, _heard(path))}
    mark = path.with_suffix(".done")
    started = int(mark.read_text()) if mark.exists() and all(part.exists() for part in parts) else 0
    shapes = ((len(order), *maker.shape), (len(order), maker.width))
    out, heard = (
        np.lib.format.open_memmap(part, "r+" if started else "w+", np.float16, shape)  # type: ignore[no-untyped-call]
        for part, shape in zip(parts, shapes, strict=True)
    )
    chunks = range(started, -(-len(order) // _CHUNK))
    with torch.inference_mode(), tqdm(chunks, desc="disturbing", disable=not progress, leave=False) as bar:
        for chunk in bar:
            some = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
            out[some], heard[some] = maker.windows(order[some], chunk)
            if chunk % 64 == 63:
                out.flush()
                heard.flush()
                with writing_file(mark) as temporary:
                    temporary.write_text(str(chunk + 1))
    out.flush()
    heard.flush()
    del out, heard
    for part, whole in reversed(parts.items()):
        part.rename(whole)
    mark.unlink(missing_ok=True)


class _Maker:
    """The recordings in one tensor, and what is done to them."""

    def __init__(
        self,
        sets: Sequence[tuple[SoundSet, int]],
        audio: Audio,
        recipe: LogMel,
        disturb: Disturb,
        ears: Ears | None = None,
    ) -> None:
        import torch

        from edge_lab.zoo.speech_layers import FrontEnd

        waves = [w[:_LONGEST] for s, _ in sets for w in s.waveforms(audio.sample_rate)]
        self.waves = torch.zeros(len(waves), _LONGEST)
        for i, wave in enumerate(waves):
            self.waves[i, : len(wave)] = torch.from_numpy(wave / max(float(np.abs(wave).max()), 1e-6))
        self.lengths = torch.tensor([len(w) for w in waves])
        blocks = self.waves.view(len(waves), -1, _BLOCK).square().mean(2)
        self.loudness = 10 * torch.log10(blocks / blocks.amax(1, keepdim=True).clamp(min=1e-9) + 1e-9)
        self.audio, self.disturb, self.ears = audio, disturb, ears
        self.shape, self.width = (recipe.frames(audio.samples), recipe.mels), ears.width if ears else 0
        self.front = FrontEnd(audio.sample_rate, recipe)
        self.hertz = torch.fft.rfftfreq(_FFT, 1 / audio.sample_rate)

    def windows(self, chosen: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """Float16 features (n, frames, mels) of recordings, -1 for background, and what the ears heard (n, width).

        Random numbers depend on seed and chunk alone.
        """
        import torch

        random = torch.Generator().manual_seed(self.disturb.seed * 1_000_003 + chunk)
        index = torch.from_numpy(chosen)
        (words, plain), noise = self._words(index.clamp(min=0), random), self._noise(len(index), random)
        spoken = (index >= 0)[:, None]
        sound = self._narrow(torch.where(spoken, words, noise), random)
        rounded = (sound.clamp(-1, 32767 / 32768) * 32768).round() / 32768
        heard = np.zeros((len(index), self.width), np.float16)
        if self.ears and spoken.any():
            peak = plain.abs().amax(1, keepdim=True).clamp(min=1e-3)
            heard[chosen >= 0] = self.ears.hear((plain / peak).numpy()[chosen >= 0])
        return self.front(rounded)[:, 0].numpy().astype(np.float16), heard

    def _words(self, index: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """Disturbed words, and the same at their speed and place with nothing else done to them."""
        import torch

        n, samples, d = len(index), self.audio.samples, self.disturb
        first, length = self._kept(index, random)
        speed = torch.exp(_between(n, math.log(d.speed[0]), math.log(d.speed[1]), random))
        length = length / speed
        slack = samples - length  # negative: the word is longer than the window, which then shows a part of it
        start = torch.where(slack > 0, torch.zeros(n), slack) + slack.abs() * torch.rand(n, generator=random)
        start += _between(n, -800, 800, random)
        place = (torch.arange(samples)[None] - start[:, None]) * speed[:, None] + first[:, None]
        left = place.floor().long()
        spoken = (left >= first[:, None]) & (left < (first + length * speed)[:, None])
        near, share = left.clamp(0, _LONGEST - 2), place - left
        wave = self.waves[index]
        plain = (torch.gather(wave, 1, near) * (1 - share) + torch.gather(wave, 1, near + 1) * share) * spoken
        wet = torch.fft.irfft(torch.fft.rfft(plain, _FFT) * self._room(n, random), _FFT)[:, :samples]
        sound = torch.where(torch.rand(n, 1, generator=random) < d.dry, plain, wet)
        power = sound.square().sum(1) / length.clamp(max=samples)
        sound = sound / power.sqrt().clamp(min=1e-5)[:, None]
        noisy = torch.rand(n, 1, generator=random) >= d.clean
        sound = sound + noisy * self._hiss(n, random) * _gain(_between(n, *d.snr_db, random).neg())
        sound = torch.where(torch.rand(n, 1, generator=random) < d.cut, sound * spoken, sound)
        return sound * _gain(_between(n, *d.level_db, random)), plain

    def _kept(self, index: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """First sample of the part of each recording that is used, and how many there are."""
        import torch

        n, d, whole = len(index), self.disturb, self.lengths[index]
        loud = self.loudness[index] > _between(n, *d.tight_db, random)[:, None]
        blocks = torch.arange(loud.shape[1])
        first = torch.where(loud, blocks, loud.shape[1]).amin(1) * _BLOCK
        end = torch.minimum((torch.where(loud, blocks, 0).amax(1) + 1) * _BLOCK, whole)
        tight = (torch.rand(n, generator=random) < d.tight) & (end - first >= _SHORTEST)
        return torch.where(tight, first, 0), torch.where(tight, end - first, whole)

    def _noise(self, n: int, random: Generator) -> Tensor:
        return self._hiss(n, random) * _gain(_between(n, *self.disturb.background_db, random))

    def _hiss(self, n: int, random: Generator) -> Tensor:
        """White to brown noise, or (30 %) babble: three recordings, backwards. Power 1."""
        import torch

        slope = _between(n, 0, 2, random)[:, None]
        white = torch.fft.rfft(torch.randn(n, _FFT, generator=random))
        noise = torch.fft.irfft(white / self.hertz.clamp(min=40) ** (slope / 2), _FFT)[:, : self.audio.samples]
        babble = torch.zeros_like(noise)
        for _ in range(3):
            some = self.waves[torch.randint(0, len(self.waves), (n,), generator=random)][:, : self.audio.samples].flip(
                1
            )
            shift = torch.randint(0, self.audio.samples, (n, 1), generator=random)
            babble += torch.gather(some, 1, (torch.arange(self.audio.samples)[None] + shift) % self.audio.samples)
        mixed = torch.where(torch.rand(n, 1, generator=random) < 0.3, babble, noise)
        return mixed / mixed.square().mean(1, keepdim=True).sqrt().clamp(min=1e-4)

    def _narrow(self, sound: Tensor, random: Generator) -> Tensor:
        import torch

        n = len(sound)
        edge = _between(n, *self.disturb.narrow_hz, random)[:, None]
        passes = torch.sigmoid((edge - self.hertz) / 40)
        below = torch.fft.irfft(torch.fft.rfft(sound, _FFT) * passes, _FFT)[:, : sound.shape[1]]
        return torch.where(torch.rand(n, 1, generator=random) < self.disturb.narrow, below, sound)

    def _room(self, n: int, random: Generator) -> Tensor:
        """Frequency response of an equaliser and a room, (n, bins)."""
        import torch

        points = torch.tensor(_BANDS_HZ)
        gains = _between(n * len(points), *self.disturb.equaliser_db, random).view(n, -1)
        band = (torch.bucketize(self.hertz, points) - 1).clamp(0, len(points) - 2)
        share = ((self.hertz - points[band]) / (points[band + 1] - points[band])).clamp(0, 1)
        decibels = gains[:, band] * (1 - share) + gains[:, band + 1] * share
        seconds = _between(n, *self.disturb.room_s, random)[:, None]
        tail = 8000
        echo = torch.randn(n, tail, generator=random) * torch.exp(
            -6.9 * torch.arange(tail)[None] / self.audio.sample_rate / seconds
        )
        wet = torch.rand(n, 1, generator=random) * (torch.rand(n, 1, generator=random) < 0.6)
        echo = echo / echo.square().sum(1, keepdim=True).sqrt() * wet
        echo[:, 0] = 1
        response: Tensor = torch.fft.rfft(echo, _FFT) * 10 ** (decibels / 20)
        return response


def _between(n: int, low: float, high: float, random: Generator) -> Tensor:
    import torch

    drawn: Tensor = torch.rand(n, generator=random) * (high - low) + low
    return drawn


def _gain(decibels: Tensor) -> Tensor:
    factor: Tensor = 10 ** (decibels / 20)
    return factor[:, None]
