"""Programs made here answer within their own tolerances on other processors, and tests run on a busy one.

Older x86-64 processors: qemu-user for the C++ runner and ONNX Runtime, a hidden `cpuid` for PyTorch's engines.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import nets
import psutil
import pytest
from machine_tools import tool
from measured import measured
from other_cpus import capped, shim

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.folder import Bundle

ROOT = Path(__file__).parents[1]
CPUS = ("Nehalem", "Haswell", "EPYC-Rome")  # SSE4.2; AVX2 without VNNI; the same by AMD
GOOD = (
    *(f"linux-{engine}-{precision}" for engine in ("xnnpack", "onnx") for precision in ("fp32", "fp16", "int8")),
    "linux-pt2-fp32",
    "linux-torchscript-fp32",
    "linux-portable-fp32",
)
TRAINED = ("linux-xnnpack-fp16", "linux-xnnpack-int8", "linux-onnx-int8")
x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="older CPUs of an x86-64 machine")


@pytest.fixture(scope="module")
def bundles(artifacts: Path) -> list[Bundle]:
    """A network with random weights for every engine of this machine, and a trained one that uses its int8 range."""
    digits, weights = data.load("digits", "val", 32), ROOT / "labs/checkpoints/tinynet-digits.safetensors"
    trained, place = zoo.create("tinynet", weights=str(weights)), artifacts / "other-cpus"
    made = [edge_lab.to(nets.good(), target, out=artifacts) for target in GOOD]
    return made + [edge_lab.to(trained, t, calibration=digits, golden=digits.take(5), out=place) for t in TRAINED]


def emulated(cpu: str, *command: object) -> subprocess.CompletedProcess[str]:
    qemu = tool("qemu-x86_64-static", package="qemu-user-static")
    return subprocess.run([qemu, "-cpu", cpu, *map(str, command)], capture_output=True, text=True, timeout=300)


@x86
@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.parametrize("cpu", CPUS)
def test_the_runner_answers_within_tolerance_on_older_cpus(cpu: str, runner: Path, bundles: list[Bundle]) -> None:
    for bundle in bundles:
        if bundle.runtime.package == "executorch":
            done = emulated(cpu, runner, "check", bundle.path)
            assert done.returncode == 0, f"{bundle.name}: {done.stdout}{done.stderr}"
            assert [line.split()[0] for line in done.stdout.splitlines()] == ["PASS"] * 5, bundle.name


# Without PyTorch: how long it takes under qemu was not measured.
ANSWERS = """
import sys
import numpy as np
from edge_lab.bundle.folder import Bundle
from edge_lab.formats.onnx.ort import open_session
for folder in sys.argv[1:]:
    bundle = Bundle.load(folder)
    session = open_session(bundle.program_path)
    (given,) = session.get_inputs()
    for case, x, expected in bundle.golden_cases():
        for found, wanted, allowed in zip(session.run(None, {given.name: x}), expected, case.tolerances):
            apart = np.abs(found - wanted).max()
            assert apart <= allowed, f"{bundle.name}: {apart} of {allowed}"
"""


@x86
@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.parametrize("cpu", CPUS[:2])
def test_onnx_runtime_answers_within_tolerance_on_older_cpus(cpu: str, bundles: list[Bundle]) -> None:
    """int8 on AVX2 and AVX-512 without VNNI: sums of two products overflowed 16 bits (19 dB where others have 43)."""
    python = Path(sys.executable).resolve()
    paths = f"import sys; sys.path[:0] = {[str(ROOT), *(p for p in sys.path if 'site-packages' in p)]!r}"
    folders = [bundle.path for bundle in bundles if bundle.runtime.package == "onnxruntime"]
    assert len(folders) == 4
    done = emulated(cpu, python, "-c", f"{paths}\n{ANSWERS}", *folders)
    assert done.returncode == 0, done.stderr[-1500:]


EVERY = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch
import edge_lab
from edge_lab.bundle.folder import Bundle
from edge_lab.flow.check import golden, parity
print(torch.backends.cpu.get_cpu_capability())
for folder in sys.argv[1:]:
    bundle = Bundle.load(folder)
    session = edge_lab.load(bundle)
    for line in (golden(bundle, session), parity(bundle, session)):
        assert line.ok, f"{bundle.name}: {line.name}: {line.detail}"
"""


@x86
@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.parametrize(("isa", "aten"), [("haswell", "AVX2"), ("nehalem", "DEFAULT")])
def test_every_engine_answers_within_tolerance_with_fewer_instructions(
    isa: str, aten: str, bundles: list[Bundle]
) -> None:
    """Where `cpuid` can't be hidden (AMD, virtual machines that forbid it), PyTorch's libraries alone are capped."""
    command = [sys.executable, "-c", EVERY, *(str(bundle.path) for bundle in bundles)]
    done = subprocess.run(command, env=os.environ | capped(isa), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.strip() in (aten, "DEFAULT"), "this CPU may have less than that"


@pytest.mark.skipif(shim() is None, reason="cpuid can't be made to fault here")
def test_a_hidden_instruction_set_is_hidden_from_children_and_a_crash_stays_one() -> None:
    see = "from numpy._core._multiarray_umath import __cpu_features__ as f; print(f['AVX2'], f['AVX512F'], f['FMA3'])"
    again = f"os.execv(sys.executable, [sys.executable, '-c', {see!r}])"
    code = f"import faulthandler, os, sys; faulthandler.enable(); {again}"
    for isa, wanted in (("haswell", "True False True"), ("nehalem", "False False False")):
        environment = os.environ | capped(isa)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == wanted, done.stderr
    crash = "import ctypes; ctypes.string_at(0)"
    done = subprocess.run([sys.executable, "-c", crash], env=os.environ | capped("haswell"), capture_output=True)
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGKILL])
def test_the_load_ends_with_the_tests(end: signal.Signals | None, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom other_cpus import busy\nwith busy(2) as numbers:\n"
        "    print(*numbers, flush=True)\n    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    numbers = [int(number) for number in child.stdout.readline().split()]
    assert len(numbers) == 2
    assert all(psutil.pid_exists(number) for number in numbers)
    if end is None:
        child.communicate("\n", timeout=60)
    else:
        child.send_signal(end)
        child.wait(60)
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, numbers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, numbers))


def test_a_test_that_measures_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "def test_clock(): latency(f)\n"
        "def test_limit(): assert row.p50_ms < 3\n"
        "def test_closeness(): assert 20 < measure.parity(a, b).sqnr_db\n"
        "def test_form(): assert row.p50_ms == 3\n"
        "def test_size(): assert len(rows) > 3\n"
    )
    assert measured(file) == {"test_clock", "test_limit", "test_closeness"}
