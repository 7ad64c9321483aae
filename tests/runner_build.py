"""Builds rpi/runner once for all tests of a run: the runner itself, and its file readers under sanitizers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock
from machine_tools import missing, tool

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "rpi/runner"
CLIENT = ROOT / "rpi/python/edge_lab_runner.py"
_HEADERS = {"jpeglib.h": "libjpeg62-turbo-dev", "png.h": "libpng-dev", "nlohmann/json.hpp": "nlohmann-json3-dev"}


def built(folder: Path, name: str, compiler: str, targets: tuple[str, ...], *options: str) -> Path:
    """The build folder `folder/name`; other processes of the same run wait for it and use it."""
    cxx = tool(compiler, package="g++" if compiler == "g++" else "clang libclang-rt-14-dev")
    cmake, ninja = tool("cmake", package="cmake"), tool("ninja", package="ninja-build")
    for header, package in _HEADERS.items():
        if not Path("/usr/include", header).is_file():
            missing(f"{header} is not installed (Debian: {package}; all of them: make native-tools)")
    where, done = folder / name, folder / name / "built"
    with FileLock(folder / f".{name}.lock"):
        if not done.exists():
            settings = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_CXX_COMPILER={cxx}", *options)
            _run(cmake, "-S", str(SOURCE), "-B", str(where), *settings)
            _run(cmake, "--build", str(where), "--parallel", "1", "--target", *targets)
            done.touch()
    return where


def runner_build(folder: Path) -> Path:
    """edge-lab-runner and libedge_lab, as `make runner` builds them."""
    spec = importlib.util.find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        missing("executorch is not installed (pip install executorch)")
    package = Path(next(iter(spec.submodule_search_locations))) / "share/cmake"
    return built(
        folder,
        "runner",
        "g++",
        ("edge-lab-runner", "edge_lab"),
        f"-Dexecutorch_DIR={package}",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
    )


def installed_runner(folder: Path, place: Path) -> Path:
    """`place`, filled as `cmake --install` does: bin/, lib/ and include/, stripped."""
    cmake = tool("cmake", package="cmake")
    _run(cmake, "--install", str(runner_build(folder)), "--prefix", str(place), "--strip")
    return place


def safety_build(folder: Path) -> Path:
    """The readers with AddressSanitizer and UndefinedBehaviorSanitizer, and the fuzz targets, by clang."""
    options = ("-DEDGE_LAB_ENGINE=OFF", "-DEDGE_LAB_FUZZ=ON", "-DEDGE_LAB_SANITIZE=address,undefined")
    targets = ("edge_lab_corpus", "fuzz_bundle", "fuzz_image")
    return built(folder, "runner-safety", "clang++", targets, "-DCMAKE_BUILD_TYPE=", "-DCMAKE_CXX_FLAGS=-O1", *options)


def run(program: Path, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that was built; the caller looks at its exit code."""
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=None if env is None else os.environ | env,
        errors="replace",
    )


@cache
def client() -> ModuleType:
    """rpi/python/edge_lab_runner.py as a module."""
    spec = importlib.util.spec_from_file_location("edge_lab_runner", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["edge_lab_runner"] = module
    spec.loader.exec_module(module)
    return module


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command[:3])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
