"""What an ExecuTorch program does when it runs: time of each operator, and tests that travel inside the file."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, InputError
from edge_lab.core.quiet import quiet
from edge_lab.formats.pte.file import read_pte, refuse_unrunnable
from edge_lab.formats.pte.flatbuffer import Table
from edge_lab.formats.runtime import executorch_bindings
from edge_lab.measure.operators import OpTime, with_rest

_WARM_UP = 2
_BUNDLED = b"BP08"


def profile_pte(
    bundle: Bundle | Path | str, x: np.ndarray, *, runs: int = 5, top: int = 8, threads: int = 1
) -> tuple[OpTime, ...]:
    """Time each operator of a .pte program, inside delegates too, by ETDump and the Inspector of ExecuTorch.

    XNNPACK tells its operators' times in whole microseconds: small ones show as 0. `profile_plot` draws the list.

    Args:
        bundle: a bundle, its folder, or a .pte file.
        x: the input, of the shape and dtype that the program wants.
        runs: profiled runs; the time of an operator is their median. Two more come before them.
        top: rows to name; the others are summed in a last row, so that shares add up to 1.
        threads: size of ExecuTorch's thread pool, which stays set.

    Returns:
        The costliest first. Calls of one operator are added up.

    Raises:
        BundleError: the program can't run here. InputError: the input does not fit.
    """
    import torch

    path = _program(bundle)
    runtime = _runtime(path, path.read_bytes(), threads)
    with tempfile.TemporaryDirectory(prefix="edge-lab-") as folder, quiet():
        program = runtime._load_for_executorch(str(path), enable_etdump=True)
        try:
            for _ in range(_WARM_UP + runs):
                program.forward((torch.from_numpy(x.copy()),))
        except RuntimeError as error:
            raise InputError(f"{path} refused the input.", str(error), "see its inputs: edge-lab inspect.") from error
        program.write_etdump_result_to_file(f"{folder}/run.etdp", None)
        events = _events(f"{folder}/run.etdp")
    total = next(ms for name, _, ms in events if name == "Method::execute")
    delegated = [(name, ms) for name, inside, ms in events if inside]
    kernels = [(name.removeprefix("native_call_"), ms) for name, _, ms in events if name.startswith("native_call_")]
    if not delegated:  # a backend that does not tell what it does inside
        kernels += [("delegate", ms) for name, _, ms in events if name == "DELEGATE_CALL"]
    return with_rest(_added_up([*delegated, *kernels], total), top, total)


def _events(dump: str) -> list[tuple[str, bool, float]]:
    """(name, whether inside a delegate, median ms) of what an ETDump recorded of the runs after the warm-up."""
    from executorch.devtools import Inspector

    block = next(b for b in Inspector(etdump_path=dump).event_blocks if b.name == "Execute")
    return [(e.name, bool(e.is_delegated_op), median(e.perf_data.raw[_WARM_UP:])) for e in block.events if e.perf_data]


def _added_up(rows: list[tuple[str, float]], total: float) -> list[OpTime]:
    """Calls of one kind added up; XNNPACK numbers them ("Convolution (NHWC, F32) IGEMM #2")."""
    found: dict[str, list[float]] = {}
    for name, ms in rows:
        found.setdefault(re.sub(r" #\d+$", "", name), []).append(ms)
    ops = [OpTime(name, len(times), sum(times), sum(times) / total) for name, times in found.items()]
    return sorted(ops, key=lambda op: -op.ms)


def write_bundled(bundle: Bundle | Path | str, path: Path | str) -> Path:
    """Write a bundle's program with its golden inputs and expected outputs inside: one file that can test itself.

    ExecuTorch calls it a BundledProgram; its device runner reads it, too. The suffix is .bpte by custom.

    Raises:
        BundleError: the program is no .pte, or the bundle has no golden vectors.
    """
    import torch

    from edge_lab.core.files import writing_file

    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    program = _program(bundle)
    cases = [(torch.from_numpy(x), [torch.from_numpy(y) for y in ys]) for _, x, ys in bundle.golden_cases()]
    if not cases:
        raise BundleError(f"{bundle.name} has no golden vectors.", "there is nothing to test.", "export it again.")
    with quiet():
        from executorch.devtools import BundledProgram
        from executorch.devtools.bundled_program.config import MethodTestCase, MethodTestSuite
        from executorch.devtools.bundled_program.serialize import serialize_from_bundled_program_to_flatbuffer

        tests = [MethodTestCase(inputs=(x,), expected_outputs=ys) for x, ys in cases]
        whole = BundledProgram(None, [MethodTestSuite("forward", tests)], pte_file_path=str(program))
        content = serialize_from_bundled_program_to_flatbuffer(whole)
    with writing_file(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def verify_bundled(path: Path | str, *, atol: float = 1e-4, rtol: float = 1e-3) -> tuple[bool, ...]:
    """Let the runtime test a bundled program against the outputs inside it: one verdict for each input.

    Raises:
        BundleError: the file is no bundled program, is damaged, or its program can't run here.
    """
    content = Path(path).read_bytes()
    if content[4:8] != _BUNDLED:
        raise BundleError(
            f"{path} is not a bundled program.",
            f"its identifier is {content[4:8]!r}, not {_BUNDLED!r}.",
            "write one with edge_lab.measure.write_bundled(bundle, path).",
        )
    try:
        root = Table.root(content)
        counts = {suite.text(0): len(suite.tables(1)) for suite in root.tables(1)}
        start, size = root.span(2)
    except ValueError as error:
        raise BundleError(f"{path} is damaged.", f"{error}.", "write it again.") from error
    runtime = _runtime(Path(path), content[start : start + size], 1)
    verdicts = []
    with quiet():
        module = runtime._load_bundled_program_from_buffer(content)
        for method, count in counts.items():
            for case in range(count):
                verdicts.append(_passes(module, method, case, rtol, atol))
    return tuple(verdicts)


def _passes(module: Any, method: str, case: int, rtol: float, atol: float) -> bool:
    try:
        module.verify_result_with_bundled_expected_output(method, case, rtol, atol)
    except RuntimeError as error:
        if "verification failed" not in str(error):
            raise
        return False
    return True


def _program(bundle: Bundle | Path | str) -> Path:
    if not isinstance(bundle, Bundle):
        path = Path(bundle)
        if path.is_file():
            return path
        bundle = Bundle.load(path)
    if bundle.runtime.format != "pte":
        raise BundleError(
            f"{bundle.name} is not an ExecuTorch program.",
            f"its format is {bundle.runtime.format}.",
            "export the model for an ExecuTorch target, such as linux-xnnpack-fp32.",
        )
    return bundle.program_path


def _runtime(path: Path, content: bytes, threads: int) -> Any:
    """ExecuTorch's bindings, after checking that they can run this program."""
    report = read_pte(path, content)
    with quiet():
        runtime = executorch_bindings()
        runtime._unsafe_reset_threadpool(threads)
    refuse_unrunnable(report, runtime._get_registered_backend_names(), runtime._get_operator_names(), weights=False)
    return runtime
