"""Words in synthetic voices, by espeak-ng: as many as wanted, without recording anyone, and without a network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edge_lab.core.errors import DataError, MissingTool
from edge_lab.core.files import locked, writing_file
from edge_lab.data.download import cache_folder
from edge_lab.data.images import hash_of
from edge_lab.data.sounds import Clips, SoundSet
from edge_lab.data.splitmix import Stream
from edge_lab.data.spoken import WORDS

from .accents import ACCENTED

DIGITS = WORDS
# What is not a digit: words that a recognizer must let pass.
_OTHERS = (
    "yes no stop go up down left right on off hello light music house water red green open close begin again never "
    "people family window answer monday friday summer winter doctor morning the a and of to is it that because"
)
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
_NO_VOICES = ("whisper", "robo", "croak", "demonic", "alien", "unirobot", "antonio", "storm", "klatt5", "mr serious")
_SOURCE = "espeak-ng, by the optional package espeakng-loader"
_SHORTEST, _LONGEST = 0.12, 1.1  # seconds of a digit; what is shorter or longer went wrong
_LIMITS = {"rate": (110, 230), "pitch": (15, 85), "range": (10, 90)}  # words a minute; espeak-ng's scales of 0 to 100


@dataclass(frozen=True)
class VoiceConfig:
    """How much is spoken: each digit `digits` times by every voice, `others` other words or pairs of words, and each
    digit `accented` times in every foreign accent, in voices drawn at random."""

    digits: int = 8
    others: int = 16
    accented: int = 14
    seed: int = 0


def voices(config: VoiceConfig | None = None) -> SoundSet:
    """The digits in every usable voice of espeak-ng, at random speeds and pitches, in eight English accents and as
    people say them whose first language is one of twelve others.

    Spoken once (a minute or two) and kept in the cache folder. Recordings of other words have the target -1; pauses at
    both ends are cut off. The speaker of a recording is its voice. All of them come out of one formant synthesiser:
    differences between them are much smaller than between people.

    Raises:
        MissingTool: the optional package espeakng-loader is not installed.
        DataError: espeak-ng ended with an error.
    """
    folder = _data_folder()
    names = sorted(p.name for p in (folder / "voices" / "!v").iterdir() if not p.name.lower().startswith(_NO_VOICES))
    jobs = _jobs(names, config or VoiceConfig())
    key = hashlib.sha256(json.dumps([asdict(config or VoiceConfig()), jobs]).encode()).hexdigest()[:16]
    path = cache_folder() / "voices" / f"{key}.npz"
    if not path.exists():
        with locked(path):
            if not path.exists():
                _speak(jobs, path)
    with np.load(path, allow_pickle=False) as stored:
        samples, lengths, rate = stored["samples"], stored["lengths"], int(stored["rate"])
    parts = cut_pauses(np.split(samples, np.cumsum(lengths)[:-1]), rate)
    said, who = ([str(job[k]) for job in jobs] for k in ("word", "voice"))
    about = ("synthesised by espeak-ng (GPL-3.0), run as a separate program", _SOURCE, key)
    return as_set("voices", said, [name.split("+")[1] for name in who], parts, rate, about)


def _data_folder() -> Path:
    found = find_spec("espeakng_loader")
    if found is None or not found.submodule_search_locations:
        raise MissingTool(
            "synthetic voices need espeak-ng.",
            "the optional package espeakng-loader is not installed (its library is under the GPL, so it is not a "
            "dependency; it runs as a program of its own).",
            "pip install espeakng-loader",
        )
    return Path(next(iter(found.submodule_search_locations))) / "espeak-ng-data"


def _jobs(names: list[str], config: VoiceConfig) -> list[dict[str, str | int]]:
    jobs: list[dict[str, str | int]] = []
    for name in names:
        stream = Stream(f"voices/{config.seed}/{name}")
        for text in texts(stream, config.digits, config.others):
            jobs.append(_job(_ACCENTS[stream.between(0, len(_ACCENTS) - 1)], name, text, text, stream))
    for accent, spelt in ACCENTED.items():
        stream = Stream(f"voices/{config.seed}/accent/{accent}")
        for word, text in zip(DIGITS, spelt.split(), strict=True):
            chosen = [names[stream.between(0, len(names) - 1)] for _ in range(config.accented)]
            jobs += [_job(accent, name, word, text, stream) for name in chosen]
    return jobs


def texts(stream: Stream, digits: int, others: int) -> list[str]:
    """What one voice says: every digit `digits` times, then `others` other words or pairs of words, drawn at random."""
    words = _OTHERS.split()
    said = [word for word in DIGITS for _ in range(digits)]
    for _ in range(others):
        said.append(" ".join(words[stream.between(0, len(words) - 1)] for _ in range(stream.between(1, 2))))
    return said


def _job(accent: str, name: str, word: str, text: str, stream: Stream) -> dict[str, str | int]:
    how: dict[str, str | int] = {k: stream.between(*limits) for k, limits in _LIMITS.items()}
    return {"voice": f"{accent}+{name}", "word": word, "text": text} | how


def _speak(jobs: list[dict[str, str | int]], path: Path) -> None:
    program = Path(__file__).with_name("voices_child.py")
    with writing_file(path) as temporary:
        request = temporary.with_suffix(".json")
        out = temporary.with_suffix(".npz")
        try:
            request.write_text(json.dumps(jobs), encoding="utf-8")
            done = subprocess.run(
                [sys.executable, str(program), str(request), str(out)], capture_output=True, text=True
            )
            if done.returncode != 0 or not out.exists():
                said = done.stderr.strip().splitlines()
                raise DataError(
                    "espeak-ng could not speak.",
                    said[-1] if said else f"it ended with status {done.returncode}.",
                    "pip install --force-reinstall espeakng-loader",
                )
            out.replace(temporary)
        finally:
            request.unlink(missing_ok=True)
            out.unlink(missing_ok=True)


def cut_pauses(parts: list[np.ndarray], rate: int) -> list[np.ndarray]:
    """Each int16 utterance without the pauses at its ends (below 2 % of its peak, 20 ms kept)."""
    found = []
    for part in parts:
        level = np.abs(part.astype(np.int32))
        loud = np.flatnonzero(level > 0.02 * level.max()) if len(part) and level.max() else np.zeros(0, np.int64)
        margin = rate // 50
        found.append(part[max(0, loud[0] - margin) : loud[-1] + margin] if len(loud) else part[:0])
    return found


def as_set(
    name: str, said: list[str], speakers: list[str], parts: list[np.ndarray], rate: int, about: tuple[str, str, str]
) -> SoundSet:
    """A set of int16 utterances; what is too short, and a digit that is too long, is left out.

    Args:
        name: of the set.
        said: what each utterance says; what is no digit gets the target -1.
        speakers: who says it.
        parts: the samples.
        rate: in Hz.
        about: licence, source, and a key that changes with the recordings.
    """
    targets = [DIGITS.index(text) if text in DIGITS else -1 for text in said]
    shortest, longest = _SHORTEST * rate, _LONGEST * rate
    kept = [i for i, p in enumerate(parts) if len(p) > shortest and (targets[i] < 0 or len(p) < longest)]
    starts = np.concatenate([[0], np.cumsum([len(parts[i]) for i in kept])])
    licence, source, key = about
    return SoundSet(
        name=name,
        labels=DIGITS,
        targets=tuple(targets[i] for i in kept),
        speakers=tuple(speakers[i] for i in kept),
        names=tuple(f"{i:05d}-{said[i].replace(' ', '-')}" for i in kept),
        licence=licence,
        source=source,
        fingerprint=hash_of(name, key, str(len(kept))),
        read=Clips(np.concatenate([parts[i] for i in kept]), starts, rate),
    )
