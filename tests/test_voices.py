"""Words by programs that speak: espeak-ng in many accents, flite and festival with voices made from people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from machine_tools import tool

from edge_lab.core.errors import DataError, MissingTool
from edge_lab.data.sounds import SoundSet
from tools.speech import accents, talkers, voices

FEW = talkers.TalkerConfig(digits=1, others=1, accented=1)


def test_synthetic_voices_speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        voices,
        "_jobs",
        lambda names, config: [
            {"voice": voice, "word": word, "text": text, "rate": 150, "pitch": 50, "range": 50}
            for voice, word, text in (("en-us+f2", "seven", "seven"), ("en-us+f2", "house", "house"))
        ],
    )
    found = voices.voices()
    assert found.targets == (7, -1)
    assert found.speakers == ("f2", "f2")
    assert 0.2 < found[0].seconds < 1.1
    assert float(np.abs(found[0].samples).max()) > 0.05
    assert [s.samples.tobytes() for s in voices.voices()] == [s.samples.tobytes() for s in found]  # from the cache


def test_voices_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "find_spec", lambda name: None)
    with pytest.raises(MissingTool, match="pip install espeakng-loader"):
        voices.voices()


def test_every_accent_says_ten_digits() -> None:
    pytest.importorskip("espeakng_loader")
    assert {len(spelt.split()) for spelt in accents.ACCENTED.values()} == {10}
    jobs = voices._jobs(["f2", "m3"], voices.VoiceConfig(digits=2, others=3, accented=2))
    english, foreign = jobs[: 2 * (20 + 3)], jobs[2 * (20 + 3) :]
    assert all(job["text"] == job["word"] for job in english)
    assert {str(job["voice"]).split("+")[0] for job in foreign} == set(accents.ACCENTED)
    assert [job["word"] for job in foreign] == [w for _ in accents.ACCENTED for w in voices.DIGITS for _ in range(2)]


def test_an_accent_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody spells letters out, and no accent is silent: every digit lasts as long as a word does."""
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path))
    how = {"rate": 150, "pitch": 50, "range": 50}
    said = [(a, *pair) for a, s in accents.ACCENTED.items() for pair in zip(voices.DIGITS, s.split(), strict=True)]
    jobs = [{"voice": f"{accent}+f2", "word": word, "text": text} | how for accent, word, text in said]
    monkeypatch.setattr(voices, "_jobs", lambda names, config: jobs)
    found = voices.voices()
    assert len(found) == len(jobs)  # what is too short or too long for a digit is left out
    assert found.y.tolist() == [*range(10)] * len(accents.ACCENTED)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> SoundSet:
    tool("flite", package="flite")
    tool("festival", package="festival and the voices that the Makefile lists")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_LAB_CACHE", str(tmp_path_factory.mktemp("talkers")))
        found = talkers.talkers(FEW)
        patch.setattr(talkers, "_speak", lambda *_: pytest.fail("spoken again"))
        again = talkers.talkers(FEW)
    assert [s.samples.tobytes() for s in again] == [s.samples.tobytes() for s in found]
    return found


def test_talkers_speak(spoken: SoundSet) -> None:
    assert len(set(spoken.speakers)) == 13
    assert np.bincount(spoken.y + 1).tolist()[1:] == [13] * 10
    for sound in spoken:
        assert sound.rate == 16000
        assert float(np.abs(sound.samples).max()) > 0.5
    seven = [s for s, word in zip(spoken, spoken.y, strict=True) if word == 7]
    assert len({s.samples.tobytes() for s in seven}) == 13
    assert all(0.2 < s.seconds < 1.1 for s in seven)


def test_a_foreign_voice_says_ten_different_words(spoken: SoundSet) -> None:
    """It is told them in its language's spelling and encoding; what it could not read would come out short or equal."""
    for voice in ("czech_krb", "suo_fi_lj_diphone", "lp_diphone"):
        said = [s for s, who, y in zip(spoken, spoken.speakers, spoken.y, strict=True) if who == voice and y >= 0]
        assert len({s.samples.tobytes() for s in said}) == 10
        assert all(s.seconds > 0.15 for s in said)


def test_talkers_without_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="flite and festival"):
        talkers.talkers()
    assert not list((tmp_path / "talkers").glob("*.npz"))


def test_a_voice_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("flite", "festival"):
        (tmp_path / program).write_text("#!/bin/sh\necho no such voice >&2; exit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DataError, match="no such voice"):
        talkers.talkers(FEW)
    assert not list((tmp_path / "talkers").glob("*.npz"))
