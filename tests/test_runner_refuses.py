"""What edge-lab-runner refuses: wrong usage, damaged bundles, bad manifests, programs that are none; in three lines."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from runner_build import SOURCE, client, run
from torch import nn

import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import InputError
from edge_lab.core.files import sha256

pytestmark = pytest.mark.filterwarnings("ignore")
PHOTO = Path(__file__).parents[1] / "edge_lab/assets/photos/astronaut.jpg"


@pytest.fixture(scope="module")
def bundle(artifacts: Path) -> Bundle:
    return edge_lab.to(nets.good(), "linux-xnnpack-fp32", out=artifacts)


USAGE: dict[str, list[Any]] = {
    "no command is named": [],
    "there is no command 'fly'": ["fly"],
    "no bundle is named": ["run"],
    "unknown option --fast": ["check", "BUNDLE", "--fast"],
    "--threads 'two'": ["run", "BUNDLE", "--threads", "two"],
    "--threads '0'": ["run", "BUNDLE", "--threads=0"],
    "--threads needs a value": ["run", "BUNDLE", "--threads"],
    "--rounds '1e3'": ["bench", "BUNDLE", "--rounds", "1e3"],
    "no scenario 'server'": ["bench", "BUNDLE", "--scenario", "server"],
    "one argument too many": ["check", "BUNDLE", "other"],
    "--pin 'x'": ["bench", "BUNDLE", "--pin", "1,x"],
    "could not be bound": ["bench", "BUNDLE", "--pin", "1023"],
    "could not be written": ["bench", "BUNDLE", "--rounds", "1", "--json", "/none/m.json"],
    "no bundle at /none": ["run", "/none"],
    "none.jpg can't be read": ["run", "BUNDLE", "/none.jpg"],
    "neither JPEG nor PNG": ["run", "BUNDLE", str(SOURCE / "CMakeLists.txt")],
}


@pytest.mark.parametrize("message", USAGE)
def test_wrong_usage_ends_with_2_and_three_lines(message: str, runner: Path, bundle: Bundle) -> None:
    done = run(runner, *(bundle.path if word == "BUNDLE" else word for word in USAGE[message]))
    assert done.returncode == 2
    assert message in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[1].startswith("  why: ")
    assert lines[2].startswith("  fix: ")


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "good" / "xnnpack-fp32"))


def change(path: Path, edit: Callable[[Any], None]) -> None:
    manifest = path / "bundle.json"
    document = json.loads(manifest.read_text())
    edit(document)
    manifest.write_text(json.dumps(document))


def set_at(*keys: Any, value: Any) -> Callable[[Any], None]:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        if value is ...:
            del document[keys[-1]]
        else:
            document[keys[-1]] = value

    return edit


BAD_MANIFESTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "newer schema": (set_at("schema_version", value=4), "schema version 4; this runner reads up to 3"),
    "far newer schema": (set_at("schema_version", value=10**30), "schema_version"),
    "no schema": (set_at("schema_version", value=...), "'schema_version' is missing"),
    "other engine": (set_at("runtime", "format", value="onnx"), "ExecuTorch programs (pte) only"),
    "newer engine": (set_at("runtime", "min_version", value="99.1"), "needs executorch 99.1 or newer"),
    "absolute program": (set_at("program", value="/etc/passwd"), "no path inside the bundle"),
    "program above": (set_at("program", value="../model.pte"), "no path inside the bundle"),
    "files above": (set_at("files", "a/../../b", value={"sha256": "0" * 64, "bytes": 1}), "no path inside the bundle"),
    "labels above": (set_at("labels", value="golden/../../x"), "no path inside the bundle"),
    "unlisted program": (set_at("program", value="other.pte"), "has no checksum"),
    "negative shape": (set_at("spec", "input", "shape", value=[1, 3, -32, 32]), "from 0 to"),
    "huge shape": (set_at("outputs", 0, "shape", value=[1 << 20, 1 << 20]), "over 2^28 values"),
    "overflowing shape": (set_at("outputs", 0, "shape", value=[1 << 31] * 4), "over 2^28 values"),
    "fraction": (set_at("spec", "input", "shape", value=[1, 3, 32.5, 32]), "an integer is needed"),
    "too many dimensions": (set_at("outputs", 0, "shape", value=[1] * 9), "over 8 entries"),
    "other size": (set_at("spec", "preprocess", "crop", value=[16, 16]), "the input is something else"),
    "unknown dtype": (set_at("spec", "input", "dtype", value="complex64"), "'complex64' is not known"),
    "zero std": (set_at("spec", "preprocess", "std", value=[0, 1, 1]), "must not be 0"),
    "no tolerance": (set_at("golden", 0, "atol", value=0), "above 0"),
    "no number of a tolerance": (set_at("golden", 0, "atols", value=["0.1"]), "a number is needed"),
    "negative tolerance": (set_at("golden", 0, "atols", value=[-0.1]), "above 0"),
    "other tolerances": (set_at("golden", 0, "atols", value=[0.1, 0.1]), "one tolerance per output"),
    "no tolerances": (set_at("golden", 0, "atols", value=[]), "one tolerance per output"),
    "one for all": (set_at("golden", 0, "atols", value=0.1), "a list is needed"),
    "parity a text": (set_at("parity", value="good"), "an object is needed"),
    "allowed a text": (set_at("parity", value={"allowed": "false", "outputs": []}), "true or false is needed"),
    "parity of nothing": (set_at("parity", value={"allowed": True}), "'outputs' is missing"),
    "no figure": (
        set_at("parity", value={"allowed": True, "outputs": [{"name": "y", "sqnr_db": "9", "limit_db": 60}]}),
        "a number is needed",
    ),
    "short hash": (set_at("files", "model.pte", "sha256", value="ab"), "64 hex digits"),
    "negative size": (set_at("files", "model.pte", "bytes", value=-1), "from 0 to"),
    "list for object": (set_at("spec", value=[]), "an object is needed"),
    "other outputs": (set_at("golden", 0, "outputs", value=[]), "another number of outputs"),
    "wrong tensor shape": (set_at("outputs", 0, "shape", value=[1, 11]), "another shape or dtype in the program"),
    "wrong tensor size": (set_at("golden", 1, "tensor", value="golden/0.output.bin"), "instead of 12288"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_manifests_are_refused(name: str, runner: Path, copy: Path) -> None:
    edit, why = BAD_MANIFESTS[name]
    change(copy, edit)
    checked = run(runner, "check", copy)
    assert checked.returncode == 1
    assert "FAIL" in checked.stdout
    assert why in checked.stdout
    if not name.startswith("wrong tensor size"):
        ran = run(runner, "run", copy, PHOTO)
        assert ran.returncode == 2
        assert why in ran.stderr


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no program": (lambda p: (p / "model.pte").unlink(), "model.pte is missing"),
    "cut off": (lambda p: (p / "model.pte").write_bytes((p / "model.pte").read_bytes()[:-1]), "instead of"),
    "one bit": (lambda p: flip(p / "model.pte"), "another SHA-256"),
    "a folder": (lambda p: ((p / "labels.txt").unlink(), (p / "labels.txt").mkdir()), "no regular file"),
    "a pipe": (lambda p: ((p / "labels.txt").unlink(), os.mkfifo(p / "labels.txt")), "no regular file"),
    "no JSON": (lambda p: (p / "bundle.json").write_text("{"), "not a JSON object"),
    "deep JSON": (lambda p: (p / "bundle.json").write_text("[" * 100_000), "not a JSON object"),
    "not UTF-8": (lambda p: (p / "bundle.json").write_bytes(b'{"schema_version": "\xff"}'), "not a JSON object"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_bundles_are_refused(name: str, runner: Path, copy: Path) -> None:
    damage, why = DAMAGE[name]
    damage(copy)
    for command, code in (("check", 1), ("run", 2), ("bench", 2)):
        done = run(runner, command, copy)
        assert done.returncode == code, done.stderr
        assert why in done.stdout + done.stderr


def test_programs_that_are_no_programs_are_refused(runner: Path, copy: Path) -> None:
    good = (copy / "model.pte").read_bytes()
    for content in (b"", b"x" * 100, good[: len(good) // 2], good[:40] + bytes(len(good) - 40)):
        (copy / "model.pte").write_bytes(content)
        entry = {"sha256": sha256(copy / "model.pte"), "bytes": len(content)}
        change(copy, set_at("files", "model.pte", value=entry))
        done = run(runner, "run", copy, PHOTO)
        assert done.returncode == 2, done.stdout
        assert "executorch can't run" in done.stderr
        assert len(done.stderr.splitlines()) == 3


def test_other_answers_than_recorded_fail_the_check(runner: Path, copy: Path) -> None:
    def rewrite(file: str, array: np.ndarray) -> None:
        array.tofile(copy / file)
        change(copy, set_at("files", file, value={"sha256": sha256(copy / file), "bytes": array.nbytes}))

    opened = Bundle.load(copy)
    case, x, (expected, *_) = next(opened.golden_cases())
    rewrite(case.outputs[0], np.roll(expected, 1))
    done = run(runner, "check", copy)
    assert done.returncode == 1
    assert "golden         4 of 5" in done.stdout
    assert "top-1 equal in 4 of 5" in done.stdout
    rewrite(case.outputs[0], np.full_like(expected, np.nan))
    assert "4 of 5 within tolerance; largest difference nan" in run(runner, "check", copy).stdout.replace("-nan", "nan")
    rewrite(case.outputs[0], expected)
    x[0, 0, 0, 0] += 1e-6
    rewrite(case.tensor, x)
    done = run(runner, "check", copy)
    assert done.returncode == 1
    assert "4 of 5 inputs bit-equal; the first that is not: golden/0.png" in done.stdout


class Two(nn.Module):
    """Boxes in pixels and scores from 0 to 1, whose tolerances have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.boxes, self.scores = nn.Linear(12, 16), nn.Linear(16, 8), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.body(x))
        return self.boxes(y) * 640, torch.softmax(self.scores(y), 1)


@pytest.fixture(scope="module")
def two(artifacts: Path) -> Bundle:
    return edge_lab.to(nets.tensor_model(Two(), (1, 12)), "linux-portable-fp32", out=artifacts)


def test_each_output_has_its_own_tolerance(two: Bundle, runner: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(two.path, tmp_path / "two" / "fp32"))
    count = len(two.golden)
    for case in two.golden:
        scores = np.fromfile(copy / case.outputs[1], np.float32) + np.float32(0.01)
        scores.tofile(copy / case.outputs[1])
        entry = {"sha256": sha256(copy / case.outputs[1]), "bytes": scores.nbytes}
        change(copy, set_at("files", case.outputs[1], value=entry))
        change(copy, lambda d: [c.update(atol=6.4) or c.pop("atols", None) for c in d["golden"]])
    assert run(runner, "check", copy).returncode == 0  # one tolerance for all is the largest
    change(copy, lambda d: [c.update(atols=[6.4, 0.001]) for c in d["golden"]])
    done = run(runner, "check", copy)
    assert done.returncode == 1
    name = two.outputs[1].name
    assert f"0 of {count} within tolerance; largest difference 0.01, allowed 0.001, at output '{name}'" in done.stdout
    change(copy, lambda d: [c.update(atols=[6.4, 0.02]) for c in d["golden"]])
    assert run(runner, "check", copy).returncode == 0


@pytest.mark.parametrize("figures", [[(90.0, 60.0), (1.84, 60.0)], []])
def test_a_program_that_was_allowed_to_differ_says_so(
    figures: list[tuple[float, float]], runner: Path, build: Path, copy: Path
) -> None:
    outputs = [{"name": f"y{i}", "sqnr_db": db, "limit_db": limit} for i, (db, limit) in enumerate(figures)]
    parity = {"compared": "run", "inputs": "5 photos", "outputs": outputs, "allowed": True}
    words = "this program differs from its PyTorch model"
    words += ": 1.8 dB, limit 60.0 dB at output 'y1', allowed when" if figures else ", allowed when"
    for allowed in (True, False):
        change(copy, set_at("parity", value=parity | {"allowed": allowed}))
        for command in ("check", "run"):
            done = run(runner, command, copy, "--json")
            assert done.returncode == 0
            assert json.loads(done.stdout)
            assert done.stderr == (f"edge-lab-runner: warning: {words} it was written\n" if allowed else "")
    library = build / "libedge_lab.so"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client().Model(copy, library=library).close()
    change(copy, set_at("parity", value=parity))
    with pytest.warns(RuntimeWarning, match=words):
        client().Model(copy, library=library).close()


ODD = ("a\x0bb", "a\rb", "c\x0cd", "e\u2028f", "g\x85h", "\x1c", " i ", "\ufeffj", "k\u2029")


def test_labels_end_at_line_feeds_only(bundle: Bundle, runner: Path, copy: Path) -> None:
    """str.splitlines sees eight other ends of a line; the runner never did."""
    labels = (*ODD, *bundle.spec.labels[len(ODD) :])
    opened = Bundle.load(copy)
    assert replace(opened, spec=opened.spec.with_(labels=labels)).save() is None
    assert Bundle.load(copy).spec.labels == labels
    (copy / "labels.txt").write_bytes("\r\r\n".join(labels).encode())  # twice by way of Windows, and the last unended
    text = {"sha256": sha256(copy / "labels.txt"), "bytes": (copy / "labels.txt").stat().st_size}
    change(copy, set_at("files", "labels.txt", value=text))
    assert Bundle.load(copy).spec.labels == labels
    change(copy, set_at("spec", "postprocess", "top_k", value=10))
    top = json.loads(run(runner, "run", copy, PHOTO, "--json").stdout)["results"][0]["top"]
    assert {t["index"]: t["label"] for t in top} == dict(enumerate(labels))


def test_more_labels_than_scores_are_refused_by_both(build: Path, runner: Path, copy: Path) -> None:
    opened, library = Bundle.load(copy), build / "libedge_lab.so"
    replace(opened, spec=opened.spec.with_(labels=(*opened.spec.labels, "one more"))).save()
    assert "labels and program belong to different models" in run(runner, "run", copy, PHOTO).stderr
    with client().Model(copy, library=library) as model, pytest.raises(client().RunnerError, match="different models"):
        model.predict(PHOTO)


@pytest.mark.parametrize("label", ["cat\ndog", "cat\r", "\n"])
def test_labels_that_hold_a_line_break_are_refused(label: str) -> None:
    model = nets.good()
    with pytest.raises(InputError, match="holds a line break") as refused:
        model.spec.with_(labels=("a", label))
    labels = eval(refused.value.fix.removeprefix("labels=").removesuffix("."), {"labels": ("a", label)})
    assert model.spec.with_(labels=labels).labels == labels


def test_unknown_fields_and_older_versions_are_read(runner: Path, copy: Path) -> None:
    change(copy, lambda d: d.update(schema_version=2, unknown={"a": [1, 2, {"b": None}]}))
    change(copy, lambda d: d["runtime"].update(min_version="1.4.9rc1", delegated=None))
    assert run(runner, "check", copy).returncode == 0
    assert run(runner, "check", f"{copy}/").returncode == 0
