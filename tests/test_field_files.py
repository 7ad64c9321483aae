"""Files as they lie about, given to Python, the C++ runner and the NumPy client: one answer, or one refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from field_pictures import PILLOW, READ, REFUSED, foreign, pictures
from field_sounds import encoded, sounds, tones, wav
from PIL import Image
from runner_build import client, run
from test_runner_audio import AUDIO
from test_runner_audio import tones as tones_bundle
from torch import nn

import edge_lab
from edge_lab import zoo
from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import Postprocess, Preprocess, preprocess
from edge_lab.core.errors import DataError, EdgeLabError, InputError
from edge_lab.flow.listen import listen

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def seeing(artifacts: Path) -> Bundle:
    """A model of small pictures whose scores depend on every pixel."""
    torch.manual_seed(0)
    recipe = Preprocess(24, (24, 24), (0.5,) * 3, (0.25,) * 3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 7))
    model = zoo.from_module(net, (1, 3, 24, 24), name="field", preprocess=recipe, labels=tuple("abcdefg"))
    return edge_lab.to(model, "linux-portable-fp32", out=artifacts)


@pytest.fixture(scope="module")
def hearing(artifacts: Path) -> Bundle:
    return tones_bundle(artifacts)


def _read(read: Callable[[Path], np.ndarray], path: Path, *refusals: type[Exception]) -> np.ndarray | str:
    """The tensor, or the words of the refusal; anything else that is raised is a fault."""
    try:
        return read(path)
    except refusals as error:
        words = str(error)
        assert [line[:7] for line in words.splitlines()[1:]] == ["  why: ", "  fix: "], f"{path.name}: {words}"
        return words


def compare(files: list[tuple[str, bytes, str]], folder: Path, bundle: Bundle, runner: Path) -> tuple[int, int]:
    """Give all files to the three readers; how many all read, and how many all refused."""
    names = [name for name, _, _ in files]
    assert len(set(names)) == len(names)
    for name, content, _ in files:
        (folder / name).write_bytes(content)
    told = run(runner, "run", bundle.path, *(folder / name for name in names), "--json")
    answers = {Path(one["input"]).name: one["top"][0] for one in json.loads(told.stdout)["results"]}
    errors = {Path(line.split(" ")[1]).name for line in told.stderr.splitlines() if line.startswith("edge-lab-runner")}
    assert told.returncode == 2
    assert set(answers) | errors == set(names)
    assert not set(answers) & errors
    read = 0
    with client().Model(bundle.path, library=runner.parent / "libedge_lab.so") as model:
        for name, _, wanted in files:
            by_python = _read(lambda path: preprocess(path, bundle.spec), folder / name, DataError)
            by_client = _read(model.preprocess, folder / name, client().RunnerError)
            assert isinstance(by_client, str) == (name in errors), f"{name}: {by_client}"
            if wanted:
                assert isinstance(by_python, str) == (wanted == REFUSED), f"{name}: {by_python}"
            assert isinstance(by_client, str) == (isinstance(by_python, str) or wanted == PILLOW), (
                f"{name}: {by_client}"
            )
            if isinstance(by_client, str) or isinstance(by_python, str):
                continue
            read += 1
            limit = 1e-6 if bundle.spec.audio else 0  # resampled sound is the same to 1e-6, pixels to the bit
            assert np.abs(by_client - by_python).max() <= limit, name
            best = model.predict(folder / name)[0]
            assert (best.index, best.label) == (answers[name]["index"], answers[name]["label"]), name
            assert abs(best.score - answers[name]["score"]) < 1e-6, name
    return read, len(errors)


def test_three_readers_agree_about_pictures(seeing: Bundle, runner: Path, tmp_path: Path) -> None:
    files = list(pictures())
    read, refused = compare(files, tmp_path, seeing, runner)
    assert read == sum(wanted == READ for _, _, wanted in files)
    assert refused == len(files) - read
    assert len(files) > 300


def test_three_readers_agree_about_recordings(hearing: Bundle, runner: Path, tmp_path: Path) -> None:
    files = list(sounds())
    read, refused = compare(files, tmp_path, hearing, runner)
    assert read + refused == len(files)
    assert len(files) > 150
    for name, _, _ in files:  # and they say the same about it
        by_python = _read(lambda path: preprocess(path, hearing.spec), tmp_path / name, DataError)
        if isinstance(by_python, str):
            said = run(runner, "run", hearing.path, tmp_path / name).stderr
            assert said == f"edge-lab-runner: {by_python}\n"


@pytest.mark.parametrize("name", foreign())
def test_a_file_of_another_kind_is_named_with_a_way_out(
    name: str, seeing: Bundle, hearing: Bundle, runner: Path, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(foreign()[name])
    for bundle in (seeing, hearing):
        refused = _read(lambda path, spec=bundle.spec: preprocess(path, spec), path, DataError)
        assert isinstance(refused, str)
        what, why, fix = refused.splitlines()
        said = run(runner, "run", bundle.path, path).stderr.splitlines()
        assert said[0] == f"edge-lab-runner: {what}"
        assert name in ("text", "json", "svg") or "  why: it is a" in why
        if name != "text":
            assert said[1].removesuffix(", and JPEG and PNG are read here.").rstrip(".") == why.rstrip(".")
            assert said[2] == fix


def _listened(bundle: Path) -> tuple[list[str], str]:
    """The words of standard input, or the words of the refusal."""
    try:
        return [word.label for word in listen(bundle, "-")], ""
    except EdgeLabError as error:
        return [], str(error)


PIPED = [name for name, _, _ in sounds() if not name.startswith(("byte", "rate", "length"))]


def test_a_recording_in_a_pipe_is_heard_like_its_file(
    hearing: Bundle, runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words or a refusal; raw samples don't begin with any of these headers."""
    for name, content, _ in sounds():
        if name not in PIPED:
            continue
        (tmp_path / name).write_bytes(content)
        of_file = run(runner, "listen", hearing.path, tmp_path / name, "--json")
        with (tmp_path / name).open("rb") as pipe:
            done = subprocess.run(
                [str(runner), "listen", str(hearing.path), "-", "--json"], stdin=pipe, capture_output=True, text=True
            )
        with (tmp_path / name).open("rb") as pipe:
            monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
            words, refused = _listened(hearing.path)
        if refused:
            assert done.returncode == 2, name
            assert done.stderr.splitlines()[:2] == f"edge-lab-runner: {refused}".splitlines()[:2], name
            continue
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert words == [json.loads(line)["label"] for line in done.stdout.splitlines()], name
        if of_file.returncode == 0:
            assert done.stdout == of_file.stdout, name


@pytest.mark.parametrize("rate", [8000, 44100])
def test_words_of_another_rate_come_out_of_a_pipe(rate: int, hearing: Bundle, runner: Path, tmp_path: Path) -> None:
    """44.1 kHz taken for 16 kHz gave false words."""
    from test_runner_audio import speech

    (tmp_path / "x.wav").write_bytes(wav(encoded(np.repeat(speech(rate), 2), 16, False), channels=2, rate=rate))
    for command in (
        [str(runner), "listen", str(hearing.path), "-"],
        [sys.executable, "-m", "edge_lab", "listen", str(hearing.path), "-"],
    ):
        with (tmp_path / "x.wav").open("rb") as pipe:
            done = subprocess.run(command, stdin=pipe, capture_output=True, text=True, check=True)
        assert [line.split()[2] for line in done.stdout.splitlines()] == ["low", "high"]


def test_good_answers_are_not_lost_beside_a_bad_file(seeing: Bundle, runner: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (30, 30), (9, 99, 200)).save(good)
    bad.write_bytes(b"words")
    done = run(runner, "run", seeing.path, bad, good, tmp_path / "none.png")
    assert done.returncode == 2
    assert done.stdout == run(runner, "run", seeing.path, good).stdout
    assert [line for line in done.stderr.splitlines() if "edge-lab-runner: " in line] == [
        f"edge-lab-runner: {bad} could not be read as an image.",
        f"edge-lab-runner: {tmp_path / 'none.png'} can't be read.",
    ]


def test_paths_that_lead_nowhere(seeing: Bundle, runner: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    for name in ("loop", "folder", "missing"):
        words = _read(lambda path: preprocess(path, seeing.spec), tmp_path / name, DataError)
        assert isinstance(words, str)
        assert "image viewer" not in words
        done = run(runner, "run", seeing.path, tmp_path / name)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 3)


def _memory(*command: object) -> int:
    """The most memory that a process has had, in bytes; it must end well.

    A process between, because a child counts what its parent had when it began.
    """
    done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return int(done.stdout.splitlines()[-1]) * 1024


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
PREPROCESS = """
import sys
from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import preprocess
preprocess(sys.argv[2], Bundle.load(sys.argv[1]).spec)
"""


def test_no_file_takes_a_gigabyte(seeing: Bundle, hearing: Bundle, runner: Path, tmp_path: Path) -> None:
    """A photo of 108 megapixels took 2.0 GB, a picture of 60000 x 1 all memory, 15 minutes of stereo 1.4 GB."""
    tile = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    camera = Image.fromarray(np.tile(np.asarray(Image.fromarray(tile).resize((1200, 900))), (10, 10, 1)))
    turned = Image.Exif()
    turned[0x0112] = 6
    camera.save(tmp_path / "turned.jpg", quality=80, exif=turned)
    camera.convert("RGBA").save(tmp_path / "alpha.png", compress_level=1)
    Image.new("L", (60000, 1), 128).save(tmp_path / "strip.png")
    stereo = encoded(tones(44100, 1), 16, False)
    (tmp_path / "long.wav").write_bytes(wav(stereo * 1800, channels=2, rate=44100))
    for bundle, name in ((seeing, "turned.jpg"), (seeing, "alpha.png"), (seeing, "strip.png"), (hearing, "long.wav")):
        path = str(tmp_path / name)
        most = 100e6 if name in ("strip.png", "long.wav") else 1e9
        assert _memory(sys.executable, "-c", PREPROCESS, bundle.path, path) < most, name
        assert _memory(runner, "run", bundle.path, path) < most, name
    assert hearing.spec.audio == AUDIO


LABELS = [
    "",
    " ",
    "a\tb",
    "a\rb",
    "caf\u00e9",
    "cafe\u0301",
    "\U0001f436",
    "\u05d0\u05d1",
    "\x85",
    "\u2028x",
    "\x0b",
    "\x1f",
]
LABELS += ['"quoted"', "back\\slash", "{}", "%s", "<b>", "a,b", "#", "0", "x" * 3000, "a\ufeff", "dog", "dog"]


def test_any_text_is_one_label_in_every_reader(runner: Path, artifacts: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, len(LABELS)))
    recipe = Preprocess(8, (8, 8), (0.0,) * 3, (1.0,) * 3)
    model = zoo.from_module(net, (1, 3, 8, 8), name="labels", preprocess=recipe, labels=LABELS)
    model = replace(model, spec=model.spec.with_(postprocess=Postprocess(top_k=len(LABELS))))
    bundle = edge_lab.to(model, "linux-portable-fp32", out=artifacts)
    assert Bundle.load(bundle.path).spec.labels == tuple(LABELS)
    with client().Model(bundle.path, library=runner.parent / "libedge_lab.so") as opened:
        assert opened.labels == tuple(LABELS)
    picture = str(artifacts / "labels.png")
    Image.new("RGB", (9, 9)).save(picture)
    shown = json.loads(run(runner, "run", bundle.path, picture, "--json").stdout)["results"][0]["top"]
    assert {one["index"]: one["label"] for one in shown} == dict(enumerate(LABELS))


@pytest.mark.parametrize("label", ["cat\ndog", "cat\r", "\n", "\ufeffcat", "a\0b", "a\ud83d"])
def test_what_is_no_label_is_refused_with_the_way_to_one(label: str) -> None:
    with pytest.raises(InputError, match=r"label .* (holds|begins|can't)(.|\n)*  fix: "):
        zoo.from_module(nn.Flatten(), (1, 2), labels=(label, "a"))
