"""Recordings: what is read, what is refused, how they are resampled, and the words in a stream."""

from __future__ import annotations

import io
import struct
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_lab import data, zoo
from edge_lab.bundle.spec import preprocess
from edge_lab.core.errors import DataError, InputError, MissingTool
from edge_lab.signals.audio import Audio, Listen, LogMel, Sound, fit, hear, log_mel, read_wav, resample, write_wav
from edge_lab.signals.recognize import Recognizer, microphone, words


def _tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _wav(path: Path, data: bytes, *, form: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16) -> Path:
    block = channels * bits // 8
    header = struct.pack("<HHIIHH", form, channels, rate, rate * block, block, bits)
    body = b"WAVE" + _chunk(b"fmt ", header) + _chunk(b"LIST", b"abc") + _chunk(b"data", data)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def test_every_format_says_the_same(tmp_path: Path) -> None:
    x = _tone(16000, 0.1)
    ints = np.round(x.astype(np.float64) * 2**31).astype(np.int64)
    kinds = {
        "8": ((ints >> 24) + 128).astype(np.uint8).tobytes(),
        "16": (ints >> 16).astype("<i2").tobytes(),
        "24": b"".join(int(v >> 8).to_bytes(3, "little", signed=True) for v in ints),
        "32": ints.astype("<i4").tobytes(),
    }
    for bits, content in kinds.items():
        found = read_wav(_wav(tmp_path / f"{bits}.wav", content, bits=int(bits)))
        assert found.rate == 16000
        assert np.abs(found.samples - x).max() <= 2 / 2 ** int(bits)
    found = read_wav(_wav(tmp_path / "f.wav", x.astype("<f4").tobytes(), form=3, bits=32))
    np.testing.assert_array_equal(found.samples, x)
    both = np.stack([x, -x / 2], axis=1)
    found = read_wav(_wav(tmp_path / "s.wav", both.astype("<f4").tobytes(), form=3, channels=2, bits=32))
    np.testing.assert_allclose(found.samples, x / 4, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_a_tone_stays_a_tone(rate: int) -> None:
    y = resample(_tone(rate), rate, 16000)
    assert len(y) == 16000
    assert np.abs(y - _tone(16000))[400:-400].max() < 1e-4


def test_resampling_leaves_out_what_does_not_fit() -> None:
    loud = resample(_tone(48000, hertz=11000), 48000, 16000)  # above 8 kHz: it would come back as 5 kHz
    assert np.abs(loud)[400:-400].max() < 1e-3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"hello, this is text", "no RIFF/WAVE"),
        (b"RIFF\0\0\0\0WAVE", "holds no samples"),
        (b"RIFF\0\0\0\0WAVEfmt \4\0\0\0\1\0\1\0", "format chunk is cut off"),
        (b"RIFF\0\0\0\0WAVEdata\2\0\0\0ab", "before their format"),
    ],
)
def test_what_is_no_recording(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(DataError, match=why):
        read_wav(tmp_path / "x.wav")


def test_damaged_recordings_are_refused(tmp_path: Path) -> None:
    good = _wav(tmp_path / "good.wav", _tone(16000).astype("<f4").tobytes(), form=3, bits=32)
    (tmp_path / "cut.wav").write_bytes(good.read_bytes()[:-1000])
    bad = {
        "cut off: 63000 of 64000": tmp_path / "cut.wav",
        "no numbers": _wav(tmp_path / "nan.wav", np.full(9, np.nan, "<f4").tobytes(), form=3, bits=32),
        "format 2": _wav(tmp_path / "adpcm.wav", b"abcd", form=2, bits=4),
        "0 channels": _wav(tmp_path / "none.wav", b"abcd", channels=0),
        "1 samples a second": _wav(tmp_path / "slow.wav", b"abcd", rate=1),
        "in the middle of one": _wav(tmp_path / "odd.wav", b"abc"),
        "Is a directory": tmp_path,
    }
    for why, path in bad.items():
        with pytest.raises(DataError, match=why):
            read_wav(path)


def test_silence_and_clipping_are_refused(tmp_path: Path) -> None:
    audio = Audio()
    write_wav(tmp_path / "silence.wav", Sound(np.zeros(8000, np.float32), 8000))
    write_wav(tmp_path / "clipped.wav", Sound(np.clip(_tone(16000) * 9, -1, 1), 16000))
    with pytest.raises(DataError, match="is silent"):
        hear(tmp_path / "silence.wav", audio)
    with pytest.raises(DataError, match="is clipped"):
        hear(tmp_path / "clipped.wav", audio)


def test_float_samples_in_the_range_of_integers_are_named(tmp_path: Path) -> None:
    x = _tone(16000, 0.2)
    for scale, divide in ((32767, 32768), (2**22, 8388608), (2**30, 2147483648), (2**40, None)):
        path = _wav(tmp_path / "x.wav", (x * scale).astype("<f4").tobytes(), form=3, bits=32)
        with pytest.raises(DataError, match=r"goes beyond full scale") as refused:
            read_wav(path)
        assert f"up to {scale * float(np.abs(x).max()):g};" in refused.value.why
        assert divide is None or f"divide them by {divide} " in refused.value.fix
        with pytest.raises(DataError, match="goes beyond full scale"):
            hear(x * np.float32(scale), Audio())
    loud = _wav(tmp_path / "loud.wav", (x * 3).astype("<f4").tobytes(), form=3, bits=32)
    with pytest.raises(DataError, match=r"beyond full scale(?s:.)*divide them by 1.5 "):  # not clipped: nothing is lost
        hear(loud, Audio())
    peaks = np.concatenate([x / 4, np.full(40, 1.5, np.float32)])  # a few samples may be louder than 1
    assert hear(_wav(tmp_path / "p.wav", peaks.tobytes(), form=3, bits=32), Audio()).max() == 1.5


STREAMS = [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (36, 0), (0x7FFFF024, 0x7FFFF000), (0x7FFFFFFF, 0x7FFFFF00)]


@pytest.mark.parametrize(("riff", "size"), STREAMS)
def test_a_stream_of_unknown_length_goes_to_the_end(riff: int, size: int, tmp_path: Path) -> None:
    """What ffmpeg, sox, arecord and an interrupted recorder leave behind, also if it ends in the middle of a sample."""
    x = np.round(_tone(16000, 0.1) * 32767).astype("<i2")
    whole = _wav(tmp_path / "x.wav", x.tobytes(), channels=2).read_bytes()
    at = whole.index(b"data") + 4
    for rest in (x.tobytes(), x.tobytes()[:-3]):
        content = whole[:4] + struct.pack("<I", riff) + whole[8:at] + struct.pack("<I", size) + rest
        (tmp_path / "x.wav").write_bytes(content)
        wanted = x[: len(rest) // 4 * 2].reshape(-1, 2).mean(axis=1) / 32768
        np.testing.assert_array_equal(read_wav(tmp_path / "x.wav").samples, wanted.astype(np.float32))


def test_an_empty_recording_with_other_chunks_stays_empty(tmp_path: Path) -> None:
    content = _wav(tmp_path / "x.wav", b"").read_bytes() + _chunk(b"LIST", b"some words") + _chunk(b"id3 ", b"odd")
    for cut in (0, 1):  # many programs leave the last padding out
        (tmp_path / "x.wav").write_bytes(content[: len(content) - cut])
        with pytest.raises(DataError, match="holds no samples"):
            read_wav(tmp_path / "x.wav")


def test_channels_that_cancel_each_other_are_named(tmp_path: Path) -> None:
    x = np.round(_tone(16000, 0.2) * 32767).astype("<i2")
    opposite = _wav(tmp_path / "o.wav", np.stack([x, -x], 1).tobytes(), channels=2)
    with pytest.raises(DataError, match=r"cancel each other(?s:.)*2 channels reaches 0.50"):
        hear(opposite, Audio())
    for other in (0 * x, x // 2, -x // 2, np.roll(-x, 3)):
        hear(_wav(tmp_path / "g.wav", np.stack([x, other], 1).tobytes(), channels=2), Audio())
    with pytest.raises(DataError, match="is silent"):
        hear(_wav(tmp_path / "s.wav", bytes(4000), channels=2), Audio())


ARRAYS = {
    "int16": np.round(_tone(16000, 0.1) * 32767).astype(np.int16),
    "int32": np.round(_tone(16000, 0.1) * 2**30).astype(np.int32),
    r"float32 \(1600, 2\)": np.stack([_tone(16000, 0.1)] * 2, axis=1),
    r"float64 \(2, 1600\)": np.zeros((2, 1600)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_sound_are_refused(name: str) -> None:
    """int16 and (N, 2) are what scipy.io.wavfile reads."""
    for give in (lambda: hear(ARRAYS[name], Audio()), lambda: hear(Sound(ARRAYS[name], 8000), Audio())):
        with pytest.raises(InputError, match=name):
            give()
    with pytest.raises(InputError, match=name):
        words(Recognizer(Loud(), ("on", "off"), AUDIO), ARRAYS[name])


def test_samples_that_are_no_numbers_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        x = _tone(16000)
        x[5] = bad
        with pytest.raises(DataError, match="1 of 16000 samples are NaN or infinite"):
            hear(x, Audio())
        with pytest.raises(DataError, match="no numbers"):
            words(Recognizer(Loud(), ("on", "off"), AUDIO), x)
    assert hear(_tone(16000).astype(np.float64), Audio()).dtype == np.float32


def test_fitting_keeps_the_middle() -> None:
    np.testing.assert_array_equal(fit(np.arange(1, 4, dtype=np.float32), 6), [0, 1, 2, 3, 0, 0])
    np.testing.assert_array_equal(fit(np.arange(7, dtype=np.float32), 4), [1, 2, 3, 4])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    sound = data.load_sounds("spoken-digits")[7]
    write_wav(tmp_path / "x.wav", sound)
    np.testing.assert_array_equal(read_wav(tmp_path / "x.wav").samples, sound.samples)


def test_the_front_end_in_the_graph_is_log_mel() -> None:
    model = zoo.create("speechnet", weights="random")
    features = zoo.create("speechnet_features", weights="random")
    for sound in data.load_sounds("spoken-digits").take(5):
        x, wanted = preprocess(sound, model.spec), preprocess(sound, features.spec)
        inside = model.module.get_submodule("front")(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(inside, wanted, atol=2e-5)


def test_filters_that_would_be_empty_are_refused() -> None:
    with pytest.raises(InputError, match="leaves filters empty"):
        log_mel(_tone(16000), 16000, LogMel(mels=200))


class Loud:
    """A network that hears "on" when the last tenth of the window is loud, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.array([[9.0, 0.0]]) if np.abs(x[0, -1600:]).max() > 0.1 else np.array([[0.0, 9.0]])


AUDIO = Audio(listen=Listen(hop=1600, smooth=2, threshold=0.8, quiet=8000, gate_db=-40, background="off"))


def test_a_word_is_reported_once_and_silence_costs_nothing() -> None:
    network = Loud()
    recognizer = Recognizer(network, ("on", "off"), AUDIO)
    sound = np.concatenate([np.zeros(16000, np.float32), _tone(16000, 0.4), np.zeros(32000, np.float32)])
    found = words(recognizer, sound)
    assert [(w.label, w.seconds) for w in found] == [("on", 1.2)]
    assert found[0].probability == pytest.approx(1, abs=1e-3)
    assert recognizer.effort.windows == len(sound) // 1600
    assert recognizer.effort.calls == network.calls
    assert network.calls <= 4 + 10  # while the tone is in the window; never before it


def test_how_the_samples_arrive_does_not_matter() -> None:
    sound = np.tile(np.concatenate([_tone(16000, 0.3), np.zeros(11200, np.float32)]), 4)
    whole = words(Recognizer(Loud(), ("on", "off"), AUDIO), sound)
    pieces = Recognizer(Loud(), ("on", "off"), AUDIO)
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.integers(0, len(sound), 50))
    found = [word for part in np.split(sound, cuts) for word in pieces.push(part)]
    assert found == whole
    assert len(whole) == 4


def test_a_recognizer_wants_waveforms() -> None:
    with pytest.raises(InputError, match="takes features"):
        Recognizer(Loud(), ("on", "off"), replace(AUDIO, features=LogMel()))
    with pytest.raises(InputError, match="is no label"):
        Recognizer(Loud(), ("on", "out"), AUDIO)


def test_a_microphone_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match="could not be started"), microphone(16000, (str(tmp_path / "no"),)):
        pass
    with (
        microphone(16000, ("sh", "-c", "echo no card >&2; exit 3")) as blocks,
        pytest.raises(DataError, match="no card"),
    ):
        list(blocks)
    with microphone(16000, ("sh", "-c", "head -c 6400 /dev/zero")) as blocks:
        assert sum(len(block) for block in blocks) == 3200


def test_recordings_of_your_own(tmp_path: Path) -> None:
    for name in ("7.wav", "3_me_1.wav", "hello.wav"):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(b"\1\0" * 800)
    found = data.sound_folder(tmp_path, "me")
    assert found.y.tolist() == [3, 7]
    assert set(found.speakers) == {"me"}
    with pytest.raises(InputError, match="no recordings of digits"):
        data.sound_folder(tmp_path / "nowhere")


def test_the_shipped_recordings() -> None:
    sounds = data.load_sounds("spoken-digits")
    assert len(sounds) == 40
    assert np.bincount(sounds.y).tolist() == [4] * 10
    assert sounds.by(["george"]).speakers == ("george",) * 10
    assert all(s.rate == 8000 and 0.1 < s.seconds < 1.5 for s in sounds)
    with pytest.raises(InputError, match="no split"):
        data.load_sounds("spoken-digits", "train")
    with pytest.raises(InputError, match="no set of recordings"):
        data.load_sounds("whales")


@pytest.mark.real_data
def test_train_and_test_takes_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    if not (Path(os.environ.get("EDGE_LAB_DATA", "/nowhere")) / "fsdd.zip").is_file():
        pytest.skip("no fsdd.zip in $EDGE_LAB_DATA")
    train, test = data.load_sounds("fsdd", "train"), data.load_sounds("fsdd", "test")
    assert not set(train.names) & set(test.names)
    assert set(data.load_sounds("spoken-digits").names) <= set(test.names)


def test_a_download_must_be_whole(tmp_path: Path) -> None:
    import zipfile

    from edge_lab.data.spoken import is_whole

    with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
        archive.writestr("recordings/0_george_0.wav", b"")
    assert "1 recordings of 1 speakers" in is_whole(tmp_path / "part.zip")
    (tmp_path / "page.zip").write_bytes(b"<html>")
    assert is_whole(tmp_path / "page.zip")


def test_the_pipe_takes_raw_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_lab.flow.listen import _raw

    raw = io.BytesIO(np.arange(5, dtype="<i2").tobytes() + b"x")
    assert np.concatenate(list(_raw(raw, 2))).tolist() == [i / 32768 for i in range(5)]
