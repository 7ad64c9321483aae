"""Training on disturbed recordings: the bank, resuming, what is left out; the models that hear and their exports."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import preprocess
from edge_lab.cli import main as cli
from edge_lab.core.errors import DataError, InputError
from edge_lab.signals.audio import Audio, LogMel, Sound, log_mel, write_wav
from edge_lab.signals.recognize import Recognizer, words
from edge_lab.zoo.speechnet import RECIPE
from tools.speech import bank as sound_bank
from tools.speech.bank import Bank, Disturb, Ears, make_bank
from tools.speech.fit import SoundFitConfig, _Run, fit_sounds, score_sounds
from tools.speech.masks import masked

CONFIG = SoundFitConfig(epochs=2, windows=64, batch_size=16)
STILL: dict[str, Any] = {"stretch": 0.0, "bend": (0.0, 0.0), "equaliser_db": 0.0}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return _bank(tmp_path_factory.mktemp("bank"))


def _bank(folder: Path) -> Bank:
    return make_bank([(data.load_sounds("spoken-digits"), 4)], Audio(), RECIPE, folder, background=20, progress=False)


def _hears(waveforms: np.ndarray) -> np.ndarray:
    """A stand-in for a large network: how loud each of eight parts of the second is, and a constant."""
    level = np.abs(waveforms).reshape(len(waveforms), 8, -1).mean(2)
    return np.concatenate([level, np.ones((len(waveforms), 1))], 1).astype(np.float32)


EARS = Ears("levels", 9, _hears)


@pytest.fixture(scope="module")
def heard_bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return _heard_bank(tmp_path_factory.mktemp("heard"))


def _heard_bank(folder: Path) -> Bank:
    sets = [(data.load_sounds("spoken-digits"), 4)]
    return make_bank(sets, Audio(), RECIPE, folder, background=20, ears=EARS, progress=False)


def test_a_tight_copy_loses_its_quiet_ends() -> None:
    """A hiss of 0.2 s, then a loud half second: cut tightly, the copy holds the loud half alone."""
    rng = np.random.default_rng(0)
    word = np.concatenate([rng.normal(0, 0.003, 3200), rng.normal(0, 0.3, 8000), np.zeros(1600)]).astype(np.float32)
    one = data.load_sounds("spoken-digits").subset([0])
    sounds = replace(one, read=lambda _: Sound(word, 16000))
    lasts = []
    for tight in (0.0, 1.0):
        how = Disturb(speed=(1.0, 1.0), clean=1.0, dry=1.0, cut=1.0, narrow=0.0, tight=tight, tight_db=(-20.0, -20.0))
        maker = sound_bank._Maker([(sounds, 1)], Audio(), RECIPE, how)
        (_, plain) = maker._words(torch.zeros(20, dtype=torch.int64), torch.Generator().manual_seed(0))
        lasts.append((plain != 0).sum(1).float().median().item())
    assert lasts[0] == pytest.approx(11200, abs=400)
    assert lasts[1] == pytest.approx(8000, abs=400)


def _body() -> torch.nn.Module:
    return zoo.create("speechnet_features", weights="random").module.get_submodule("body")


def test_a_bank_holds_every_copy_and_the_background(bank: Bank) -> None:
    assert bank.features.shape == (180, 61, 40)
    assert np.bincount(bank.targets).tolist() == [16] * 10 + [20]
    assert set(bank.speakers) == {
        "background",
        *(f"spoken-digits/{w}" for w in ("george", "jackson", "nicolas", "yweweler")),
    }
    first = np.flatnonzero(bank.names == bank.names[0])
    assert len(first) == 4
    assert len({bank.features[i].tobytes() for i in first}) == 4  # each disturbed in another way
    assert np.isfinite(bank.features).all()


def test_a_bank_that_was_interrupted_becomes_the_same(
    heard_bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sound_bank._Maker.windows

    def stops(self: sound_bank._Maker, chosen: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        if chunk == 1:
            raise KeyboardInterrupt
        return own(self, chosen, chunk)

    monkeypatch.setattr(sound_bank._Maker, "windows", stops)
    with pytest.raises(KeyboardInterrupt):
        _heard_bank(tmp_path)
    assert not list(tmp_path.glob("bank-????????????.npy"))
    monkeypatch.setattr(sound_bank._Maker, "windows", own)
    again = _heard_bank(tmp_path)
    np.testing.assert_array_equal(again.features, heard_bank.features)
    np.testing.assert_array_equal(again.embeddings, heard_bank.embeddings)  # type: ignore[arg-type]


def test_the_ears_hear_the_word_and_not_what_is_done_to_it(bank: Bank, heard_bank: Bank) -> None:
    np.testing.assert_array_equal(heard_bank.features, bank.features)  # listening changes nothing
    assert bank.embeddings is None
    assert heard_bank.embeddings is not None
    spoken = heard_bank.speakers != "background"
    assert not heard_bank.embeddings[~spoken].any()
    assert (heard_bank.embeddings[spoken, 8] == 1).all()
    assert heard_bank.key != bank.key
    # The end of a second in which a word came early is silence, whatever noise the network is given there.
    early = spoken & (heard_bank.embeddings[:, 6:8] == 0).all(1)
    assert early.any()
    assert heard_bank.features[early, -8:].astype(np.float32).std() > 0.5


@pytest.mark.parametrize("taught", [False, True])
def test_training_goes_on_where_it_was_stopped(taught: bool, bank: Bank, heard_bank: Bank, tmp_path: Path) -> None:
    bank = heard_bank if taught else bank
    whole = fit_sounds(_body(), bank, ["spoken-digits/*"], CONFIG, progress=False)
    file = tmp_path / "run.pt"
    from tools.speech import fit as sound_fit

    own, calls = sound_fit._epoch, []

    def once(*arguments: object) -> float:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return own(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sound_fit, "_epoch", once)
        with pytest.raises(KeyboardInterrupt):
            fit_sounds(_body(), bank, ["spoken-digits/*"], CONFIG, checkpoint=file, progress=False)
    resumed = fit_sounds(_body(), bank, ["spoken-digits/*"], CONFIG, checkpoint=file, progress=False)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(DataError, match="belongs to another run"):
        fit_sounds(_body(), bank, ["spoken-digits/george"], CONFIG, checkpoint=file, progress=False)


@pytest.mark.parametrize("taught", [False, True])
def test_who_is_left_out_is_never_looked_at(taught: bool, heard_bank: Bank) -> None:
    bank = heard_bank
    assert bank.embeddings is not None
    embeddings = bank.embeddings.copy() if taught else None
    poisoned = Bank(bank.features.copy(), bank.targets, bank.speakers, bank.names, embeddings=embeddings)
    for kept in (poisoned.features, *([embeddings] if embeddings is not None else [])):
        kept[bank.speakers == "spoken-digits/george"] = np.nan
    some = [f"spoken-digits/{who}" for who in ("jackson", "nicolas", "yweweler")]
    body = fit_sounds(_body(), poisoned, some, CONFIG, progress=False)
    assert all(torch.isfinite(p).all() for p in body.parameters())
    held = [n for n, who in zip(bank.names, bank.speakers, strict=True) if who == "spoken-digits/george"]
    body = fit_sounds(_body(), poisoned, ["spoken-digits/*"], CONFIG, leave_out=held, progress=False)
    assert all(torch.isfinite(p).all() for p in body.parameters())
    with pytest.raises(InputError, match="nobody called"):
        fit_sounds(_body(), bank, ["fsdd/george"], CONFIG, progress=False)


def test_a_network_learns_something(bank: Bank) -> None:
    sounds = data.load_sounds("spoken-digits")
    config = SoundFitConfig(epochs=25, windows=160, batch_size=32, lr=6e-3)
    body = fit_sounds(_body(), bank, ["spoken-digits/*"], config, progress=False)
    score = score_sounds(body, sounds, Audio(), RECIPE)
    assert score.n == 40
    assert set(score.by_speaker) == set(sounds.speakers)
    assert score.top1 > 30  # guessing: 9 %


def test_what_was_heard_is_learnt(bank: Bank, heard_bank: Bank) -> None:
    """Labels say nothing here (all windows have one); only the embeddings tell early words from late ones."""
    assert heard_bank.embeddings is not None
    early = heard_bank.embeddings[:, :4].sum(1) > heard_bank.embeddings[:, 4:8].sum(1)
    one = np.where(heard_bank.speakers == "background", 10, 0)
    config = SoundFitConfig(epochs=12, windows=160, batch_size=32, lr=6e-3, mask=0, hint=30.0, **STILL)
    apart = []
    for embeddings in (None, heard_bank.embeddings):
        taught = Bank(heard_bank.features, one, heard_bank.speakers, heard_bank.names, embeddings=embeddings)
        body = fit_sounds(_body(), taught, ["spoken-digits/*"], config, progress=False)
        with torch.inference_mode():
            pooled = body.pooled(torch.from_numpy(heard_bank.features.astype(np.float32))[:, None]).numpy()  # type: ignore[operator]
        spoken = heard_bank.speakers != "background"
        x = np.c_[pooled[spoken], np.ones(spoken.sum())]
        guess = x @ np.linalg.lstsq(x[::2], early[spoken][::2].astype(float), rcond=1e-3)[0]
        apart.append(float(((guess > 0.5) == early[spoken])[1::2].mean()))
    assert apart[1] > apart[0]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    sounds = data.load_sounds("spoken-digits")
    return edge_lab.to(zoo.create("speechnet"), "linux-onnx-fp32", golden=sounds, out=tmp_path_factory.mktemp("speech"))


def test_the_shipped_network_hears_recordings_it_was_not_trained_on(heard: Bundle) -> None:
    sounds, session = data.load_sounds("spoken-digits"), edge_lab.load(heard)
    right = sum(
        int(session(preprocess(s, heard.spec)).argmax()) == t for s, t in zip(sounds, sounds.targets, strict=True)
    )
    assert right >= 38


def test_a_bundle_says_how_it_hears(heard: Bundle) -> None:
    again = Bundle.load(heard.path)
    assert again.spec.audio == zoo.create("speechnet").spec.audio
    assert (heard.path / "golden/0.wav").is_file()
    for case, x, _ in again.golden_cases():
        assert case.input is not None
        np.testing.assert_array_equal(preprocess(again.path / case.input, again.spec), x)


def test_words_in_a_stream(heard: Bundle) -> None:
    sounds = data.load_sounds("spoken-digits").by(["jackson"])
    rng = np.random.default_rng(0)
    quiet = lambda n: rng.normal(0, 3e-4, n).astype(np.float32)  # noqa: E731
    parts = [quiet(16000)]
    for wave in sounds.waveforms(16000):
        parts += [0.25 * wave / np.abs(wave).max(), quiet(19200)]
    audio = heard.spec.audio
    assert audio is not None
    recognizer = Recognizer(edge_lab.load(heard), heard.spec.labels, audio)
    found = [w.label for w in words(recognizer, np.concatenate([*parts, quiet(16000)]))]
    assert sum(a == b for a, b in zip(found, sounds.labels, strict=False)) >= 8
    assert len(found) <= 12
    assert recognizer.effort.calls < recognizer.effort.windows


def test_the_command_says_the_words(heard: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sounds = data.load_sounds("spoken-digits").by(["jackson"]).take(3)
    parts = [np.zeros(8000, np.float32)]
    for sound in sounds:  # at their own 8 kHz: the command resamples
        parts += [0.25 * sound.samples / np.abs(sound.samples).max(), np.zeros(10000, np.float32)]
    write_wav(tmp_path / "three.wav", Sound(np.concatenate(parts), 8000))
    assert cli.main(["listen", str(heard.path), str(tmp_path / "three.wav")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [sounds.labels[t] for t in sounds.targets]
    (tmp_path / "cut.wav").write_bytes((tmp_path / "three.wav").read_bytes()[:-100])
    assert cli.main(["listen", str(heard.path), str(tmp_path / "cut.wav")]) == 2
    assert "cut off" in capsys.readouterr().err


def test_what_does_not_hear_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = [np.zeros((1, 1, 28, 28), np.float32)]
    bundle = edge_lab.to(zoo.create("digitnet"), "linux-onnx-fp32", golden=x, out=tmp_path)
    assert cli.main(["listen", str(bundle.path), "-"]) == 2
    assert "does not hear" in capsys.readouterr().err


def test_run_scores_a_model_that_hears_on_recordings(tmp_path: Path) -> None:
    found = edge_lab.run("speechnet", targets=["linux-onnx-fp32"], out=tmp_path, jobs=0, progress=False)
    eager, onnx = found.rows
    assert eager.top1 is not None
    assert eager.top1 >= 95
    assert onnx.agreement == 100


def test_noise_is_no_word(heard: Bundle) -> None:
    audio = heard.spec.audio
    assert audio is not None
    rng = np.random.default_rng(0)
    recognizer = Recognizer(edge_lab.load(heard), heard.spec.labels, audio)
    assert len(words(recognizer, rng.normal(0, 0.03, 16000 * 10).astype(np.float32))) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pi-xnnpack-int8", "mcu-cortex-m4-int8"])
def test_int8_hears_as_well(target: str, tmp_path: Path) -> None:
    sounds = data.load_sounds("spoken-digits")
    model = zoo.create("speechnet" if target.startswith("pi") else "speechnet_features")
    session = edge_lab.load(edge_lab.to(model, target, golden=sounds, calibration=sounds, out=tmp_path))
    inputs = [preprocess(s, model.spec) for s in sounds]
    eager = edge_lab.eager(model)
    same = sum(int(session(x).argmax()) == int(eager(x).argmax()) for x in inputs)
    assert same >= 38


def test_the_front_end_stays_in_floats(tmp_path: Path) -> None:
    import onnx

    model = zoo.create("speechnet", weights="random")
    bundle = edge_lab.to(model, "linux-onnx-int8", out=tmp_path)
    graph = onnx.load(bundle.program_path).graph
    makes = {out: node for node in graph.node for out in node.output}
    kinds = {"Log", "DFT", "STFT"}
    front = [node for node in graph.node if node.op_type in kinds]
    assert front
    for node in front:
        assert all(makes[i].op_type != "DequantizeLinear" for i in node.input if i in makes)


def test_other_sizes_and_weights_are_refused() -> None:
    with pytest.raises(InputError, match="takes inputs of shape"):
        zoo.create("speechnet", weights="random", input_shape=(1, 8000))
    with pytest.raises(InputError, match="no ImageNet weights"):
        zoo.create("speechnet", weights="imagenet")
    with pytest.raises(InputError, match="28x28"):
        zoo.create("digitnet", input_shape=(1, 1, 32, 32))


def test_a_change_of_level_is_what_a_softer_recording_would_be() -> None:
    """What falls below the floor of the features has to be lost: quiet speakers were heard worse by ten points."""
    recipe = LogMel()
    waveform = np.random.default_rng(0).normal(0, 0.01, 16000) * np.repeat([0.0, 1.0], 8000)
    x, softer = (torch.from_numpy(log_mel(w, 16000, recipe))[None] for w in (waveform, waveform * 10 ** (-10 / 20)))
    found = masked(x, SoundFitConfig(level_db=(-10.0, -10.0), mask=0, **STILL))
    assert float((found - softer).abs().max()) < 0.02
    shifted = (x - math.log(10)).clamp(min=float(x.min()))
    assert float((shifted - softer).abs().max()) > 0.3


def _ridge(frames: int = 61, mels: int = 40) -> torch.Tensor:
    """Sixteen windows with one loud band and one loud moment, on a floor."""
    x = torch.full((16, frames, mels), -9.0)
    x[:, :, 20] = 3.0
    x[:, 44, :] = 3.0
    return x


@pytest.mark.parametrize("axis", ["time", "mel"])
def test_each_window_is_bent_in_its_own_way_and_no_further_than_asked(axis: str) -> None:
    """The loud band or moment stays one, at another place in each window; the other axis stays where it is."""
    bend = (0.0, 0.3) if axis == "time" else (0.14, 0.0)
    still = STILL | {"bend": bend}
    torch.manual_seed(0)
    found = masked(_ridge(), SoundFitConfig(level_db=(0.0, 0.0), mask=0, **still))
    moments, bands = found[:, :, 5].argmax(1), found[:, 10].argmax(1)
    moved, same, was, from_where = (moments, bands, 44, 30) if axis == "time" else (bands, moments, 20, 0)
    assert len(set(moved.tolist())) > 3
    assert set(same.tolist()) == {20 if axis == "time" else 44}
    furthest = (was - from_where) * math.exp(max(bend)) + 1
    assert ((moved - from_where).abs() <= furthest).all()
    assert ((moved - from_where).abs() >= (was - from_where) / math.exp(max(bend)) - 1).all()


def test_a_longer_vocal_tract_moves_every_band_by_the_same_factor() -> None:
    """Two loud bands stay in proportion, farther apart or closer; time stays where it is."""
    x = torch.full((32, 61, 40), -9.0)
    x[:, 30, [14, 28]] = 3.0
    torch.manual_seed(0)
    found = masked(x, SoundFitConfig(level_db=(0.0, 0.0), mask=0, **STILL | {"stretch": 0.2}))
    assert set(found.amax(2).argmax(1).tolist()) == {30}
    low, high = found[:, 30, :21].argmax(1), 21 + found[:, 30, 21:].argmax(1)
    assert len(set(high.tolist())) > 3
    assert ((high - 2 * low).abs() <= 2).all()
    assert ((high - 28).abs() <= 28 * (math.exp(0.2) - 1) + 1).all()


def test_a_band_and_a_pause_are_blanked_out_and_no_more_than_asked() -> None:
    """What is blanked has the window's mean; at most five bands and five frames are."""
    x = torch.arange(61 * 40, dtype=torch.float32).reshape(1, 61, 40).repeat(64, 1, 1) / 1000
    torch.manual_seed(0)
    found = masked(x, SoundFitConfig(level_db=(0.0, 0.0), mask=5, **STILL))
    blank = (found - x[0].mean()).abs() < 1e-6
    pauses, bands = blank.all(2).sum(1), blank.all(1).sum(1)
    assert set(pauses.tolist()) == set(bands.tolist()) == set(range(6))
    assert (blank.sum((1, 2)) == pauses * 40 + bands * 61 - pauses * bands).all()


def test_the_equaliser_colours_half_of_the_windows_and_leaves_silence_alone() -> None:
    """A gain of a band is heard where there is sound; what was at the floor stays there."""
    x = torch.zeros(64, 61, 40)
    x[:, :20] = -9.0
    torch.manual_seed(0)
    found = masked(x, SoundFitConfig(level_db=(0.0, 0.0), mask=0, **STILL | {"equaliser_db": 5.0}))
    assert float((found[:, :19] - -9.0).abs().max()) < 1e-3
    gains = found[:, 40]
    assert float(gains.abs().max()) <= 5.0 * math.log(10) / 10 + 1e-3
    coloured = (gains.abs().amax(1) > 0.01).float().mean()
    assert 0.3 < float(coloured) < 0.7


def test_mixup_mixes_what_is_to_be_learnt_as_it_mixes_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the one, three quarters of the other, in the features and in the loss."""
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.25))
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).flip(0))
    features = np.random.default_rng(0).normal(0, 1, (2, 8, 8)).astype(np.float16)
    bank = Bank(features, np.array([0, 1]), np.full(2, "fsdd/me"), np.full(2, "fsdd/a.wav"))
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    run = _Run(body, SoundFitConfig(label_smoothing=0.0), [], [2])
    x = torch.from_numpy(features.astype(np.float32))[:, None]
    chances = body(0.25 * x + 0.75 * x.flip(0)).log_softmax(1)
    hoped = -(0.25 * chances[0, 0] + 0.75 * chances[0, 1] + 0.25 * chances[1, 1] + 0.75 * chances[1, 0]) / 2
    found = run.loss(x, bank, np.array([0, 1]))
    assert found.item() == pytest.approx(hoped.item(), rel=1e-5)
