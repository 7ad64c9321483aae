"""The process that `edge_lab.formats.pte.delegates` starts: lower programs for accelerators and run them.

    python -m edge_lab.formats.pte.delegates_child FOLDER 0:xnnpack 0:vulkan 1:xnnpack

FOLDER/0 holds program.pt2 and arrays.npz. One JSON line for each stage of each pair goes to standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def main(argv: list[str]) -> int:
    """Work through all pairs; what can't be done is an answer, not an error."""
    logging.disable(logging.CRITICAL)
    for word in argv[1:]:
        place, _, name = word.partition(":")
        try:
            with _captured() as printed:
                answer = _nnapi(Path(argv[0]) / place) if name == "nnapi" else lower(name, Path(argv[0]) / place)
            answer |= _estimate(printed.getvalue())
        except BaseException as error:  # vendors' code also raises SystemExit
            _say(word, {"state": "refused", "why": _sentence(error)})
            continue
        _say(word, answer)
        if "state" not in answer:
            _say(word, run(name, Path(argv[0]) / place))
    return 0


def lower(name: str, place: Path) -> dict[str, Any]:
    """Partition, lower and write model.pte."""
    import torch
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    from edge_lab.formats.pte.executorch import delegated

    with np.load(place / "arrays.npz") as stored:
        inputs = [torch.from_numpy(x) for x in stored["inputs"]]
    stored_program = torch.export.load(place / "program.pt2")  # the parent wrote it
    # once more: some passes mix the fake tensors of a program that was loaded with new ones, and stop
    program = torch.export.export(stored_program.module(check_guards=False), (inputs[0],), strict=False)
    program, partitioner = RECIPES[name](program, inputs)
    edge = to_edge_transform_and_lower(program, partitioner=[partitioner])
    graph = edge.exported_program().graph_module
    share, left = delegated(graph)
    buffer = edge.to_executorch().buffer
    (place / f"{name}.pte").write_bytes(buffer)
    pieces = get_delegation_info(graph).num_delegated_subgraphs
    return {"delegated": share, "left": left, "pieces": pieces, "size_mb": len(buffer) / 1e6}


def run(name: str, place: Path) -> dict[str, Any]:
    """Execute the program that `lower` wrote."""
    import torch

    from edge_lab.formats.runtime import executorch_bindings

    bindings = executorch_bindings()
    buffer = (place / f"{name}.pte").read_bytes()
    here = bindings._get_registered_backend_names()
    wanted = {found.decode() for found in re.findall(rb"[A-Z][A-Za-z]+Backend\b", buffer)}
    if missing := sorted(wanted - set(here)):
        why = f"the runtime in Python's package has no {', '.join(missing)} (it has {', '.join(sorted(here))})"
        return {"state": "written", "why": why}
    try:
        with np.load(place / "arrays.npz") as stored, _captured():
            program = bindings._load_for_executorch_from_buffer(buffer)
            outputs = [program.forward((torch.from_numpy(x.copy()),))[0].numpy().copy() for x in stored["inputs"]]
    except Exception as error:  # RuntimeError with a code
        return {"state": "written", "why": _sentence(error)}
    np.save(place / f"{name}.npy", np.stack(outputs))
    return {"state": "ran"}


Recipe = Callable[[Any, list[Any]], tuple[Any, Any]]


def _xnnpack(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    from edge_lab.capture.expand import expand_gelu, expand_hardsigmoid, flatten_softmax

    return flatten_softmax(expand_hardsigmoid(expand_gelu(program))), XnnpackPartitioner()


def _openvino(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # reports this import to Intel if it is there
    import openvino  # type: ignore[import-not-found]
    from executorch.backends.openvino.partitioner import OpenvinoPartitioner
    from executorch.exir.backend.compile_spec_schema import CompileSpec

    libraries = sorted((Path(openvino.__file__).parent / "libs").glob("libopenvino_c.*"))
    if libraries:  # ExecuTorch looks for it by this name, and only in the folder that it is itself installed in
        os.environ.setdefault("OPENVINO_LIB_PATH", str(libraries[0]))
    return program, OpenvinoPartitioner([CompileSpec("device", b"CPU")])


def _vulkan(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return program, VulkanPartitioner()


def _coreml(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    return program, CoreMLPartitioner()


def _qnn(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.qualcomm.partition.qnn_partitioner import QnnPartitioner
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
    from executorch.backends.qualcomm.utils import utils

    if not os.environ.get("QNN_SDK_ROOT"):
        raise RuntimeError("QNN_SDK_ROOT is not set: ExecuTorch would download the QNN SDK now")
    half = utils.generate_htp_compiler_spec(use_fp16=True)
    spec = utils.generate_qnn_executorch_compiler_spec(soc_model=QcomChipset.SM8650, backend_options=half)
    return program, QnnPartitioner(spec)


def _mediatek(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.mediatek import NeuropilotPartitioner
    from executorch.exir.backend.compile_spec_schema import CompileSpec

    return program, NeuropilotPartitioner([CompileSpec("platform-config", b"mt6989")])


def _samsung(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.samsung.partition.enn_partitioner import EnnPartitioner
    from executorch.backends.samsung.serialization.compile_options import gen_samsung_backend_compile_spec

    return program, EnnPartitioner([gen_samsung_backend_compile_spec("E9955")])


def _nxp(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.nxp.backend.neutron_target_spec import NeutronTargetSpec
    from executorch.backends.nxp.neutron_partitioner import NeutronPartitioner
    from executorch.backends.nxp.nxp_backend import generate_neutron_compile_spec
    from executorch.backends.nxp.quantizer.neutron_quantizer import NeutronQuantizer

    target = NeutronTargetSpec("imxrt700")
    program = _quantized(program, NeutronQuantizer(target), inputs)
    return program, NeutronPartitioner(generate_neutron_compile_spec("imxrt700"), target)


def _ethos_u(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config

    spec = EthosUCompileSpec(
        "ethos-u55-128",
        system_config="Ethos_U55_High_End_Embedded",
        memory_mode="Shared_Sram",
        extra_flags=["--verbose-performance"],
    )
    quantizer = EthosUQuantizer(spec)
    quantizer.set_global(get_symmetric_quantization_config())
    return _quantized(program, quantizer, inputs), EthosUPartitioner(spec)


def _mps(program: Any, inputs: list[Any]) -> tuple[Any, Any]:
    from executorch.backends.apple.mps.partition.mps_partitioner import MPSPartitioner

    return program, MPSPartitioner([])


def _quantized(program: Any, quantizer: Any, inputs: list[Any]) -> Any:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
    for x in inputs:
        prepared(x)
    return torch.export.export(convert_pt2e(prepared), (inputs[0],), strict=False)


RECIPES: dict[str, Recipe] = {
    "xnnpack": _xnnpack,
    "openvino": _openvino,
    "vulkan": _vulkan,
    "coreml": _coreml,
    "qnn": _qnn,
    "mediatek": _mediatek,
    "samsung": _samsung,
    "nxp": _nxp,
    "ethos-u": _ethos_u,
    "mps": _mps,
}


def _nnapi(place: Path) -> dict[str, Any]:
    """TorchScript's converter, the way of 2021: trace, convert, save; then try to run it."""
    import torch
    from torch.backends._nnapi import prepare

    program = torch.export.load(place / "program.pt2").module(check_guards=False).requires_grad_(False)
    with np.load(place / "arrays.npz") as stored:
        x: Any = torch.from_numpy(stored["inputs"][0])
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.nnapi_nhwc = x.ndim == 4
    jit: Any = torch.jit
    convert: Any = prepare.convert_model_to_nnapi
    converted = convert(jit.trace(_traceable(program), x), x)
    jit.save(converted, place / "nnapi.pt")
    answer = {"size_mb": (place / "nnapi.pt").stat().st_size / 1e6}
    try:
        y = converted(x)
    except Exception as error:  # RuntimeError, and what the TorchScript interpreter makes of it
        found = re.search(r"Failed to load \S+", str(error))
        return answer | {"state": "written", "why": found[0] if found else _sentence(error)}
    np.save(place / "nnapi.npy", np.stack([y.numpy()]))
    return answer | {"state": "ran"}


def _traceable(program: Any) -> Any:
    """A module around an exported graph, which lacks what the tracer expects of a module."""
    import torch

    class Wrapped(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return program(x)

    return Wrapped().eval()


_FIGURES = {
    "cycles": r"^\S+ +\S+ +(?:NPU|CPU) +\d+ +[\d.]+ +(\d+)",  # one line for each operator
    "SRAM KiB": r"^Total SRAM used +([\d.]+)",
    "flash KiB": r"^Total Off-chip Flash used +([\d.]+)",
}


def _estimate(printed: str) -> dict[str, Any]:
    """Vela's model of the chip: sums over operators and pieces; of SRAM, which the pieces share, the largest."""
    found = {name: [float(x) for x in re.findall(regex, printed, re.M)] for name, regex in _FIGURES.items()}
    figures = {name: max(xs) if name.startswith("SRAM") else sum(xs) for name, xs in found.items() if xs}
    return {"estimate": figures} if figures else {}


def _sentence(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = re.sub(r"<[^<>]* at 0x\w+>", "...", lines[0].split(" in node %")[0]) if lines else "no message"
    return f"{type(error).__name__}: {first[:200]}"


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """Keep what is printed inside the block, also by native code, off standard output; afterwards it can be read."""
    text = io.StringIO()
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(text):
                yield text
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            text.write(file.read())


def _say(word: str, answer: dict[str, Any]) -> None:
    print("\n" + json.dumps({"delegate": word} | answer), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
