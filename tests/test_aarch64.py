"""The runner and the client for a 64-bit Raspberry Pi, under qemu-user: the same answers as on x86, int8 to the bit."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nets
import numpy as np
import pytest
from aarch64_build import CPUS, EMULATE, ROOT, aarch64_build, emulated
from machine_tools import tool
from runner_build import CLIENT, client, run, runner_build

import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.compress import StaticInt8
from edge_lab.export import target

pytestmark = pytest.mark.filterwarnings("ignore")
PHOTO = ROOT / "edge_lab/assets/photos/coffee.jpg"
FIXED = replace(target("linux-xnnpack-int8"), quantize=StaticInt8(float_scores=False))


@pytest.fixture(scope="module")
def arm(artifacts: Path) -> Path:
    return aarch64_build(artifacts)


@pytest.fixture(scope="module")
def x86(artifacts: Path) -> Path:
    return runner_build(artifacts)


@pytest.fixture(scope="module")
def bundles(artifacts: Path) -> dict[str, Bundle]:
    """A small network in two precisions, and EfficientNet-Lite0 whose every operator, to its scores, is int8."""
    return {
        "fp32": edge_lab.to(nets.good(), "linux-xnnpack-fp32", out=artifacts),
        "int8, scores in float": edge_lab.to(nets.good(), "linux-xnnpack-int8", out=artifacts),
        "lite0 int8": edge_lab.to(edge_lab.create("efficientnet_lite0"), FIXED, out=artifacts / "int8-scores"),
    }


@pytest.mark.parametrize("cpu", CPUS)
def test_check_passes_on_all_golden_vectors(arm: Path, bundles: dict[str, Bundle], cpu: str) -> None:
    for name, bundle in bundles.items():
        if name == "lite0 int8" and cpu == "cortex-a72":
            continue  # seven seconds; the client runs it there, below
        done = emulated(cpu, arm / "bin/edge-lab-runner", "check", bundle.path)
        assert done.returncode == 0, name + done.stdout + done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["PASS"] * 5
        assert "5 of 5 inputs bit-equal" in done.stdout
        assert "top-1 equal in 5 of 5" in done.stdout


CODE = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from edge_lab_runner import Model
inputs, outputs = {}, {}
for number, folder in enumerate(sys.argv[4:]):
    with open(f"{folder}/bundle.json") as file:
        cases = json.load(file)["golden"]
    with Model(folder, library=sys.argv[2]) as model:
        for k, case in enumerate(cases):
            x = model.preprocess(f"{folder}/{case['input']}")
            inputs[f"{number}.{k}"], outputs[f"{number}.{k}"] = x, model.run(x)[0]
np.savez(sys.argv[3] + ".in.npz", **inputs)
np.savez(sys.argv[3] + ".out.npz", **outputs)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_the_client_gives_the_bits_of_x86(
    arm: Path, x86: Path, bundles: dict[str, Bundle], cpu: str, tmp_path: Path
) -> None:
    place = tmp_path / "arm"
    library, folders = arm / "lib/libedge_lab.so", [bundle.path for bundle in bundles.values()]
    done = emulated(cpu, "python3", "-c", CODE, CLIENT.parent, library, place, *folders)
    assert done.returncode == 0, done.stderr
    inputs, outputs = np.load(f"{place}.in.npz"), np.load(f"{place}.out.npz")
    for number, (name, bundle) in enumerate(bundles.items()):
        with client().Model(bundle.path, library=x86 / "libedge_lab.so") as model:
            for k, (_, tensor, _) in enumerate(bundle.golden_cases()):
                got, expected = outputs[f"{number}.{k}"], model.run(tensor)[0]
                assert inputs[f"{number}.{k}"].tobytes() == tensor.tobytes()
                assert got.argmax() == expected.argmax()
                if name == "lite0 int8":
                    assert got.tobytes() == expected.tobytes(), f"{name}, input {k}"
                else:  # sums of floats: another order, fused multiply-add
                    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("cpu", CPUS)
def test_run_answers_as_on_x86(arm: Path, x86: Path, bundles: dict[str, Bundle], cpu: str) -> None:
    path = bundles["lite0 int8"].path
    on_arm = emulated(cpu, arm / "bin/edge-lab-runner", "run", path, PHOTO, "--json")
    found = json.loads(on_arm.stdout)["results"][0]["top"]
    expected = json.loads(run(x86 / "edge-lab-runner", "run", path, PHOTO, "--json").stdout)["results"][0]["top"]
    assert found == expected
    assert found[0]["label"] == "espresso"


@pytest.mark.parametrize("cpu", CPUS)
def test_speech_sounds_the_same_on_arm(arm: Path, artifacts: Path, cpu: str) -> None:
    """Recordings at 8 kHz, resampled to the bit; the log-mel front end runs inside the graph."""
    model = edge_lab.create("speechnet", weights="random")
    bundle = edge_lab.to(model, "linux-xnnpack-fp32", out=artifacts / "untrained")
    done = emulated(cpu, arm / "bin/edge-lab-runner", "check", bundle.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 inputs bit-equal" in done.stdout
    done = emulated(cpu, arm / "bin/edge-lab-runner", "listen", bundle.path, bundle.path / "golden/0.wav", "--stats")
    assert done.returncode == 0, done.stderr
    assert "the network called for" in done.stderr


def test_cold_start_is_refused_by_an_emulator(arm: Path, bundles: dict[str, Bundle]) -> None:
    arguments = ("bench", bundles["fp32"].path, "--scenario", "cold_start", "--rounds", 1)
    done = emulated("cortex-a72", arm / "bin/edge-lab-runner", *arguments)
    if done.returncode == 0:  # this machine runs aarch64 programs by binfmt_misc
        assert "cold_start" in done.stdout
        return
    assert done.returncode == 2
    assert "could not be run in a fresh process" in done.stderr
    assert "under an emulator" in done.stderr


def test_what_is_deployed_fits_bookworm_and_knows_no_other_place(arm: Path) -> None:
    readelf = tool("aarch64-linux-gnu-readelf", "readelf", package="binutils")
    binaries = [arm / "bin/edge-lab-runner", *sorted((arm / "lib").glob("*.so"))]
    assert len(binaries) == 7
    ours = {arm / "bin/edge-lab-runner", arm / "lib/libedge_lab.so"}
    for binary in binaries:
        text = subprocess.run([readelf, "-hdVW", binary], capture_output=True, text=True, check=True).stdout
        assert "AArch64" in text
        versions = {tuple(map(int, v.split("."))) for v in re.findall(r"\bGLIBC_([0-9.]+)", text)}
        assert max(versions) <= (2, 36), binary  # Bookworm's
        paths = re.findall(r"R(?:UN)?PATH.*\[(.*)\]", text)
        assert binary not in ours or paths
        assert all(part.startswith("$ORIGIN") for path in paths for part in path.split(":")), binary
    size = sum(binary.stat().st_size for binary in binaries)
    print(f"bin and lib: {size / 1e6:.1f} MB")
    assert size < 14e6


def test_nothing_runs_the_emulator_without_naming_a_processor() -> None:
    """Its default processor has SVE, where int8 answers were wrong without an error: facts in rpi/README.md."""
    name = "qemu-" + "aarch64"
    may_name_it = {"rpi/emulate", "tests/aarch64_build.py"}  # the second asks whether it is installed
    listed = subprocess.run(["git", "grep", "-n", name], cwd=ROOT, capture_output=True, text=True).stdout
    for file, _, line in (entry.split(":", 2) for entry in listed.splitlines()):
        if file.endswith(".md"):
            calls_it = re.search(rf"(^ {{4}}|`).*{name}(-static)? +[^`]", line)
            assert not calls_it or "-cpu" in line, f"{file}: {line.strip()}"
        else:
            assert file in may_name_it, f"{file} names it; use rpi/emulate: {line.strip()}"
    calls = [line for line in EMULATE.read_text().splitlines() if line.startswith("exec")]
    assert calls == [f'exec {name}-static -cpu "$cpu" -L "$root" "$@"']
    for arguments in ([], ["max"], ["cortex-a72"]):
        done = subprocess.run([str(EMULATE), *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "fix:" in done.stderr


@pytest.fixture
def fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """rpi/fetch_aarch64.py, at work in an empty checkout."""
    spec = importlib.util.spec_from_file_location("fetch_aarch64", ROOT / "rpi/fetch_aarch64.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "rpi").mkdir()
    shutil.copy(ROOT / "versions.toml", tmp_path)
    shutil.copy(module.DIGEST, tmp_path / "rpi")
    monkeypatch.setattr(module, "HERE", tmp_path / "rpi")
    monkeypatch.setattr(module, "DIGEST", tmp_path / "rpi" / module.DIGEST.name)
    return module


def test_the_wheel_is_the_one_that_was_recorded(fetcher: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "rpi/build/executorch"
    name = fetcher.DIGEST.read_text().split()[1]
    wheel = tmp_path / "rpi/build/wheel" / name
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"something else")
    with pytest.raises(fetcher.FetchError, match="not the file that was recorded"):
        fetcher.fetch_executorch(target)
    assert not wheel.exists()  # the next attempt asks pip again
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("executorch/lib/libexecutorch.so", "library")
        archive.writestr("executorch/exir/big.py", "not for a board")
    fetcher.DIGEST.write_text(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {name}\n")
    stale = target.parent / ".executorch.part"
    stale.mkdir()
    (stale / "half of a file").touch()
    fetcher.fetch_executorch(target)
    assert sorted(p.name for p in target.rglob("*") if p.is_file()) == [".made-of", "libexecutorch.so"]
    assert not stale.exists()
    wheel.unlink()
    fetcher.fetch_executorch(target)  # complete: nothing is asked of anybody
    versions = (ROOT / "versions.toml").read_text()
    (tmp_path / "versions.toml").write_text(versions.replace('executorch = "', 'executorch = "9.'))
    with pytest.raises(fetcher.FetchError, match="another version"):
        fetcher.fetch_executorch(target)


def test_a_fetch_that_fails_says_why(fetcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetcher.FetchError, match="no Debian packages"):
        fetcher.fetch_root(tmp_path / "rpi/build/root")
    for name in ("apt-get", "dpkg-deb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'E: no arm64 here' >&2\nexit 100\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(fetcher.FetchError, match="no arm64 here"):
        fetcher.fetch_root(tmp_path / "rpi/build/root")
    assert not (tmp_path / "rpi/build/root").exists()
