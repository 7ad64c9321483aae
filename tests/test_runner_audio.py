"""The runner and sound: recordings of every kind as Python reads them, and the words of a stream, one by one."""

from __future__ import annotations

import ctypes
import itertools
import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from runner_build import client, run
from test_runner_safety import damaged
from torch import nn

import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import DataError
from edge_lab.signals.audio import Audio, Listen, Sound, hear, read_wav, resample, write_wav
from edge_lab.signals.recognize import Recognizer, Word, words

pytestmark = pytest.mark.filterwarnings("ignore")
RATE = 16000
AUDIO = Audio(samples=8000, listen=Listen(hop=1600, smooth=3, threshold=0.6, quiet=8000, background="none"))
LABELS = ("low", "high", "none")


class Tones(nn.Module):
    """Hears a low and a high tone: the energy of a few samples under sines and cosines of two frequencies."""

    waves: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        angle = 2 * np.pi * np.arange(80) / RATE
        waves = np.stack([f(hertz * angle) for hertz in (400, 1600) for f in (np.sin, np.cos)]) / 80
        self.register_buffer("waves", torch.tensor(waves.T, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.matmul(x.reshape(-1, 80), self.waves)
        powers = (y * y).mean(0, keepdim=True)
        energies = torch.cat([powers[:, :2].sum(1, keepdim=True), powers[:, 2:].sum(1, keepdim=True)], dim=1)
        return torch.cat([energies * 250, torch.full((1, 1), 4.0)], dim=1)


@pytest.fixture(scope="module")
def library(build: Path) -> Path:
    return build / "libedge_lab.so"


@pytest.fixture(scope="module")
def bundle(artifacts: Path) -> Bundle:
    return tones(artifacts)


def tones(folder: Path) -> Bundle:
    model = nets.tensor_model(Tones(), (1, 8000))
    spec = replace(model.spec, name="tones", task="keyword", labels=LABELS, audio=AUDIO)
    return edge_lab.to(replace(model, spec=spec), "linux-portable-fp32", out=folder)


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def speech(rate: int = RATE) -> np.ndarray:
    """Two words with silence and noise around them, six seconds; float32."""
    noise = np.random.default_rng(0).normal(0, 0.02, rate)
    quiet = np.zeros(int(1.1 * rate))
    parts = [quiet, tone(400, 0.5, rate), noise, quiet, tone(1600, 0.6, rate), quiet, noise[: rate // 3]]
    return np.concatenate(parts).astype(np.float32)


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def wav(
    content: bytes, *, form: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, wide: bool = False
) -> bytes:
    """A WAV file around raw samples; `wide`: with the extensible header."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if wide else form, channels, rate, rate * block % 2**32, block % 65536, bits)
    if wide:
        head += struct.pack("<HHIH", 22, bits, 0, form) + bytes.fromhex("000000001000800000aa00389b71")
    body = b"WAVE" + chunk(b"LIST", b"abc") + chunk(b"fmt ", head) + chunk(b"data", content)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def some_wav(bits: int, floats: bool, channels: int, rate: int, wide: bool) -> bytes:
    """Noise in one format."""
    rng = np.random.default_rng(bits + channels)
    count = 700 * channels
    content = rng.uniform(-1, 1, count).astype("<f4").tobytes() if floats else rng.bytes(count * bits // 8)
    return wav(content, form=3 if floats else 1, channels=channels, rate=rate, bits=bits, wide=wide)


FORMATS = [(8, False), (16, False), (24, False), (32, False), (32, True)]


def test_every_kind_of_recording_is_read_as_python_reads_it(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    for (bits, floats), channels, wide in itertools.product(FORMATS, (1, 2, 3, 6), (False, True)):
        path.write_bytes(some_wav(bits, floats, channels, RATE, wide))
        wanted = read_wav(path)
        samples, rate = client().read_wav(path, library)
        assert (rate, samples.dtype) == (wanted.rate, np.float32)
        np.testing.assert_array_equal(samples, wanted.samples)


def test_other_rates_are_resampled_as_in_python(library: Path, bundle: Bundle, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "x.wav"
    with client().Model(bundle.path, library=library) as model:
        for rate, (bits, floats) in itertools.product((8000, 11025, RATE, 22050, 44100, 48000), FORMATS):
            path.write_bytes(some_wav(bits, floats, 1 + bits // 16, rate, wide=False))
            wanted, found = hear(path, AUDIO), model.preprocess(path)
            assert np.abs(found - wanted).max() <= (0 if rate == RATE else 1e-6), (rate, bits)
    for rate, wanted_rate in ((4000, RATE), (192000, RATE), (15999, RATE), (RATE, 8000), (44100, 48000), (44056, 4001)):
        for count in (0, 1, 37, 3001):
            x = rng.uniform(-1, 1, count).astype(np.float32)
            found, wanted = client().resample(x, rate, wanted_rate, library), resample(x, rate, wanted_rate)
            assert found.shape == wanted.shape
            assert not count or np.abs(found - wanted).max() <= 1e-6


def test_the_middle_of_a_recording_is_what_counts(library: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Longer, shorter, by an odd number; at another rate the middle is resampled alone, and must be the same."""
    rng = np.random.default_rng(2)
    with client().Model(bundle.path, library=library) as model:
        for rate, count in itertools.product((8000, RATE, 44100), (1, 77, 7999, 8000, 8001, 40_000, 100_001)):
            write_wav(tmp_path / "x.wav", Sound(rng.uniform(-0.9, 0.9, count).astype(np.float32), rate))
            found = model.preprocess(tmp_path / "x.wav")
            assert np.abs(found - hear(tmp_path / "x.wav", AUDIO)).max() <= (0 if rate == RATE else 1e-6)


NAN = np.array([0, np.nan], "<f4").tobytes()
GOOD = wav(bytes(range(200)))
BAD_FILES = {
    "empty": b"",
    "a text": b"hello, this is no recording at all",
    "no chunk": GOOD[:12],
    "no samples": GOOD[:-208],
    "nothing in them": wav(b""),
    "cut off": GOOD[:-7],
    "huge size": GOOD[:-204] + b"\xff\xff\xfe\x7f" + GOOD[-200:],
    "empty stream": GOOD[:-204] + b"\xff\xff\xff\xff" + b"\1",
    "empty, then chunks": wav(b"") + chunk(b"LIST", b"words") + chunk(b"id3 ", b"more words"),
    "half a sample": wav(b"abc"),
    "samples first": b"RIFF\0\0\0\0WAVE" + chunk(b"data", b"ab") + GOOD[24:],
    "short format": b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", b"\1\0\1\0") + chunk(b"data", b"ab"),
    "no channels": wav(b"abcd", channels=0),
    "many channels": wav(bytes(34), channels=17),
    "wrong block": GOOD[:44] + b"\3\0" + GOOD[46:],
    "12 bits": wav(b"abcd", bits=12),
    "double": wav(bytes(16), form=3, bits=64),
    "compressed": wav(b"abcd", form=2),
    "slow": wav(b"abcd", rate=3999),
    "fast": wav(b"abcd", rate=0xFFFFFFFF),
    "no number": wav(NAN, form=3, bits=32),
    "infinite": wav(np.array([-np.inf], "<f4").tobytes(), form=3, bits=32),
    "integers as floats": wav(np.float32([0] * 30_000 + [9, -16383, 100]).tobytes(), form=3, bits=32),
    "24-bit integers as floats": wav(np.float32([2e6, -8e6, 100] * 9).tobytes(), form=3, bits=32),
    "no sound at all": wav(np.float32([1e20, 0, 3]).tobytes(), form=3, bits=32),
    "no number behind too loud": wav(np.float32([100, *[0] * 20_000, np.nan]).tobytes(), form=3, bits=32),
    "opposite channels": wav(struct.pack("<400h", *[9000, -9000, -200, 200] * 100), channels=2),
    "almost opposite channels": wav(struct.pack("<404h", *[9000, -9000] * 200, 9, 9, 9, 9), channels=2),
    "infinite, and its opposite": wav(np.float32([np.inf, -np.inf]).tobytes(), form=3, bits=32, channels=2),
    "loud floats": wav(np.float32([1.5, -0.4, 0.2] * 99).tobytes(), form=3, bits=32),
    "silence": wav(bytes(400)),
    "almost silence": wav(struct.pack("<100h", *[3] * 100)),
    "clipping": wav(struct.pack("<100h", *[32767] * 4 + [-32768] * 2 + [9] * 94)),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_recordings_are_refused_in_pythons_words(name: str, runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(DataError) as refused:
        hear(path, AUDIO)
    done = run(runner, "run", bundle.path, path)
    assert done.returncode == 2
    assert done.stderr.strip() == f"edge-lab-runner: {refused.value}"
    assert len(done.stderr.splitlines()) == 3
    listened = run(runner, "listen", bundle.path, path)
    assert listened.returncode == (0 if name in ("silence", "almost silence", "clipping", "loud floats") else 2)
    assert not listened.stdout


def test_streams_of_unknown_length_are_read_to_their_end(library: Path, tmp_path: Path) -> None:
    path, rng = tmp_path / "x.wav", np.random.default_rng(4)
    for bits, floats in FORMATS:
        whole = some_wav(bits, floats, 2, RATE, wide=False)
        at = whole.index(b"data") + 4
        for size in (0, 0xFFFFFFFF, 0x7FFFF000):
            end = len(whole) - int(rng.integers(0, 30))
            path.write_bytes(
                whole[:4] + b"\xff\xff\xff\xff" + whole[8:at] + struct.pack("<I", size) + whole[at + 4 : end]
            )
            wanted = read_wav(path)
            assert 680 < len(wanted.samples) <= 700
            np.testing.assert_array_equal(client().read_wav(path, library)[0], wanted.samples)


def test_damaged_recordings_are_refused_where_python_refuses_them(library: Path, tmp_path: Path) -> None:
    rng, refused, path = random.Random(0), 0, tmp_path / "x.wav"
    good = [
        some_wav(bits, floats, 2, RATE, wide)[:900]
        for (bits, floats), wide in itertools.product(FORMATS, (False, True))
    ]
    for _ in range(500):
        path.write_bytes(damaged(rng.choice([*good, GOOD]), rng))
        try:
            wanted = read_wav(path)
        except DataError as error:
            refused += 1
            with pytest.raises(client().RunnerError, match=f"^{re.escape(str(error))}$"):
                client().read_wav(path, library)
            continue
        samples, rate = client().read_wav(path, library)
        assert rate == wanted.rate
        np.testing.assert_array_equal(samples, wanted.samples)
    assert 250 < refused < 500


def expected(bundle: Bundle, samples: np.ndarray) -> tuple[list[Word], Recognizer]:
    recognizer = Recognizer(edge_lab.load(bundle), LABELS, AUDIO)
    return words(recognizer, samples), recognizer


def same(found: list[Any], wanted: list[Word]) -> bool:
    """Labels and times equal, probabilities to 1e-6."""
    return len(found) == len(wanted) and all(
        (f.label, f.seconds) == (w.label, w.seconds) and abs(f.probability - w.probability) < 1e-6
        for f, w in zip(found, wanted, strict=True)
    )


def spoken(text: str) -> list[Word]:
    return [Word(**json.loads(line)) for line in text.splitlines()]


@pytest.mark.parametrize("rate", [8000, RATE, 44100])
def test_listen_hears_the_words_that_python_hears(rate: int, runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", Sound(speech(rate), rate))
    wanted, recognizer = expected(bundle, resample(read_wav(tmp_path / "x.wav").samples, rate, RATE))
    assert [word.label for word in wanted] == ["low", "high"]
    done = run(runner, "listen", bundle.path, tmp_path / "x.wav", "--json", "--stats")
    assert done.returncode == 0, done.stderr
    assert same(spoken(done.stdout), wanted)
    effort = recognizer.effort
    assert 0 < effort.calls < effort.windows * 0.8  # silence is not given to the network
    assert f"{effort.windows} windows, the network called for {effort.calls}" in done.stderr
    text = run(runner, "listen", bundle.path, tmp_path / "x.wav").stdout.splitlines()
    assert text == [f"{w.seconds:9.2f} s  {w.label}  {100 * w.probability:.0f} %" for w in wanted]


def test_a_listener_hears_the_same_in_pieces_of_any_size(library: Path, bundle: Bundle) -> None:
    ints = np.round(speech() * 32767).astype(np.int16)
    floats = ints.astype(np.float32) / 32768
    wanted, recognizer = expected(bundle, floats)
    cuts = np.sort(np.random.default_rng(3).integers(0, len(ints), 60))
    for samples in (ints, floats):
        with client().Model(bundle.path, library=library) as model:
            assert model.info["audio"] == {"sample_rate": RATE, "samples": 8000}
            listener = client().Listener(model)
        found = [w for part in np.split(samples, cuts) for w in listener.push(part)]  # the model is closed by now
        assert same(found + listener.finish(), wanted)
        assert listener.effort == (recognizer.effort.windows, recognizer.effort.calls)
        listener.close()
        with pytest.raises(client().RunnerError, match="is closed"):
            listener.push(samples)
    low = resample(floats, RATE, 8000)
    wanted, _ = expected(bundle, resample(low, 8000, RATE))
    with client().Model(bundle.path, library=library) as model, client().Listener(model, rate=8000) as listener:
        assert same([w for part in np.array_split(low, 41) for w in listener.push(part)] + listener.finish(), wanted)


def test_what_a_listener_refuses(library: Path, bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "tones" / "deaf"))
    document = json.loads((copy / "bundle.json").read_text())
    document["spec"]["audio"] = None
    (copy / "bundle.json").write_text(json.dumps(document))
    with client().Model(copy, library=library) as model, pytest.raises(client().RunnerError, match="does not hear"):
        client().Listener(model)
    with client().Model(bundle.path, library=library) as model:
        for rate in (-1, 1, 200_000):
            with pytest.raises(client().RunnerError, match=r"rate|samples a second"):
                client().Listener(model, rate=rate)
        with client().Listener(model) as listener:
            for bad in (np.zeros(4), np.zeros((2, 2), np.float32)):
                with pytest.raises(client().RunnerError, match="float32 or int16"):
                    listener.push(bad)
            with pytest.raises(client().RunnerError, match="no number"):
                listener.push(np.array([0, np.nan], np.float32))
            with pytest.raises(client().RunnerError, match=r"up to 16383;(?s:.)*divide them by 32768 "):
                listener.push(np.array([0, -16383], np.float32))
            for fixed in (np.zeros((9, 2), np.int16), np.zeros((9, 2), np.float32)):
                assert listener.push(fixed.mean(axis=1).astype(fixed.dtype)) == []  # what the message says
            assert listener.push(np.zeros(0, np.float32)) == []
        lib = client().load_library(library)
        assert lib.edge_lab_listen_push(None, None, 0) == -1
        assert lib.edge_lab_read_wav(None, None, 0, ctypes.c_int()) == -1


USAGE: dict[str, list[Any]] = {
    "one source is needed": ["BUNDLE"],
    "one source": ["BUNDLE", "a.wav", "b.wav"],
    "not several": ["BUNDLE", "a.wav", "--microphone"],
    "a.wav can't be read": ["BUNDLE", "a.wav"],
    "--rate '1'": ["BUNDLE", "-", "--rate", "1"],
    "the file says its own rate": ["BUNDLE", "x.wav", "--rate", "8000"],
    "no bundle at": ["/none", "-"],
}


@pytest.mark.parametrize("message", USAGE)
def test_wrong_usage(message: str, runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(GOOD)
    words = [bundle.path if w == "BUNDLE" else tmp_path / w if w == "x.wav" else w for w in USAGE[message]]
    done = run(runner, "listen", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 3


LOG_MEL = {"window": 512, "hop": 256, "fft": 512, "mels": 40, "low_hz": 60, "high_hz": 3800, "floor": 1e-4}
Edit = Callable[[dict[str, Any]], object]
BAD_BUNDLES: dict[str, Edit] = {
    "is for a microcontroller.\n  why: its program takes log-mel": lambda d: d["spec"]["audio"].update(
        features=LOG_MEL
    ),
    "is for a microcontroller.\n  why: it holds C sources": lambda d: d["runtime"].update(format="c"),
    "'spec/audio/sample_rate'": lambda d: d["spec"]["audio"].update(sample_rate="16000"),
    "'spec/audio/samples'": lambda d: d["spec"]["audio"].update(samples=1 << 25),
    "the input is something else": lambda d: d["spec"]["audio"].update(samples=8001),
    "'spec/audio/listen'": lambda d: d["spec"]["audio"].update(listen=[]),
    "'features' is missing": lambda d: d["spec"]["audio"].pop("features"),
    "'spec/audio/listen/hop'": lambda d: d["spec"]["audio"]["listen"].update(hop=0),
    "'spec/audio/listen/smooth'": lambda d: d["spec"]["audio"]["listen"].update(smooth=2.5),
    "from 0 to 1": lambda d: d["spec"]["audio"]["listen"].update(threshold=1.5),
    "0 dB at most": lambda d: d["spec"]["audio"]["listen"].update(gate_db=3),
    "'spec/audio/listen/quiet'": lambda d: d["spec"]["audio"]["listen"].update(quiet=-1),
    "'nothing' is no label": lambda d: d["spec"]["audio"]["listen"].update(background="nothing"),
}


@pytest.mark.parametrize("message", BAD_BUNDLES)
def test_bundles_that_cannot_be_listened_with(message: str, runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "tones" / "fp32"))
    document = json.loads((copy / "bundle.json").read_text())
    assert document["schema_version"] == 3
    BAD_BUNDLES[message](document)
    (copy / "bundle.json").write_text(json.dumps(document))
    done = run(runner, "listen", copy, "-")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_a_bundle_that_hears_is_checked_and_run(runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = run(runner, "check", bundle.path)
    assert done.returncode == 0, done.stdout
    write_wav(tmp_path / "x.wav", Sound(tone(400, 0.4, 22050).astype(np.float32), 22050))
    top = json.loads(run(runner, "run", bundle.path, tmp_path / "x.wav", "--json").stdout)["results"][0]["top"]
    assert top[0]["label"] == "low"
    lines = run(runner, "listen", "--help").stdout
    assert "--microphone" in lines
