"""What a Session costs: `session(x)` against the engine's own call, in turn, CPU time of one thread.

    python benchmarks/session_overhead.py artifacts/efficientnet_lite0/*-int8 artifacts/efficientnet_lite0/*-fp32
    python benchmarks/session_overhead.py --eager efficientnet_lite0

The own call is the least that gives the same answer as an array: no check of shape and dtype, no copy of the input, no
copy of the output. The goal is a ratio below 1.02 for a call of 5 ms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab import Bundle, create, load
from edge_lab.core.errors import BundleError, MissingTool
from edge_lab.formats.runtime import Session, eager
from edge_lab.measure import interleaved, pinned, ratio

Call = Callable[[], Any]


def _executorch(bundle: Bundle, x: np.ndarray) -> Call:
    import torch

    from edge_lab.formats.runtime import executorch_bindings

    program = executorch_bindings()._load_for_executorch_from_buffer(buffer := bundle.program_path.read_bytes())
    tensor = torch.from_numpy(x)

    def call(_keep: bytes = buffer) -> Any:
        return program.forward((tensor,))[0].numpy()

    return call


def _onnxruntime(bundle: Bundle, x: np.ndarray) -> Call:
    from edge_lab.formats.onnx.ort import open_session

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


_OWN: dict[str, Callable[[Bundle, np.ndarray], Call]] = {
    "pte": _executorch,
    "onnx": _onnxruntime,
    "torchscript": _torchscript,
    "pt2": _exported,
    "aoti": _aoti,
}


def compared(name: str, pairs: Sequence[tuple[Session, Call]], x: np.ndarray, rounds: int) -> str:
    """One line: the own call's median, the ratio of the two with its 95 % interval, the median of the differences.

    Two loads of one program differ by up to 6 %, by where their memory happens to lie: several are used in turn.
    """
    for session, own in pairs:
        assert np.array_equal(session(x).ravel(), np.asarray(own()).ravel())  # the same work
    sessions, owns = cycle([session for session, _ in pairs]), cycle([own for _, own in pairs])
    calls: dict[str, Call] = {"session": lambda: next(sessions)(x), "own": lambda: next(owns)()}
    times = interleaved(calls, rounds=rounds, warmup=2 * len(pairs))
    added = 1e6 * float(np.median(np.subtract(times["session"].times, times["own"].times)))
    found = ratio(times["session"], times["own"])
    text = f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    return f"{name:<40} {times['own'].p50_ms:>11.3f}  {text:<26} {added:>8.0f}"


def of_bundle(path: Path, rounds: int, loads: int) -> str:
    """The line of one bundle, or why it can't run here."""
    try:
        bundle = Bundle.load(path)
    except BundleError as error:
        return f"{path!s:<40} not compared: {error.what}"
    own = _OWN.get(bundle.runtime.format)
    if own is None:
        return f"{bundle.name:<40} not compared: no own call is written for {bundle.runtime.format}"
    x = next(iter(bundle.golden_cases()))[1]
    try:
        pairs = [(load(bundle), own(bundle, x)) for _ in range(loads)]
    except (BundleError, MissingTool) as error:
        return f"{bundle.name:<40} not compared: {error.what}"
    return compared(bundle.name, pairs, x, rounds)


def of_module(name: str, rounds: int) -> str:
    """The line of a zoo model as it is in PyTorch; both calls share the module."""
    model = create(name)
    x = np.random.default_rng(0).standard_normal(model.spec.input.shape).astype(np.float32)
    return compared(f"{name}/eager", [(eager(model), _torch_call(model.module, x))], x, rounds)


def main() -> None:
    """Print one line for each bundle and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--eager", nargs="+", default=[], metavar="MODEL", help="zoo models as PyTorch modules")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--loads", type=int, default=4, help="how often each program is loaded")
    arguments = parser.parse_args()
    if not arguments.bundles and not arguments.eager:
        parser.error("name bundles, or models with --eager")
    print(f"{'bundle':<40} {'own call ms':>11}  {'session / own call':<26} {'added us':>8}")
    with pinned(1):
        for path in arguments.bundles:
            print(of_bundle(path, arguments.rounds, arguments.loads), flush=True)
        for name in arguments.eager:
            print(of_module(name, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
