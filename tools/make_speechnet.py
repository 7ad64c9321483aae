"""Train speechnet, leave each speaker out in turn, and write the checkpoint and the page of results.

    python tools/make_speechnet.py bank                    disturb the recordings (quarter of an hour, 500 MB of cache)
    python tools/make_speechnet.py fold george             train without george, test on george: 12 minutes each
    python tools/make_speechnet.py fold george --seed 1    the same with other random numbers: how much is luck
    python tools/make_speechnet.py voices                  train on synthetic voices alone, test on everybody
    python tools/make_speechnet.py final                   train on everybody but the test takes; write the checkpoint
    python tools/make_speechnet.py all                     all of the above
    python tools/make_speechnet.py page                    write docs/results/speech.md from what the others found

It needs the Free Spoken Digit Dataset ($EDGE_LAB_DATA, or downloaded), espeakng-loader, flite and festival (`make
speech-tools`), and Google's speech embedding as a teacher (tools/speech_ears.py fetches it). `--speaker NAME=FOLDER`
adds a person whose recordings (7.wav, 7_me_1.wav, ...) are only ever tested on. All of it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from speech.bank import make_bank
from speech.fit import SoundFitConfig, fit_sounds, score_sounds, teacher_of
from speech.talkers import talkers
from speech.voices import voices
from speech_ears import speech_embedding

from edge_lab import data, zoo
from edge_lab.core.files import locked, writing_file
from edge_lab.data.download import cache_folder
from edge_lab.signals.audio import fit
from edge_lab.zoo.speechnet import ASSET, RECIPE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results/speech.json"
PAGE = ROOT / "docs/results/speech.md"
CONFIG = SoundFitConfig()
COPIES = {"fsdd": 20, "voices": 2, "talkers": 7}
BACKGROUND = 6000
MADE = ["voices/*", "talkers/*"]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("bank", "fold", "voices", "final", "all", "page"))
    p.add_argument("held_out", nargs="?", help="of fold: the speaker that is left out")
    p.add_argument("--speaker", action="append", default=[], metavar="NAME=FOLDER", help="recordings to test on only")
    p.add_argument("--seed", type=int, default=0, help="of fold: of the training (default: 0)")
    p.add_argument("--folder", type=Path, default=cache_folder() / "speechnet", help="checkpoints and the bank")
    a = p.parse_args()
    if a.what == "page":
        return write_page()
    work = Work(a.folder, [data.sound_folder(place, name) for name, place in (s.split("=", 1) for s in a.speaker)])
    speakers = sorted(set(data.load_sounds("fsdd").speakers))
    if a.what in ("fold", "all"):
        for name in [a.held_out] if a.what == "fold" else speakers:
            work.fold(name, a.seed if a.what == "fold" else 0)
    if a.what in ("voices", "all"):
        work.voices_only()
    if a.what in ("final", "all"):
        work.final()
    if a.what == "all":
        write_page()
    return None


class Work:
    """The bank, made once, and what is trained on it."""

    def __init__(self, folder: Path, extra: list[Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.extra = folder, extra
        self.model = zoo.create("speechnet_features", weights="random")
        self.fsdd = data.load_sounds("fsdd")
        made = {"fsdd": self.fsdd, "voices": voices(), "talkers": talkers()}
        self.sets = [(made[name], copies) for name, copies in COPIES.items()]
        audio, self.ears = self.model.spec.audio, speech_embedding()
        assert audio is not None
        self.bank = make_bank(self.sets, audio, RECIPE, self.folder, background=BACKGROUND, ears=self.ears)

    def train(self, name: str, speakers: list[str], leave_out: list[str], config: SoundFitConfig = CONFIG) -> Any:
        body: Any = self.model.module.body
        file = self.folder / f"{name}-{self.bank.key}.pt"
        return fit_sounds(body, self.bank, speakers, config, leave_out=leave_out, checkpoint=file)

    def score(self, body: Any, sounds: Any) -> dict[str, float]:
        assert self.model.spec.audio is not None
        found = {k: v for s in (sounds, *self.extra) for k, v in self._one(body, s).items()}
        print(found, flush=True)
        return found

    def _one(self, body: Any, sounds: Any) -> dict[str, float]:
        audio = self.model.spec.audio
        assert audio is not None
        return {k: round(v, 2) for k, v in score_sounds(body, sounds, audio, RECIPE).by_speaker.items()}

    def fold(self, held_out: str, seed: int = 0) -> None:
        """Train on everybody else, and never look at this speaker before the end. Another seed is listed apart."""
        others = sorted({f"fsdd/{who}" for who in self.fsdd.speakers} - {f"fsdd/{held_out}"})
        sounds = self.fsdd.by([held_out])
        if seed:
            body = self.train(f"without-{held_out}-{seed}", [*others, *MADE], [], replace(CONFIG, seed=seed))
            return record(f"folds, seed {seed}", {held_out: self.score(body, sounds)})
        body = self.train(f"without-{held_out}", [*others, *MADE], [])
        record("folds", {held_out: self.score(body, sounds)})
        return record("teachers", {held_out: self.teacher([*others, *MADE], sounds)})

    def teacher(self, speakers: list[str], sounds: Any) -> float:
        """What the teacher gets right of recordings of somebody whom its classifier does not know, in percent."""
        audio = self.model.spec.audio
        assert audio is not None
        waves = [fit(w / np.abs(w).max(), audio.samples) for w in sounds.waveforms(audio.sample_rate)]
        heard = np.concatenate([self.ears.hear(np.stack(waves[i : i + 64])) for i in range(0, len(waves), 64)])
        answers = teacher_of(self.bank, speakers, CONFIG).answers(heard).argmax(1).numpy()
        return round(100 * float((answers == sounds.y).mean()), 2)

    def voices_only(self) -> None:
        """Synthetic voices alone, without the teacher, which has heard people."""
        body = self.train("voices-only", MADE, [], replace(CONFIG, distill=0.0, hint=0.0))
        record("voices only", self.score(body, self.fsdd))

    def final(self) -> None:
        """What is shipped: everybody, without the test takes (0 to 4), so that these can be tested on."""
        from safetensors.torch import save_file

        test = data.load_sounds("fsdd", "test")
        body = self.train("final", ["fsdd/*", *MADE], [f"fsdd/{name}" for name in test.names])
        record("final, test takes", self.score(body, test))
        with writing_file(ASSET) as temporary:
            save_file({f"body.{k}": v.contiguous() for k, v in body.state_dict().items()}, temporary)


def record(key: str, value: dict[str, Any]) -> None:
    """Add to docs/results/speech.json; folds may be trained side by side."""
    with locked(cache_folder() / "speechnet" / RESULTS.name):  # not beside it: the lock stays
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        found[key] = (found.get(key, {}) if key.startswith(("folds", "teachers")) else {}) | value
        with writing_file(RESULTS) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def luck(found: dict[str, Any], own: dict[str, float]) -> str:
    """What trainings with other seeds gave, as lines of the page."""
    lines = []
    for key in sorted(k for k in found if k.startswith("folds, seed ") and set(found[k]) == set(own)):
        other = {name: found[key][name][name] for name in own}
        mean = sum(other.values()) / len(other)
        each = ", ".join(f"{name} {value:.1f}" for name, value in other.items())
        lines.append(f"- *Luck*: the same trainings with {key.split(', ')[1]} gave {mean:.1f} % ({each}).\n")
    return "".join(lines)


def write_page() -> None:
    """docs/results/speech.md: tables of what is in speech.json."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    folds: dict[str, dict[str, float]] = found["folds"]
    own = {name: scores[name] for name, scores in folds.items()}
    extra = sorted({k for scores in folds.values() for k in scores} - set(own))
    only, final = found["voices only"], found["final, test takes"]
    teachers: dict[str, float] = found["teachers"]
    rows = [f"| {n} | {own[n]:.1f} % | {teachers[n]:.1f} % | {only[n]:.1f} % | {final[n]:.1f} % |" for n in own]
    for n in extra:
        heard = " / ".join(f"{scores[n]:.0f}" for scores in folds.values())
        rows.append(f"| {n} (never trained on) | {heard} % | – | {only[n]:.1f} % | {final[n]:.1f} % |")
    means = (sum(scores[n] for n in own) / len(own) for scores in (own, teachers, only, final))
    text = f"""# Spoken digits: what speechnet hears

Written by `python tools/make_speechnet.py page` from [speech.json](speech.json), which the same tool's `all` filled.
{CONFIG.epochs} epochs of {CONFIG.windows:,} disturbed windows each; seed 0; weights of the last epoch. Answers are
among eleven classes (ten digits and background).

| speaker | left out of training | its teacher | no person at all | shipped network, held-out takes |
|---|---|---|---|---|
{chr(10).join(rows)}
| **mean of the people** | {" | ".join(f"**{mean:.1f} %**" for mean in means)} |

- *Left out of training* is the honest number for a new voice: {len(own)} networks, each trained on the other speakers
  (all takes), on synthetic voices and on voices made from people, and tested on all recordings of the one it never
  heard. Worst: {min(own.values()):.1f} %.
- *The teacher* is a classifier of what a network of 330 thousand weights hears, which Google trained on many people
  (tools/speech_ears.py). The small network learns from its answers, too. It has not heard these recordings, as far as
  its paper tells; the classifier has not heard the speaker.
- *No person at all*: espeak-ng's formant synthesiser, in English and twelve foreign accents, and thirteen voices of
  flite and festival, seven of them with a foreign accent, without the teacher. Nobody was recorded for it who says
  digits.
- *Shipped network*: it knows these speakers; the recordings (takes 0 to 4 of each digit) are new to it.
{luck(found, own)}- {len(own)} speakers are few: one more person may do better or worse than any of them.
"""
    with writing_file(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
