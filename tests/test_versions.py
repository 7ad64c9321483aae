"""One version of everything: versions.toml, pyproject.toml, the lock, environment.yml and what is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import edge_lab.bundle.folder

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("env_yml", ROOT / "tools" / "env_yml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


env_yml = _tool()
VERSIONS = env_yml.read_toml("versions.toml")
PROJECT = env_yml.read_toml("pyproject.toml")["project"]
DEFAULT = VERSIONS["python"]["default"]


def _needed(python: str) -> list[Requirement]:
    place = {"python_version": python, "extra": ""}
    return [r for r, _ in env_yml.direct() if r.marker is None or r.marker.evaluate(place)]


def test_exact_pins_of_pyproject_are_those_of_versions_toml() -> None:
    pins = {r.name: str(r.specifier).removeprefix("==") for r in _needed(DEFAULT)}
    assert {name: pins[name] for name in VERSIONS["packages"]} == VERSIONS["packages"]


def test_python_range_is_the_same_in_both_files() -> None:
    assert PROJECT["requires-python"] == VERSIONS["python"]["requires"]


def test_lock_has_the_pins_of_versions_toml() -> None:
    pins = env_yml.lock(DEFAULT)
    assert {name: pins[name] for name in VERSIONS["packages"]} == VERSIONS["packages"]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids="-".join)
def test_lock_satisfies_pyproject_everywhere(python: str, platform: tuple[str, str]) -> None:
    pins = env_yml.lock(python, *platform)
    wrong = [str(r) for r in _needed(python) if not r.specifier.contains(pins.get(env_yml.canonical(r.name), "0"))]
    assert not wrong, "run `make lock`"


def test_environment_yml_is_what_the_tool_writes() -> None:
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == env_yml.render(), "run `make lock`"


def test_environment_yml_installs_the_pins_of_the_lock() -> None:
    document = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert document["name"] == "edge-lab"
    assert f"python={DEFAULT}" in document["dependencies"]
    lines = next(entry["pip"] for entry in document["dependencies"] if isinstance(entry, dict))
    assert lines[0] == "-c requirements.lock"
    assert lines[-1] == "-e ."
    listed = dict(line.split("==") for line in lines[1:-1])
    pins = env_yml.lock(DEFAULT)
    assert listed == {env_yml.canonical(r.name): pins[env_yml.canonical(r.name)] for r in _needed(DEFAULT)}


def test_installed_packages_are_those_of_the_lock() -> None:
    here = "{}.{}".format(*sys.version_info[:2])
    pins = env_yml.lock(here)
    names = [env_yml.canonical(r.name) for r in _needed(here)]
    installed = {name: Version(metadata.version(name)).public for name in names}  # public: 2.14.1+cpu is 2.14.1
    assert installed == {name: pins[name] for name in names}


@pytest.mark.parametrize("name", ["bundle.schema.json", "measurement.schema.json"])
def test_published_schema_is_the_one_in_the_package(name: str) -> None:
    assert (ROOT / "schema" / name).read_bytes() == (ROOT / "edge_lab" / "schema" / name).read_bytes()


def test_schema_version_is_that_of_versions_toml() -> None:
    from edge_lab.measure import record

    assert VERSIONS["bundle"]["schema"] == edge_lab.bundle.folder.SCHEMA_VERSION
    assert VERSIONS["measurement"]["schema"] == record.SCHEMA_VERSION


def _make(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-s", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_lock_without_torch_leaves_out_pytorch_and_cuda_and_nothing_else() -> None:
    """What `make install TORCH_INDEX=<url>` installs after PyTorch's own build."""
    every = [line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if line]
    kept = _make("torch-pins").splitlines()
    gone = {line.split("==")[0] for line in every if line not in kept}
    assert {"torch", "torchvision"} <= gone
    assert all(name in ("torch", "torchvision", "triton") or name.startswith(("nvidia-", "cuda-")) for name in gone)
    assert not [line for line in kept if line.startswith(("torch==", "torchvision==", "nvidia-", "cuda-"))]
    assert any(line.startswith("torchao==") for line in kept)


def test_torch_index_takes_the_locked_builds_from_it() -> None:
    plan = _make("--dry-run", "--always-make", "install", "TORCH_INDEX=https://example.org/cpu")
    line = next(line for line in plan.splitlines() if "https://example.org/cpu" in line)
    names = subprocess.run(["sh", "-c", f"echo {line[line.index('$(') :]}"], cwd=ROOT, capture_output=True, text=True)
    pins = VERSIONS["packages"]
    assert names.stdout.split() == [f"torch=={pins['torch']}", f"torchvision=={pins['torchvision']}"]
