"""Builds the runner for aarch64 once for all tests of a run, and runs aarch64 programs under qemu-user."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from filelock import FileLock
from machine_tools import missing, tool

ROOT = Path(__file__).parents[1]
CPUS = ("cortex-a72", "cortex-a76")  # Raspberry Pi 4 and 5
EMULATE = ROOT / "rpi/emulate"


def aarch64_build(folder: Path) -> Path:
    """`folder/runner-aarch64/dist`, as `make runner-aarch64` makes it; others of the same run wait."""
    tool("aarch64-linux-gnu-g++", package="g++-aarch64-linux-gnu")
    tool("qemu-aarch64-static", package="qemu-user-static")
    cmake, ninja = tool("cmake", package="cmake"), tool("ninja", package="ninja-build")
    for part in ("root", "executorch"):
        if not (ROOT / "rpi/build/aarch64" / part / ".made-of").is_file():
            missing(f"rpi/build/aarch64/{part} is not there (make arm-tools)")
    where, dist = folder / "runner-aarch64", folder / "runner-aarch64/dist"
    with FileLock(folder / ".runner-aarch64.lock"):
        if not dist.exists():
            settings = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG")
            toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT}/rpi/aarch64.cmake"
            _run(cmake, "-S", str(ROOT / "rpi/runner"), "-B", str(where), *settings, toolchain)
            _run(cmake, "--build", str(where), "--parallel", "1")
            _run(cmake, "--install", str(where), "--prefix", str(where / "part"), "--strip")
            (where / "part").rename(dist)
    return dist


def emulated(cpu: str, *command: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run an aarch64 program as on this processor; the caller looks at its exit code."""
    return subprocess.run(
        [str(EMULATE), cpu, *map(str, command)], capture_output=True, text=True, timeout=timeout, errors="replace"
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command[:3])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
