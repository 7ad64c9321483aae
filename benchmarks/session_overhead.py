"""What a Session costs: `session(x)` against the engine's own call, in turn, CPU time of one thread.

    python benchmarks/session_overhead.py artifacts/efficientnet_lite0/*-int8 artifacts/efficientnet_lite0/*-fp32

The own call is the least that gives the same answer as an array: no check of shape and dtype, no copy of the input, no
copy of the output. The goal is a ratio below 1.02 for a call of 5 ms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab import Bundle, load
from edge_lab.measure import interleaved, pinned, ratio

Call = Callable[[], Any]


def bare(bundle: Bundle, x: np.ndarray) -> Call:
    """The engine's own call on a loaded program, with an array in and an array out."""
    return {"pte": _executorch, "onnx": _onnxruntime, "torchscript": _torchscript, "pt2": _exported, "aoti": _aoti}[
        bundle.runtime.format
    ](bundle, x)


def _executorch(bundle: Bundle, x: np.ndarray) -> Call:
    import torch

    from edge_lab.runtime import executorch_bindings

    program = executorch_bindings()._load_for_executorch_from_buffer(buffer := bundle.program_path.read_bytes())
    tensor = torch.from_numpy(x)

    def call(_keep: bytes = buffer) -> Any:
        return program.forward((tensor,))[0].numpy()

    return call


def _onnxruntime(bundle: Bundle, x: np.ndarray) -> Call:
    from edge_lab.ort import open_session

    session = open_session(bundle.program_path, threads=1)
    return partial(session.run, None, {session.get_inputs()[0].name: x})


def _torch_call(module: Any, x: np.ndarray) -> Call:
    import torch

    tensor = torch.from_numpy(x)

    def call() -> Any:
        with torch.inference_mode():
            return module(tensor).numpy()

    return call


def _torchscript(bundle: Bundle, x: np.ndarray) -> Call:
    import torch

    return _torch_call(torch.jit.load(str(bundle.program_path)), x)  # type: ignore[no-untyped-call]


def _exported(bundle: Bundle, x: np.ndarray) -> Call:
    import torch

    return _torch_call(torch.export.load(bundle.program_path).module(check_guards=False), x)


def _aoti(bundle: Bundle, x: np.ndarray) -> Call:
    import torch

    program = torch._inductor.aoti_load_package(str(bundle.program_path))
    return _torch_call(program, x)


def main() -> None:
    """Print one line for each bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    print(f"{'bundle':<40} {'own call ms':>11}  {'session / own call':<26} {'added us':>8}")
    for path in arguments.bundles:
        bundle = Bundle.load(path)
        x = next(iter(bundle.golden_cases()))[1]
        with pinned(1):
            session, own = load(bundle), bare(bundle, x)
            assert np.array_equal(session(x), np.asarray(own()).reshape(session(x).shape))  # the same work
            times = interleaved({"session": partial(session, x), "own": own}, rounds=arguments.rounds, warmup=10)
        added = 1e6 * float(np.median(np.subtract(times["session"].times, times["own"].times)))
        found = ratio(times["session"], times["own"])
        text = f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
        print(f"{bundle.name:<40} {times['own'].p50_ms:>11.3f}  {text:<26} {added:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
