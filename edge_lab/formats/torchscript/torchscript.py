"""TorchScript: legacy since torch 2.11, still read by many apps. Trace, and script where tracing would be wrong."""

from __future__ import annotations

import json
import traceback
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.folder import Runtime
from edge_lab.bundle.spec import ModelSpec
from edge_lab.capture.ready import ready
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.compress.weights.dynamic import DynamicInt8
from edge_lab.core.errors import ExportError
from edge_lab.core.made_with import version_of

if TYPE_CHECKING:
    import torch


@exporter(
    "torchscript", "torchscript", ("linux",), ("fp32", "fp16", "bf16", "int8-dynamic"), takes=("plain", "torch.ao")
)
def export_torchscript(job: Job) -> Program:
    """Write model.pt; labels and spec travel inside it as well (`extra_files`).

    Weights in 8 or 4 bits have no target here: `freeze` would widen them and write floats. Dynamic int8 takes the
    legacy torch.ao kernels: Linear, LSTM, GRU.
    """
    import torch

    module, report = ready(job, DynamicInt8("eager") if job.target.precision == "int8-dynamic" else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.jit.freeze(record(module, job.example, job))  # type: ignore[no-untyped-call]
        program.save(str(job.folder / "model.pt"), _extra_files=extra_files(job.spec))
    torch_version = version_of("torch")
    return Program("model.pt", Runtime("torchscript", "cpu", "torch", torch_version, torch_version), report)


def extra_files(spec: ModelSpec) -> dict[str, str]:
    """What an app needs beside the weights, to be stored inside the archive: labels.txt and spec.json.

    Read them with `torch.jit.load(path, _extra_files={"labels.txt": ""})`, or with any unzip from `extra/`.
    """
    about = asdict(spec)
    labels = about.pop("labels")
    files = {"spec.json": json.dumps(about, indent=1)}
    return files | ({"labels.txt": "\n".join(labels) + "\n"} if labels else {})


def record(module: torch.nn.Module, example: np.ndarray, job: Job | None = None) -> Any:
    """The module as a ScriptModule: traced, or scripted where a trace would be wrong.

    A trace records one path through the code. Where that depends on the data, the tracer warns and the program
    would be silently wrong for other inputs; such a module is scripted instead.

    Args:
        module: returns a tensor or a tuple of tensors.
        example: an input, with the batch axis.
        job: whose names an error is to mention.

    Raises:
        ExportError: tracing is wrong and scripting impossible.
    """
    import torch

    from edge_lab.zoo.steady import calling

    jit: Any = torch.jit
    with warnings.catch_warnings(record=True) as caught, calling():
        warnings.simplefilter("always")
        try:
            program = jit.trace(module, (torch.from_numpy(example),), strict=False)
        except RuntimeError as error:
            if "dynamo-optimized function" not in str(error):
                raise
            raise _compiled(error, _name(module, job), job) from error
        if not any(issubclass(w.category, jit.TracerWarning) for w in caught):
            return program
        return _script_or_proof(module, example, program, job)


def _compiled(error: RuntimeError, name: str, job: Job | None) -> ExportError:
    """A trace that met torch.compile: torch.cond calls it, or the reader did, on a part or a function."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    what = f"{name} can't be exported to {job.target.name if job else 'TorchScript'}."
    if any("_higher_order_ops" in file for file in files):
        return ExportError(
            what,
            "it uses torch.cond or another operator of torch.export, which TorchScript does not know.",
            "write an ordinary if or while for this target, or export to pt2, onnx or xnnpack.",
        )
    return ExportError(
        what,
        "a part of it, or a function that it calls, is wrapped in torch.compile, which can't be traced.",
        "leave torch.compile out there (around the whole network it does no harm), or export to pt2, onnx or xnnpack.",
    )


def _name(module: torch.nn.Module, job: Job | None) -> str:
    return job.spec.name if job else type(module).__name__


def _script_or_proof(module: torch.nn.Module, example: np.ndarray, traced: Any, job: Job | None) -> Any:
    """The scripted module; where scripting fails, the trace, if it equals the module on inputs of other magnitudes.

    Libraries also trigger the tracer's warning with harmless checks of shapes, so the warning alone proves nothing.
    """
    import torch

    from edge_lab.formats.runtime import flat_arrays

    jit: Any = torch.jit
    try:
        return jit.script(module)
    except Exception as error:  # the compiler raises many kinds
        x = torch.from_numpy(example)
        for other in (x * 0, -x, x * 10, x.flip(-1), x + 3):
            want, got = flat_arrays(module(other.clone())), flat_arrays(traced(other.clone()))
            same = all(a.shape == b.shape and np.allclose(a, b, 1e-3, 1e-5) for a, b in zip(want, got, strict=True))
            if not same:
                raise ExportError(
                    f"{_name(module, job)} can't be exported to {job.target.name if job else 'TorchScript'}.",
                    "its Python code depends on tensor values, so a trace is wrong for other inputs, "
                    f"and torch.jit.script refuses it: {str(error).strip().splitlines()[0][:200]}",
                    "replace the branch by torch.where, keep sizes as constants, and avoid .item() and int(tensor).",
                ) from error
        return traced
