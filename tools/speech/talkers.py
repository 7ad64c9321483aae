"""Words in voices that were built from recordings of people, by flite and festival: thirteen, each with a mouth.

Seven of them speak Czech, Finnish or Italian; they read English digits in a spelling of their language.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge_lab.core.errors import DataError, MissingTool
from edge_lab.core.files import locked, writing_file
from edge_lab.data.download import cache_folder
from edge_lab.data.sounds import SoundSet
from edge_lab.data.splitmix import Stream
from edge_lab.signals.audio import read_wav, resample

from .accents import FESTIVAL
from .voices import DIGITS, as_set, cut_pauses, texts

RATE = 16000
# Voice: the pitch its speaker had, in Hz (0: the synthesiser does not let it be changed).
_FLITE = {"kal16": 105, "awb": 130, "rms": 100, "slt": 170}
_FESTIVAL = {"ked_diphone": 105, "cmu_us_slt_arctic_hts": 0}
# Voice: its language. These have no setting for the pitch that works for all of them.
_FOREIGN = dict.fromkeys(("czech_dita", "czech_krb", "czech_machac", "czech_ph"), "cs")
_FOREIGN |= dict.fromkeys(("hy_fi_mv_diphone", "suo_fi_lj_diphone"), "fi")
_FOREIGN["lp_diphone"] = "it"
_ENCODING = "iso-8859-2"  # of what festival reads: the Czech voices expect it, the others' spellings are ASCII
_STRETCH, _PITCH, _SWING = (75, 160), (80, 135), (5, 35)  # percent, percent, Hz
_SOURCE = (
    "flite (BSD) and festival (MIT), run as separate programs, with the voices kal, awb, rms, slt and ked (free "
    "for any use), two Finnish (LGPL), four Czech and one Italian (GPL)"
)
_INSTALL = "make speech-tools"


@dataclass(frozen=True)
class TalkerConfig:
    """How much is spoken: each digit `digits` times by every English voice, and `others` other words or pairs of words;
    by the foreign ones each digit `accented` times, and `accented` other words or pairs."""

    digits: int = 24
    others: int = 60
    accented: int = 16
    seed: int = 0


@dataclass(frozen=True)
class _Job:
    voice: str
    word: str
    text: str  # how the voice is to be told the word
    stretch: float  # of durations
    pitch: float  # mean, in Hz; 0: the voice's own
    swing: float  # standard deviation of the pitch, in Hz


def talkers(config: TalkerConfig | None = None) -> SoundSet:
    """The digits by thirteen voices made from recordings of twelve people, at random speeds and pitches; 16 kHz.

    Spoken once (a minute) and kept in the cache folder. Recordings of other words have the target -1; pauses at
    both ends are cut off. The speaker of a recording is its voice.

    Raises:
        MissingTool: flite or festival is not installed.
        DataError: one of them ended with an error, as it does for want of a voice.
    """
    jobs = _jobs(config or TalkerConfig())
    key = hashlib.sha256(json.dumps([asdict(job) for job in jobs]).encode()).hexdigest()[:16]
    path = cache_folder() / "talkers" / f"{key}.npz"
    if not path.exists():
        with locked(path):
            if not path.exists():
                _speak(jobs, path)
    with np.load(path, allow_pickle=False) as stored:
        parts = np.split(stored["samples"], np.cumsum(stored["lengths"])[:-1])
    about = ("synthesised; to learn from, and not to be passed on: each voice has a licence of its own", _SOURCE, key)
    said, who = [job.word for job in jobs], [job.voice for job in jobs]
    return as_set("talkers", said, who, cut_pauses(parts, RATE), RATE, about)


def _jobs(config: TalkerConfig) -> list[_Job]:
    jobs = []
    for voice, hertz in (_FLITE | _FESTIVAL).items():
        stream = Stream(f"talkers/{config.seed}/{voice}")
        for text in texts(stream, config.digits, config.others):
            stretch, pitch = stream.between(*_STRETCH) / 100, hertz * stream.between(*_PITCH) / 100
            jobs.append(_Job(voice, text, text, stretch, pitch, float(stream.between(*_SWING))))
    for voice, language in _FOREIGN.items():
        stream = Stream(f"talkers/{config.seed}/{voice}")
        spelt = dict(zip(DIGITS, FESTIVAL[language].split(), strict=True))
        for word in texts(stream, config.accented, config.accented):
            jobs.append(_Job(voice, word, spelt.get(word, word), stream.between(*_STRETCH) / 100, 0.0, 0.0))
    return jobs


def _speak(jobs: Sequence[_Job], path: Path) -> None:
    missing = [program for program in ("flite", "festival") if shutil.which(program) is None]
    if missing:
        raise MissingTool(
            f"these voices need {' and '.join(missing)}.", "they are programs of their own, not packages.", _INSTALL
        )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.wav" for i in range(len(jobs))]
        both = list(zip(jobs, files, strict=True))
        for job, file in both:
            if job.voice in _FLITE:
                _run(["flite", *_flite(job), "-o", str(file)], file)
        script = Path(folder) / "say.scm"
        for voice in [*_FESTIVAL, *_FOREIGN]:  # one after another: some leave settings behind that spoil the next
            told = [(job, file) for job, file in both if job.voice == voice]
            script.write_text("\n".join(_festival(job, file) for job, file in told), encoding=_ENCODING)
            _run(["festival", "-b", str(script)], told[-1][1])
        parts = [_read(file) for file in files]
    lengths = np.array([len(part) for part in parts], np.int64)
    with writing_file(path) as temporary, temporary.open("wb") as out:
        np.savez(out, samples=np.concatenate(parts), lengths=lengths)


def _flite(job: _Job) -> list[str]:
    settings = {"duration_stretch": job.stretch, "int_f0_target_mean": job.pitch, "int_f0_target_stddev": job.swing}
    return ["-voice", job.voice, *(a for k, v in settings.items() for a in ("--setf", f"{k}={v:.2f}")), "-t", job.text]


def _festival(job: _Job, file: Path) -> str:
    lines = [f"(voice_{job.voice})", f"(Parameter.set 'Duration_Stretch {job.stretch:.2f})"]
    if job.pitch:
        target = f"(target_f0_mean {job.pitch:.1f}) (target_f0_std {job.swing:.1f})"
        lines.append(f"(set! int_lr_params '({target} (model_f0_mean 170) (model_f0_std 34)))")
    lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{job.text}")) "{file}" \'riff)')
    return "\n".join(lines)


def _run(command: list[str], last: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not last.exists():
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise DataError(
            f"{command[0]} could not speak.",
            said[-1].strip() if said else f"it ended with status {done.returncode}.",
            f"is the voice there? {_INSTALL}",
        )


def _read(file: Path) -> np.ndarray:
    sound = read_wav(file)
    samples = resample(sound.samples, sound.rate, RATE)
    scaled: np.ndarray = (samples / max(float(np.abs(samples).max()), 1e-6) * 30000).astype(np.int16)
    return scaled
