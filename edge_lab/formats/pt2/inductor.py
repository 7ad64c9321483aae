"""AOTInductor: the model compiled to machine code for this CPU by PyTorch's own compiler. Needs a C++ compiler."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.exported import exported_program
from edge_lab.capture.ready import ready
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.compress.graphs.layers import quantized_layers
from edge_lab.compress.static.backends import quantize_inductor
from edge_lab.compress.weights.dynamic import DynamicInt8
from edge_lab.core.errors import ExportError, MissingTool
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet
from edge_lab.formats.pt2.native import vouch

if TYPE_CHECKING:
    import torch


@exporter("inductor", "aoti", ("linux",), ("fp32", "bf16", "int8", "int8-dynamic"), takes=("plain", "torchao"))
def export_inductor(job: Job) -> Program:
    """Write model.aoti, a shared library with its weights. It runs on CPUs like this one only.

    Compiling takes minutes. The file is a PyTorch "AOTInductor package", a .pt2 archive; it has another ending here
    because it holds machine code, which model.pt2 never does.
    """
    compiler()
    module, report = ready(job, DynamicInt8("inductor") if job.target.precision == "int8-dynamic" else None)
    if job.target.precision == "int8":
        if platform.machine().lower() not in ("x86_64", "amd64"):
            raise ExportError(
                f"{job.target.name} can't be compiled on {platform.machine()}.",
                "Inductor's int8 recipe is made for x86 CPUs.",
                "use linux-xnnpack-int8 here, or compile on an x86 machine.",
            )
        module = quantize_inductor(module, job.example, job.calibration, job.target.quantize)
        report = quantized_layers(module)
    path = job.folder / "model.aoti"
    program = exported_program(job, module)
    _compile(program, path)
    vouch(path)
    version = version_of("torch")
    return Program(path.name, Runtime("aoti", "inductor", "torch", version, version), report)


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    import torch

    package = path.with_suffix(".pt2")  # the only ending that PyTorch accepts
    with quiet(), torch.no_grad():
        # freezing: weights become constants, which lets oneDNN reorder them once instead of at every call
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(package), inductor_configs={"freezing": True}
        )
    package.rename(path)


def compiler() -> str:
    """The C++ compiler that Inductor would use.

    Raises:
        MissingTool: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return str(get_cpp_compiler())
    except InvalidCxxCompiler as error:
        raise MissingTool(
            "there is no C++ compiler, which linux-inductor targets need.",
            "PyTorch's Inductor writes C++ and compiles it.",
            "apt install g++ (or set CXX to one); every other target does without.",
        ) from error
