"""The process that `edge_lab.measure.cold` starts: load one bundle, run it, print what that cost as one JSON line.

    python -m edge_lab.measure.child BUNDLE [STEADY_RUNS]

It loads exactly one engine, so that its memory and start-up time are that engine's alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# What an app links in, imported first so that loading the program is timed apart from loading the engine.
_ENGINE_MODULES = {
    "torchscript": ("torch",),
    "pt2": ("torch", "torch.export"),
    "onnx": ("onnxruntime",),
    "pte": ("torch", "executorch.extension.pybindings._C"),
    "mlpackage": ("coremltools",),
    "aoti": ("torch", "torch._inductor.package"),
    "ort": ("onnxruntime",),
    "ptl": ("torch", "torch.jit.mobile"),
    "c": ("ctypes",),
}


def main(argv: list[str]) -> int:
    """Measure one bundle; the answer is the last line on standard output."""
    path, runs = Path(argv[0]), int(argv[1]) if len(argv) > 1 else 10
    from edge_lab.bundle.folder import Bundle

    bundle = Bundle.load(path)
    inputs = _inputs(bundle)
    times: dict[str, tuple[float, float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        times[name] = (1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu))
        return result

    timed("import", partial(_import_engine, bundle.runtime.format))
    from edge_lab import export  # noqa: F401  # what checks a file first: ours, no part of loading it
    from edge_lab.formats import runtime

    baseline = resident_mb()
    session = timed("load", partial(runtime.load, bundle, threads=1))
    loaded = resident_mb()
    timed("first", partial(session.run, inputs[0]))
    steady = []
    for i in range(runs):
        timed("steady", partial(session.run, inputs[(i + 1) % len(inputs)]))
        steady.append(times["steady"])
    times["steady"] = (statistics.median(w for w, _ in steady), statistics.median(c for _, c in steady))
    memory = {"baseline_mb": baseline, "loaded_mb": loaded, "peak_mb": max(loaded, peak_mb())}
    print("\n" + json.dumps({"edge_lab_child": 1, "times_ms": times, "memory": memory}), flush=True)
    return 0


def _import_engine(format_: str) -> None:
    for module in _ENGINE_MODULES[format_]:
        with contextlib.suppress(ImportError):  # loading says what is missing
            importlib.import_module(module)


def _inputs(bundle: Any) -> list[np.ndarray]:
    """The golden inputs; noise of the right shape for a bundle without any."""
    inputs = [x for _, x, _ in bundle.golden_cases()]
    if not inputs:
        noise = np.random.default_rng(0).standard_normal(bundle.spec.input.shape)
        inputs = [noise.astype(bundle.spec.input.dtype)]
    return inputs


def resident_mb() -> float:
    """Memory of this process now, in MB (1e6 bytes)."""
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB (1e6 bytes).

    On Linux VmHWM, not ru_maxrss: the latter survives exec and would report the parent's memory if that was larger.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
