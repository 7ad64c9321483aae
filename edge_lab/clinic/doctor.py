"""What works on this machine: every capability is tried, not guessed, and comes with the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_MIN_DISK_GB = 1.0  # bundles of one run take about 0.1 GB, its temporary files the same again
_MIN_MEMORY_GB = 2.0  # an export of EfficientNet-Lite0 peaks at about 1.5 GB
_TIMEOUT_S = 180
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


@dataclass(frozen=True)
class Check:
    """One capability. `ok` None: it does not apply here. One that is not `required` only limits what works."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""
    required: bool = True

    @property
    def mark(self) -> str:
        """OK, FAIL, WARN (fails, but is not required) or ---- (does not apply)."""
        if self.ok is None:
            return "----"
        return "OK" if self.ok else ("FAIL" if self.required else "WARN")


def check() -> tuple[Check, ...]:
    """Try everything, in the order a reader would mend it. Native code is loaded in processes of its own."""
    probes: list[Callable[[], Check]] = [_torch, _executorch, _onnxruntime, _coreml]
    with ThreadPoolExecutor(2) as pool:
        probed = [pool.submit(probe) for probe in probes]
        quick = [_python(), *_packages()]
        rest = [_coreml_prediction(), _compiler(), _cpu(), _disk(), _memory(), _cache(), _real_data(), _jupyter()]
        return (*quick, *(p.result() for p in probed), *rest)


def healthy(checks: tuple[Check, ...]) -> bool:
    """Whether nothing that is required fails."""
    return all(c.ok is not False or not c.required for c in checks)


def lines(checks: tuple[Check, ...]) -> list[str]:
    """A line for each check; under a failed one, what to do."""
    width = max(len(c.name) for c in checks)
    text = []
    for c in checks:
        text.append(f"{c.mark:<4}  {c.name:<{width}}  {c.detail}".rstrip())
        if c.ok is False and c.fix:
            text.append(f"      {'':<{width}}  fix: {c.fix}")
    return text


def _python() -> Check:
    from packaging.specifiers import SpecifierSet

    needed = SpecifierSet(metadata.metadata("edge-lab")["Requires-Python"])
    version = platform.python_version()
    fix = f"install a Python that fits {needed}, then: make run PYTHON=python3.11"
    return Check("Python", needed.contains(version, prereleases=True), f"{version} (needs {needed})", fix)


def _packages() -> list[Check]:
    from packaging.requirements import Requirement

    checks = []
    for line in metadata.requires("edge-lab") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        fix = f"{sys.executable} -m pip install '{wanted}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(requirement.name, False, f"not installed (needs {wanted})", fix))
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        checks.append(Check(requirement.name, fits, version if fits else f"{version} (needs {wanted})", fix))
    return checks


def _probe(name: str, code: str, good: str, fix: str, required: bool = True) -> Check:
    """Run `code` in a fresh interpreter: it passes if it exits with 0 and its last line starts with `good`."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(name, False, f"no answer within {_TIMEOUT_S} s", fix, required)
    output = done.stdout.strip().splitlines()
    last = output[-1] if output else ""
    if done.returncode == 0 and last.startswith(good):
        return Check(name, True, last, required=required)
    if done.returncode < 0:
        return Check(name, False, f"crashed with signal {-done.returncode}", fix, required)
    said = [line for line in done.stderr.strip().splitlines() if line.strip()] or [last or "it printed nothing"]
    return Check(name, False, said[-1].strip()[:200], fix, required)


def _reinstall(package: str) -> str:
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {package}=={_pinned(package)}"


def _pinned(package: str) -> str:
    from packaging.requirements import Requirement

    for line in metadata.requires("edge-lab") or []:
        requirement = Requirement(line)
        if requirement.name == package and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            return next(iter(requirement.specifier)).version
    return ""


_TORCH = """
import torch
x = torch.arange(8.).reshape(2, 4)
program = torch.export.export(torch.nn.Linear(4, 2).eval(), (x,))
assert program.module()(x).shape == (2, 2)
print("computes and exports; kernels for", torch.backends.cpu.get_cpu_capability())
"""
_EXECUTORCH = """
from edge_lab.formats.runtime import executorch_bindings
backends = executorch_bindings()._get_registered_backend_names()
print(("loads; backends: " if "XnnpackBackend" in backends else "XNNPACK is missing from: ") + ", ".join(backends))
"""
_ONNX = """
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(out,) = session.run(None, {"x": np.float32([-1, 0, 2])})
assert out.tolist() == [0, 0, 2], out
print("runs a model; ONNX", onnx.__version__)
"""
_COREML = """
import logging, warnings
warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
import coremltools
print("converts; coremltools", coremltools.__version__)
"""


def _torch() -> Check:
    return _probe("PyTorch", _TORCH, "computes", _reinstall("torch"))


def _executorch() -> Check:
    return _probe("ExecuTorch runtime", _EXECUTORCH, "loads", _reinstall("executorch"))


def _onnxruntime() -> Check:
    return _probe("ONNX Runtime", _ONNX, "runs", _reinstall("onnxruntime"))


def _coreml() -> Check:
    return _probe("Core ML conversion", _COREML, "converts", _reinstall("coremltools"))


def _coreml_prediction() -> Check:
    if sys.platform != "darwin":
        return Check(
            "Core ML prediction", None, "macOS only; .mlpackage files are written here, not run", required=False
        )
    code = "import coremltools.libcoremlpython as p\nprint('runs', p.__name__)"
    return _probe("Core ML prediction", code, "runs", _reinstall("coremltools"), required=False)


def _compiler() -> Check:
    """Without importing torch: it looks for the same names as Inductor."""
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    fix = "apt install g++, or set CXX; only the linux-inductor targets need one"
    return Check("C++ compiler", found is not None, found or f"no {name}", fix, required=False)


def _cpu() -> Check:
    from edge_lab.measure.host import machine

    facts = machine()
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("flags", "features"):
                flags = set(value.split())
                break
    found = [f for f in _FLAGS if f in flags]
    detail = f"{facts.get('cpu', '?')}, {facts.get('cores', '?')}" + (f"; {', '.join(found)}" if found else "")
    return Check("CPU", True, detail, required=False)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    fix = "free some space here, or write elsewhere: edge-lab run --out FOLDER"
    return Check("Free disk", free >= _MIN_DISK_GB, f"{free:.1f} GB here (needs {_MIN_DISK_GB:g})", fix)


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    fix = "close other programs, or export with one process: edge-lab run --jobs 1"
    return Check(
        "Free memory", free >= _MIN_MEMORY_GB, f"{free:.1f} GB (wants {_MIN_MEMORY_GB:g})", fix, required=False
    )


def _cache() -> Check:
    from edge_lab.data.download import cache_folder

    folder = cache_folder()
    fix = "make the folder writable, or choose another: export EDGE_LAB_CACHE=FOLDER"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-"):
            pass
    except OSError as error:
        return Check("Cache folder", False, f"{folder}: {error.strerror or error}", fix)
    return Check("Cache folder", True, f"{folder} is writable", required=True)


def _real_data() -> Check:
    folder = os.environ.get("EDGE_LAB_DATA")
    if not folder:
        return Check(
            "Real data sets", None, "$EDGE_LAB_DATA is not set: they are downloaded on first use", required=False
        )
    if not Path(folder).is_dir():
        fix = "correct EDGE_LAB_DATA, or unset it to download the sets instead"
        return Check("Real data sets", False, f"$EDGE_LAB_DATA is {folder!r}, which is not a folder", fix)
    files = sorted(p.name for p in Path(folder).iterdir() if p.suffix in (".zip", ".tgz", ".gz"))
    fix = "put cifar10.zip or imagenet_sample_even.zip there, or unset EDGE_LAB_DATA"
    return Check("Real data sets", bool(files), ", ".join(files) or f"{folder} holds no archive", fix, required=False)


def _jupyter() -> Check:
    fix = f"{sys.executable} -m pip install 'edge-lab[labs]'"
    missing = []
    for package in ("jupyterlab", "ipykernel", "ipywidgets"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    detail = f"{', '.join(missing)} not installed" if missing else f"jupyterlab {metadata.version('jupyterlab')}"
    return Check("Jupyter", not missing, detail, fix, required=False)
