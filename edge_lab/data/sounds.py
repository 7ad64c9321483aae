"""SoundSet: named, labelled recordings that are decoded when they are asked for, and who speaks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.data.archives import read_member
from edge_lab.data.images import hash_of
from edge_lab.signals.audio import Sound, read_wav, resample
from edge_lab.signals.wav import decode


@dataclass(frozen=True, eq=False)
class SoundSet:
    """Recordings of single words. Cheap to make: a recording is decoded when it is asked for.

    Attributes:
        name: the name that `load_sounds` knows it by.
        labels: the words; `targets` are indices into it.
        targets: the word of each recording, -1 where it is none of them.
        speakers: who speaks, for each recording.
        names: unique within the set.
        licence: who may do what with the recordings.
        source: where they come from.
        fingerprint: hex hash that changes when any recording, label or the order changes.
        read: gives recording i, 0 <= i < len(names). Can be pickled.
    """

    name: str
    labels: tuple[str, ...]
    targets: tuple[int, ...]
    speakers: tuple[str, ...]
    names: tuple[str, ...]
    licence: str
    source: str
    fingerprint: str
    read: Callable[[int], Sound] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sound:
        if not -len(self) <= index < len(self):
            raise IndexError(f"recording {index} of {self.name!r}, which has {len(self)}")
        return self.read(int(index) % len(self))

    def __iter__(self) -> Iterator[Sound]:
        return (self.read(i) for i in range(len(self)))

    def __repr__(self) -> str:
        return f"SoundSet({self.name!r}, {len(self)} recordings, {len(set(self.speakers))} speakers)"

    @property
    def y(self) -> np.ndarray:
        """int64 array of shape (N,): the word of each recording, -1 for none."""
        return np.array(self.targets, np.int64)

    def waveforms(self, rate: int) -> list[np.ndarray]:
        """Every recording as float32 samples at `rate` Hz, each as long as it is."""
        return [resample(sound.samples, sound.rate, rate) for sound in self]

    def by(self, speakers: Collection[str]) -> SoundSet:
        """The recordings of these speakers."""
        return self.subset([i for i, who in enumerate(self.speakers) if who in speakers])

    def take(self, n: int) -> SoundSet:
        """At most n recordings, spread evenly over the set, always the same ones."""
        if n < 1:
            raise InputError(f"{n} recordings were asked for.", "a set has at least one.", "ask for 1 or more.")
        return self if n >= len(self) else self.subset([i * len(self) // n for i in range(n)])

    def subset(self, indices: Sequence[int]) -> SoundSet:
        """The recordings at these indices, in this order."""
        chosen = tuple(int(i) for i in indices)
        if not chosen or not all(0 <= i < len(self) for i in chosen):
            raise InputError(
                f"{self.name!r} has no such subset.",
                f"indices must lie in 0..{len(self) - 1} and there must be at least one.",
                f"check the indices or the speakers' names; there are {len(self)} recordings.",
            )
        return replace(
            self,
            targets=tuple(self.targets[i] for i in chosen),
            speakers=tuple(self.speakers[i] for i in chosen),
            names=tuple(self.names[i] for i in chosen),
            fingerprint=hash_of(self.fingerprint, *map(str, chosen)),
            read=_Chosen(self.read, chosen),
        )


@dataclass(frozen=True)
class _Chosen:
    """Reads recording i of a subset."""

    read: Callable[[int], Sound]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> Sound:
        return self.read(self.indices[index])


@dataclass(frozen=True)
class ZippedWavs:
    """Reads recording i out of a zip file of WAV files."""

    path: str
    members: tuple[str, ...]

    def __call__(self, index: int) -> Sound:
        """Recording i."""
        member = self.members[index]
        return Sound(*decode(read_member(self.path, member), f"{member} in {self.path}"))


@dataclass(frozen=True)
class WavFiles:
    """Reads recording i out of a list of WAV files."""

    paths: tuple[str, ...]

    def __call__(self, index: int) -> Sound:
        """Recording i."""
        return read_wav(self.paths[index])


@dataclass(frozen=True, eq=False)
class Clips:
    """Reads recording i out of int16 samples that lie one after another; `starts` has one entry more than there are."""

    samples: np.ndarray
    starts: np.ndarray
    rate: int

    def __call__(self, index: int) -> Sound:
        """Recording i."""
        part = self.samples[self.starts[index] : self.starts[index + 1]]
        return Sound(part.astype(np.float32) / 32768, self.rate)
