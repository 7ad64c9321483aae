"""edge-lab-runner: runs, checks and times bundles without Python, refuses bad ones, and installs anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from machine_tools import tool
from runner_build import CLIENT, client, run
from torch import nn

import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import postprocess, preprocess
from edge_lab.measure.host import machine
from edge_lab.measure.record import Measurements
from edge_lab.signals.audio import Audio

pytestmark = pytest.mark.filterwarnings("ignore")
PHOTO = Path(__file__).parents[1] / "edge_lab/assets/photos/astronaut.jpg"


@pytest.fixture(scope="module", params=["linux-xnnpack-fp32", "linux-xnnpack-int8", "linux-portable-fp32"])
def any_bundle(request: pytest.FixtureRequest, artifacts: Path) -> Bundle:
    return edge_lab.to(nets.good(), request.param, out=artifacts)


@pytest.fixture(scope="module")
def bundle(artifacts: Path) -> Bundle:
    return edge_lab.to(nets.good(), "linux-xnnpack-fp32", out=artifacts)


class Two(nn.Module):
    """Two outputs, one of them integers."""

    def forward(self, x: Any) -> Any:
        return x * 2, x.argmax(1)


def test_check_passes_and_says_what_it_looked_at(runner: Path, any_bundle: Bundle) -> None:
    for threads in (1, 2):
        done = run(runner, "check", any_bundle.path, "--threads", threads)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""  # the engine's own chatter is kept away
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["PASS"] * 5
        assert "5 of 5 inputs bit-equal" in done.stdout
        assert "top-1 equal in 5 of 5, top-5 in 5 of 5" in done.stdout
    assert json.loads(run(runner, "check", any_bundle.path, "--json").stdout)["ok"] is True


def test_run_answers_as_python_does(runner: Path, any_bundle: Bundle) -> None:
    session = edge_lab.load(any_bundle)
    pictures = [PHOTO, *(any_bundle.path / case.input for case in any_bundle.golden if case.input)]
    done = run(runner, "run", any_bundle.path, "--json", *pictures)
    results = json.loads(done.stdout)["results"]
    assert len(results) == len(pictures)
    for picture, result in zip(pictures, results, strict=True):
        expected = postprocess(session(preprocess(picture, session.spec)), session.spec)
        assert [(t["index"], t["label"]) for t in result["top"]] == [(p.index, p.label) for p in expected]
        np.testing.assert_allclose([t["score"] for t in result["top"]], [p.score for p in expected], atol=1e-6)
    text = run(runner, "run", any_bundle.path, PHOTO).stdout.splitlines()
    assert len(text) == 6
    assert text[1].split()[-2:] == results[0]["top"][0]["label"].split()
    assert len(json.loads(run(runner, "run", any_bundle.path, "--json").stdout)["results"]) == 5  # golden inputs


def test_the_client_gives_the_same_tensors(build: Path, any_bundle: Bundle) -> None:
    session = edge_lab.load(any_bundle)
    with client().Model(any_bundle.path, library=build / "libedge_lab.so") as model:
        assert model.info["model"] == "good"
        assert (model.input.shape, model.labels) == (any_bundle.spec.input.shape, any_bundle.spec.labels)
        x = model.preprocess(PHOTO)
        assert x.tobytes() == preprocess(PHOTO, session.spec).tobytes()
        np.testing.assert_allclose(model.run(x)[0], session(x), atol=1e-6)
        for case, tensor, expected in any_bundle.golden_cases():
            np.testing.assert_allclose(model.run(tensor)[0], expected[0], atol=case.atol)
        expected_top = postprocess(session(x), session.spec)
        assert [(p.index, p.label) for p in model(PHOTO)] == [(p.index, p.label) for p in expected_top]
        pixels = np.asarray(edge_lab.read_image(PHOTO))
        assert model.preprocess(pixels[:, ::-1]).tobytes() == preprocess(pixels[:, ::-1], session.spec).tobytes()


def test_the_client_needs_no_torch(build: Path, bundle: Bundle) -> None:
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "executorch", "PIL", "edge_lab"):
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
sys.path.insert(0, {str(CLIENT.parent)!r})
from edge_lab_runner import Model
with Model({str(bundle.path)!r}) as model:
    print(model({str(PHOTO)!r})[0].label)
others = set(name.partition(".")[0] for name in sys.modules) - set(sys.stdlib_module_names)
print(sorted(n for n in others if not n.startswith("_") and n not in ("edge_lab_runner", "sitecustomize")))
"""
    env = os.environ | {"EDGE_LAB_LIBRARY": str(build / "libedge_lab.so")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    label, modules = done.stdout.splitlines()
    session = edge_lab.load(bundle)
    assert label == postprocess(session(preprocess(PHOTO, session.spec)), session.spec)[0].label
    assert "numpy" in modules
    assert "torch" not in modules


def test_errors_of_the_client(build: Path, bundle: Bundle, tmp_path: Path) -> None:
    library, refused = build / "libedge_lab.so", client().RunnerError
    with pytest.raises(refused, match="no bundle at"):
        client().Model(tmp_path, library=library)
    with pytest.raises(refused, match="not found"):
        client().Model(bundle.path, library=tmp_path / "none.so")
    with pytest.raises(refused, match="0 threads"):
        client().Model(bundle.path, threads=0, library=library)
    model = client().Model(bundle.path, library=library)
    with pytest.raises(refused, match="one pool of threads"):
        client().Model(bundle.path, threads=2, library=library)
    for bad in (np.zeros((1, 3, 32, 31), np.float32), np.zeros(nets.SHAPE), np.zeros((0, 3, 32, 32), np.float32)):
        with pytest.raises(refused, match="the model takes"):
            model.run(bad)
    with pytest.raises(refused, match="can't be read"):
        model(tmp_path / "none.jpg")
    with pytest.raises(refused, match="uint8"):
        model(np.zeros((4, 4), np.uint8))
    model.close()
    model.close()
    with pytest.raises(refused, match="closed"):
        model(PHOTO)
    client().Model(bundle.path, threads=2, library=library).close()  # the pool is free again


def test_errors_belong_to_their_thread_and_runs_take_turns(build: Path, bundle: Bundle) -> None:
    failed: list[str] = []
    with client().Model(bundle.path, library=build / "libedge_lab.so") as model:
        inputs = nets.noise(count=4)
        expected = [model.run(x)[0] for x in inputs]

        def work(i: int) -> None:
            for _ in range(50):
                if not np.array_equal(model.run(inputs[i])[0], expected[i]):
                    failed.append(f"thread {i} got another's answer")
                try:
                    model.preprocess(f"/none/{i}.jpg")
                except client().RunnerError as error:
                    if f"/none/{i}.jpg" not in str(error):
                        failed.append(str(error))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def test_ready_tensors_several_outputs_and_integers(runner: Path, build: Path, artifacts: Path, tmp_path: Path) -> None:
    made = edge_lab.to(nets.tensor_model(Two(), (1, 6, 4)), "linux-portable-fp32", out=artifacts, calibration=None)
    done = run(runner, "check", made.path)
    assert done.returncode == 0, done.stdout + done.stderr
    x = nets.noise((1, 6, 4))[0]
    x.tofile(tmp_path / "x.bin")
    outputs = json.loads(run(runner, "run", made.path, tmp_path / "x.bin", "--json").stdout)["results"][0]["outputs"]
    assert [(o["shape"], o["dtype"]) for o in outputs] == [([1, 6, 4], "float32"), ([1, 4], "int64")]
    with client().Model(made.path, library=build / "libedge_lab.so") as model:
        np.testing.assert_array_equal(model.run(x)[1], x.argmax(1))
    x[:, :5].tofile(tmp_path / "short.bin")
    assert "has 80 bytes" in run(runner, "run", made.path, tmp_path / "short.bin").stderr
    assert "has no preprocessing" in run(runner, "run", made.path, PHOTO).stderr


def test_a_keyword_model_hears_a_recording(runner: Path, build: Path, artifacts: Path, tmp_path: Path) -> None:
    model = nets.tensor_model(nn.Sequential(nn.Linear(800, 4), nn.Tanh()), (1, 800))
    spec = replace(
        model.spec, name="words", task="keyword", labels=("yes", "no", "on", "off"), audio=Audio(samples=800)
    )
    made = edge_lab.to(replace(model, spec=spec), "linux-portable-fp32", out=artifacts)
    import wave

    samples = np.random.default_rng(0).integers(-9999, 9999, 900).astype("<i2")
    for count in (900, 800, 500):
        with wave.open(str(tmp_path / "x.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(samples[:count].tobytes())
        x = preprocess(tmp_path / "x.wav", spec)
        answer = json.loads(run(runner, "run", made.path, tmp_path / "x.wav", "--json").stdout)["results"][0]["top"]
        with client().Model(made.path, library=build / "libedge_lab.so") as opened:
            assert opened.preprocess(tmp_path / "x.wav").tobytes() == x.tobytes()
        assert answer[0]["label"] == postprocess(edge_lab.load(made)(x), spec)[0].label
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    assert "could not be read as a recording" in run(runner, "run", made.path, tmp_path / "x.wav").stderr


def test_bench_writes_what_python_reads(runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    scenarios = [f"--scenario={s}" for s in ("single_stream", "offline_batch", "cold_start")]
    done = run(runner, "bench", bundle.path, *scenarios, "--rounds=4", "--warmup", 2, "--pin=0", "--json", out)
    assert done.returncode == 0, done.stderr
    found = Measurements.load(out)  # the schema, and percentiles that are those of the samples
    assert (found.tool, found.recorded) == ("edge-lab-runner", None)
    assert found.gate.state in ("quiet", "busy", "unknown", "hot")
    items = {item.latency.scenario: item for item in found}
    assert set(items) == {"single_stream", "offline_batch", "cold_start"}
    for item in items.values():
        assert item.name == bundle.name
        assert (item.model, item.format, item.precision) == ("good", "pte", "fp32")
        assert (item.engine.name, item.size_bytes, item.delegated) == ("executorch", bundle.program_bytes, 1.0)
        assert len(item.latency.samples_s) == 4
        assert item.pinned_cpus == (0,)
        assert item.memory is not None
        assert 1 < item.memory.baseline_mb <= item.memory.loaded_mb <= item.memory.peak_mb < 500
        assert item.start is not None
        assert item.energy is not None
        assert item.energy.tier == "not available" or item.energy.joules
    assert items["offline_batch"].latency.batch == 5
    assert items["single_stream"].latency.warmup == 2
    cold = items["cold_start"]
    assert cold.start is not None
    assert cold.latency.clock == "wall"
    assert cold.latency.p50_ms >= cold.start.load_ms
    ours = {k: v for k, v in machine().items() if k not in ("python", "load")}
    assert {k: v for k, v in found.device.items() if k in ours} == ours
    assert str(tmp_path) not in out.read_text()
    assert "offline_batch" in done.stdout


def test_bench_counts_threads_and_inputs(runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    arguments = ("--scenario", "offline_batch", "--threads", 2, "--batch", 3, "--rounds", 2, "--warmup", 0)
    assert run(runner, "bench", bundle.path, *arguments, "--json", out).returncode == 0
    item = next(iter(Measurements.load(out)))
    assert (item.latency.threads, item.latency.batch, item.latency.clock) == (2, 3, "wall")
    assert item.pinned_cpus is None


PMIC = """
   VDD_CORE_A current(7)=2.50000000A
      VDD_CORE_V volt(15)=0.80000000V
  3V3_SYS_A current(1)=0.50000000A
  3V3_SYS_V volt(9)=3.00000000V
  EXT5V_V volt(24)=5.10000000V
  nonsense=1
"""  # the form of a Raspberry Pi 5's answer: two rails with both numbers, 3.5 W


def energy_of(runner: Path, bundle: Bundle, tmp_path: Path, **env: str) -> Any:
    out = tmp_path / "m.json"
    done = run(
        runner,
        "bench",
        bundle.path,
        "--rounds",
        1,
        "--sys",
        tmp_path / "sys",
        "--json",
        out,
        "--energy-ms",
        300,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return next(iter(Measurements.load(out)))


def test_energy_and_heat_come_from_the_machine(runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    item = energy_of(runner, bundle, tmp_path, PATH=str(tmp_path))
    assert item.energy.tier == "not available"
    assert "no RAPL" in item.energy.reason
    fake = tmp_path / "vcgencmd"
    fake.write_text(f"#!/bin/sh\n[ \"$1\" = pmic_read_adc ] && echo '{PMIC}'\n")
    fake.chmod(0o755)
    item = energy_of(runner, bundle, tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (item.energy.tier, item.energy.source) == ("measured", "Pi PMIC")
    assert item.energy.watts == pytest.approx(3.5)
    rapl = tmp_path / "sys/class/powercap/intel-rapl:0"
    rapl.mkdir(parents=True)
    (rapl / "energy_uj").write_text("1000\n")
    (rapl / "max_energy_range_uj").write_text("9999\n")
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("83500\n")
    item = energy_of(runner, bundle, tmp_path)
    assert (item.energy.tier, item.energy.source, item.energy.joules) == ("measured", "RAPL", 0.0)
    state = Measurements.load(tmp_path / "m.json").gate
    assert (state.state, state.temperature_c) == ("hot", 83.5)
    assert "lowered to cool" in state.reasons[0]


def test_help_and_version(runner: Path) -> None:
    assert run(runner, "--help").stdout.startswith("usage: edge-lab-runner COMMAND BUNDLE")
    assert run(runner, "bench", "-h").returncode == 0
    assert run(runner, "--version").stdout.startswith("edge-lab-runner, executorch 1.")


def test_installed_it_runs_from_any_place(build: Path, bundle: Bundle, tmp_path: Path) -> None:
    prefix = tmp_path / "dist"
    cmake = tool("cmake", package="cmake")
    subprocess.run([cmake, "--install", str(build), "--prefix", str(prefix)], check=True, capture_output=True)
    moved = tmp_path / "else where"
    prefix.rename(moved)
    binaries = [moved / "bin/edge-lab-runner", *sorted((moved / "lib").glob("*.so*"))]
    assert len(binaries) == 7  # the runner, its library, five of ExecuTorch
    for binary in (moved / "bin/edge-lab-runner", moved / "lib/libedge_lab.so"):
        dynamic = subprocess.run(["readelf", "-d", str(binary)], capture_output=True, text=True, check=True).stdout
        paths = [line.partition("[")[2].rstrip("]") for line in dynamic.splitlines() if "PATH" in line]
        assert paths, binary
        assert all(entry.startswith("$ORIGIN") for path in paths for entry in path.split(":")), paths
        linked = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True).stdout
        assert "not found" not in linked
        engine = [line for line in linked.splitlines() if "libexecutorch" in line]
        assert engine
        assert all(str(moved) in line for line in engine), linked
    assert run(moved / "bin/edge-lab-runner", "check", bundle.path).returncode == 0
    with client().Model(bundle.path, library=moved / "lib/libedge_lab.so") as model:
        assert model(PHOTO)
    size = sum(binary.stat().st_size for binary in binaries)
    assert size < 25e6
