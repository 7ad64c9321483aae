"""The runner's readers under sanitizers: good files, damaged ones, and what a fuzzer makes of them."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_build import run, safety_build
from test_runner_pixels import JPEGS, broken_exif, photo, png, wav, with_exif

from edge_lab.bundle.folder import MANIFEST
from edge_lab.core.files import sha256

RECIPE = {"resize": 20, "crop": [15, 17], "mean": [0.5], "std": [0.25], "scale": 0.01}
RECIPE |= {"interpolation": "bicubic", "color": "L"}


@pytest.fixture(scope="module")
def build(artifacts: Path) -> Path:
    return safety_build(artifacts)


def tensor(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": "float32", "layout": "NCHW"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose every part but the program is real: the readers don't run programs."""
    path = tmp_path_factory.mktemp("safety") / "bundle"
    (path / "golden").mkdir(parents=True)
    photo(31, 22).save(path / "golden/0.png")
    np.zeros((1, 1, 15, 17), np.float32).tofile(path / "golden/0.input.bin")
    np.arange(4, dtype=np.float32).tofile(path / "golden/0.output.bin")
    (path / "labels.txt").write_text("a\nb\r\nc\n\u00fc\n", encoding="utf-8")
    (path / "model.pte").write_bytes(bytes(64))
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    files = {name: {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size} for name in sorted(names)}
    spec = {"name": "small", "task": "classify", "input": tensor("x", 1, 1, 15, 17), "preprocess": RECIPE}
    spec |= {"postprocess": {"softmax": True, "top_k": 5}, "weights": "random"}
    runtime = {"format": "pte", "backend": "xnnpack", "package": "executorch", "made_with": "1.5.1"}
    case = {"input": "golden/0.png", "tensor": "golden/0.input.bin", "outputs": ["golden/0.output.bin"]}
    document = {
        "schema_version": 1,
        "target": "linux-xnnpack-fp32",
        "spec": spec,
        "labels": "labels.txt",
        "runtime": runtime | {"min_version": "1.5.1", "delegated": 1.0, "operators": []},
        "quantization": {"scheme": "fp32"},
        "program": "model.pte",
        "outputs": [tensor("y", 1, 4)],
        "golden": [case | {"atol": 0.1, "atols": [0.1], "reference": "self"}],
        "parity": {"allowed": True, "outputs": [{"name": "y", "sqnr_db": 1.5, "limit_db": 60.0}]},
        "files": files,
        "metrics": {"top1": None, "size_mb": 0.1},
    }
    (path / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    return path


def hearing(document: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a waveform for its input."""
    listen = {"hop": 160, "smooth": 2, "threshold": 0.5, "quiet": 99, "gate_db": -50.0, "background": "a"}
    audio = {"sample_rate": 16000, "samples": 800, "features": None, "listen": listen}
    spec = document["spec"] | {"task": "keyword", "input": tensor("x", 1, 800), "preprocess": None, "audio": audio}
    return document | {"schema_version": 3, "spec": spec}


def sound(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a corpus run in which no sanitizer spoke up."""
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert "runtime error" not in done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("good ", "refused "))]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, with bytes changed, repeated, or taken out."""
    out = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(out[: rng.randrange(len(out))])
    for _ in range(rng.randrange(1, 6)):
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    if kind == 1:
        at = rng.randrange(len(out))
        out[at:at] = out[at : at + rng.randrange(1, 40)]
    elif kind == 2:
        at = rng.randrange(len(out))
        del out[at : at + rng.randrange(1, 40)]
    return bytes(out)


def wild_number(text: bytes, rng: random.Random) -> bytes:
    """One number of a manifest replaced by one that no reader expects."""
    start, end = rng.choice([match.span() for match in re.finditer(rb"-?\b\d[\d.]*\b", text)])
    return text[:start] + rng.choice((b"-1", b"1e999", b"4294967296", b"99999999999999999999", b'"1"')) + text[end:]


def pictures(folder: Path) -> list[Path]:
    for name, how in JPEGS.items():
        photo(40, 33).save(folder / f"{name}.jpg", **how)
    photo(33, 40).convert("CMYK").save(folder / "cmyk.jpg")
    photo(33, 40).convert("L").save(folder / "grey.jpg", exif=with_exif(6))
    for kind, depth in ((0, 1), (0, 16), (2, 8), (2, 16), (3, 2), (3, 8), (4, 8), (6, 16)):
        for interlaced in (False, True):
            path = folder / f"{kind}-{depth}-{interlaced}.png"
            path.write_bytes(png(19, 9, depth, kind, interlaced, seed=depth))
    for i, exif in enumerate(broken_exif()):
        photo(9, 8).save(folder / f"exif{i}.jpg", exif=exif)
    wav(folder / "speech.wav", np.arange(-300, 300, dtype=np.int16))
    return sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png", ".wav"))


def test_good_and_damaged_files_under_sanitizers(build: Path, tmp_path: Path) -> None:
    good = pictures(tmp_path)
    (tmp_path / "a.recipe").write_text(json.dumps(RECIPE))
    lines = sound(run(build / "edge_lab_corpus", tmp_path / "a.recipe", *good))
    assert len(lines) == len(good) + 1
    assert not [line for line in lines if line.startswith("refused")]
    rng, bad = random.Random(0), []
    for i in range(500):
        source = rng.choice(good)
        bad.append(tmp_path / f"bad{i}{source.suffix}")
        bad[-1].write_bytes(damaged(source.read_bytes(), rng))
    lines = sound(run(build / "edge_lab_corpus", tmp_path / "a.recipe", *bad))
    assert len(lines) == 501
    assert sum(line.startswith("refused") for line in lines) > 50


def test_damaged_recordings_under_sanitizers(build: Path, tmp_path: Path) -> None:
    """Read, resampled, listened to: every format, two rates that are not the model's."""
    rng, kinds = random.Random(2), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3)]
    good, bad = [], []
    for i, (bits, form) in enumerate(kinds):
        channels, rate = 1 + i % 3, (8000, 22050)[i % 2]
        block = channels * bits // 8
        samples = np.random.default_rng(i).uniform(-0.9, 0.9, 600 * channels).astype("<f4").tobytes()
        samples = samples if form == 3 else rng.randbytes(600 * block)
        head = struct.pack("<HHIIHH", form, channels, rate, rate * block, block, bits)
        body = b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", len(samples)) + samples
        good.append(tmp_path / f"good{i}.wav")
        good[-1].write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    lines = sound(run(build / "edge_lab_corpus", *good))
    assert len([line for line in lines if line.startswith("good")]) == len(good)
    for i in range(500):
        content = rng.choice(good).read_bytes()
        start = 44 if i % 3 else len(content)  # mostly the header alone: the samples can't be wrong in many ways
        bad.append(tmp_path / f"bad{i}.wav")
        bad[-1].write_bytes(damaged(content[:start], rng) + content[start:])
    lines = sound(run(build / "edge_lab_corpus", *bad))
    assert len(lines) == 500
    assert sum(line.startswith("refused") for line in lines) > 100


def test_bundles_under_sanitizers(build: Path, small: Path, tmp_path: Path) -> None:
    (line,) = sound(run(build / "edge_lab_corpus", small))
    assert line == f"good {small}: bundle"
    text, rng, all_of_them = (small / MANIFEST).read_bytes(), random.Random(1), []
    heard = json.dumps(hearing(json.loads(text))).encode()
    edits = [damaged] * 300 + [wild_number] * 100
    for i, edit in enumerate(edits):
        all_of_them.append(tmp_path / f"{i}.json")
        all_of_them[-1].write_bytes(edit(heard if i % 3 == 0 else text, rng))
    lines = sound(run(build / "edge_lab_corpus", *all_of_them))
    assert len(lines) == len(edits)
    assert sum(line.startswith("refused") for line in lines) > 200


@pytest.mark.parametrize("name", ["golden/0.input.bin", "labels.txt", "golden/0.png", "golden/0.output.bin"])
def test_damaged_parts_of_a_bundle_under_sanitizers(name: str, build: Path, small: Path, tmp_path: Path) -> None:
    """With a fitting checksum, so that the reader behind it is reached."""
    copy = Path(shutil.copytree(small, tmp_path / "bundle"))
    whole = (copy / name).read_bytes()
    for content in (b"", whole[:-1], whole + b"x", whole[: len(whole) // 2], b"\n" * 5000):
        (copy / name).write_bytes(content)
        document = json.loads((small / MANIFEST).read_text(encoding="utf-8"))
        document["files"][name] = {"sha256": sha256(copy / name), "bytes": len(content)}
        (copy / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
        assert len(sound(run(build / "edge_lab_corpus", copy))) >= 1


@pytest.mark.parametrize(("target", "runs"), [("fuzz_bundle", 20_000), ("fuzz_image", 3_000)])
def test_a_fuzzer_finds_nothing(target: str, runs: int, build: Path, small: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if target == "fuzz_bundle":
        shutil.copy(small / MANIFEST, corpus)
        (corpus / "recipe").write_text(json.dumps(RECIPE))
        (corpus / "sound").write_text(json.dumps(hearing(json.loads((small / MANIFEST).read_text(encoding="utf-8")))))
    else:
        pictures(corpus)
    # Its limit of resident memory is off: the peak that it reads is inherited from pytest across exec.
    limits = ("-max_total_time=30", "-timeout=20", "-rss_limit_mb=0", "-malloc_limit_mb=500")
    command = [str(build / target), f"-runs={runs}", "-seed=1", *limits]
    done = subprocess.run([*command, str(corpus)], capture_output=True, text=True, errors="replace", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    finished = re.search(r"Done (\d+) runs", done.stderr)
    assert finished
    assert int(finished.group(1)) > 1000
