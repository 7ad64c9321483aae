"""Spoken digits: forty recordings that come with the package, and the Free Spoken Digit Dataset."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from edge_lab.core.errors import DataError, InputError
from edge_lab.core.files import sha256
from edge_lab.data.archives import list_members
from edge_lab.data.download import cache_folder, fetch
from edge_lab.data.images import hash_of
from edge_lab.data.photos import ASSETS
from edge_lab.data.real import given
from edge_lab.data.sounds import SoundSet, WavFiles, ZippedWavs

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FSDD_TAG = "v1.0.10"
FSDD_URL = f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/{FSDD_TAG}.zip"
FSDD_LICENCE = "CC BY-SA 4.0 (Zohar Jackson and contributors, Free Spoken Digit Dataset)"
_HELD_OUT = 5  # takes 0 to 4 of every digit and speaker are for testing: the data set's own convention
_NAME = re.compile(r"(?:.*/)?([0-9])_([a-z]+)_([0-9]+)\.wav")
_OWN = re.compile(r"[0-9](?:[_-].*)?\.wav")
_SPLITS = ("train", "test", "all")


def load_sounds(name: str, split: str = "all") -> SoundSet:
    """Get a set of recordings by name.

    "spoken-digits": 40 recordings (ten digits, four speakers) that come with the package, out of the test takes of
    "fsdd", the Free Spoken Digit Dataset at 8 kHz: from $EDGE_LAB_DATA (fsdd.zip), else from the cache folder, else
    downloaded.

    Args:
        name: one of `sound_sets()`.
        split: "all"; of fsdd also "test" (takes 0 to 4 of each digit and speaker, the set's own convention) or "train".

    Raises:
        InputError: unknown name or split. DataError: not here, not to be had, or damaged.
    """
    if name not in _SETS:
        raise InputError(
            f"there is no set of recordings {name!r}.", f"the known ones are {', '.join(_SETS)}.", "use one of these."
        )
    if split not in (_SPLITS if name == "fsdd" else ("all",)):
        raise InputError(
            f"the recordings {name!r} have no split {split!r}.",
            f"fsdd has {', '.join(_SPLITS)}; the others are whole.",
            f'for example load_sounds("{name}").',
        )
    return _SETS[name][1](split)


def sound_folder(path: Path | str, speaker: str | None = None) -> SoundSet:
    """Your own recordings: the WAV files of a folder whose names begin with the digit, such as `7.wav` or `7_me_3.wav`.

    Args:
        path: the folder.
        speaker: whose voice it is; default: the folder's name.

    Raises:
        InputError: no such folder, or no such file in it.
    """
    folder = Path(path)
    files = sorted(f for f in folder.glob("*.wav") if _OWN.fullmatch(f.name)) if folder.is_dir() else []
    if not files:
        raise InputError(
            f"{folder} holds no recordings of digits.",
            "there is no file like 7.wav or 7_me_3.wav in it." if folder.is_dir() else "it is no folder.",
            "record some: arecord -d 1 -r 16000 -f S16_LE -c 1 7.wav",
        )
    return SoundSet(
        name=folder.name,
        labels=WORDS,
        targets=tuple(int(f.name[0]) for f in files),
        speakers=(speaker or folder.name,) * len(files),
        names=tuple(f.name for f in files),
        licence="yours",
        source=folder.name,
        fingerprint=hash_of("sounds", *(f.name + sha256(f) for f in files)),
        read=WavFiles(tuple(str(f) for f in files)),
    )


def sound_sets() -> dict[str, str]:
    """Name of every set of recordings, with one line on what it is."""
    return {name: about for name, (about, _) in _SETS.items()}


def _shipped(_: str) -> SoundSet:
    return _from_zip(ASSETS / "spoken_digits.zip", "spoken-digits", "all")


def _fsdd(split: str) -> SoundSet:
    archive = given("fsdd.zip")
    if archive is None:
        archive = cache_folder() / "fsdd" / f"{FSDD_TAG}.zip"
        fetch(FSDD_URL, None, archive, check=is_whole)
    return _from_zip(archive, "fsdd", split)


def is_whole(path: Path) -> str:
    """Empty if the file is a zip with the 3,000 recordings of six speakers, else what is wrong with it.

    GitHub publishes no checksum for such an archive and may pack it anew: the transfer is protected by https, the
    tag is pinned, every member by its CRC-32.
    """
    try:
        members, _ = list_members(path, lambda m: _NAME.fullmatch(m) is not None)
    except DataError as error:
        return error.why
    speakers = {m.rsplit("_", 2)[1] for m in members}
    good = len(members) == 3000 and len(speakers) == 6
    return "" if good else f"it holds {len(members)} recordings of {len(speakers)} speakers, not 3,000 of 6"


def _from_zip(path: Path, name: str, split: str) -> SoundSet:
    members, contents = list_members(path, lambda m: _wanted(m, split))
    if not members:
        raise DataError(
            f"{path} does not hold what was expected.",
            "it should hold DIGIT_SPEAKER_TAKE.wav.",
            "replace it with the right archive; delete it if it is in the cache folder, and it is fetched again.",
        )
    parts = [_NAME.fullmatch(m) for m in members]
    digits, speakers = ([p.group(i) for p in parts if p] for i in (1, 2))
    return SoundSet(
        name=name,
        labels=WORDS,
        targets=tuple(int(d) for d in digits),
        speakers=tuple(speakers),
        names=tuple(m.split("/")[-1] for m in members),
        licence=FSDD_LICENCE,
        source=f"github.com/Jakobovski/free-spoken-digit-dataset ({path.name})",
        fingerprint=hash_of(name, split, *members, *contents),
        read=ZippedWavs(str(path), tuple(members)),
    )


def _wanted(member: str, split: str) -> bool:
    found = _NAME.fullmatch(member)
    if found is None:
        return False
    return split == "all" or (int(found.group(3)) < _HELD_OUT) == (split == "test")


_SETS: dict[str, tuple[str, Callable[[str], SoundSet]]] = {
    "spoken-digits": ("40 recordings of four people saying the digits, 8 kHz", _shipped),
    "fsdd": ("Free Spoken Digit Dataset: 3,000 recordings of six people, 8 kHz", _fsdd),
}
