"""TorchScript: legacy since torch 2.11, still read by many apps. Trace, and script where tracing would be wrong."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from edge_lab.bundle import Runtime
from edge_lab.compress.dynamic import DynamicInt8
from edge_lab.errors import ExportError
from edge_lab.export.made_with import version_of
from edge_lab.export.ready import ready
from edge_lab.export.target import Job, Program, exporter
from edge_lab.runtime import flat_arrays


@exporter(
    "torchscript", "torchscript", ("linux",), ("fp32", "fp16", "bf16", "int8-dynamic"), takes=("plain", "torch.ao")
)
def export_torchscript(job: Job) -> Program:
    """Write model.pt.

    A trace records one path through the code. Where that depends on the data, the tracer warns and the program
    would be silently wrong for other inputs; such a module is scripted instead. Weights in 8 or 4 bits have no target
    here: `freeze` would widen them and write floats. Dynamic int8 takes the legacy torch.ao kernels: Linear, LSTM, GRU.
    """
    import torch

    jit: Any = torch.jit
    module, report = ready(job, DynamicInt8("eager") if job.target.precision == "int8-dynamic" else None)
    job = replace(job, module=module)

    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        program = jit.trace(job.module, (torch.from_numpy(job.example),), strict=False)
        if any(issubclass(w.category, jit.TracerWarning) for w in caught):
            program = _script_or_proof(job, program)
        jit.freeze(program).save(str(job.folder / "model.pt"))
    torch_version = version_of("torch")
    return Program("model.pt", Runtime("torchscript", "cpu", "torch", torch_version, torch_version), report)


def _script_or_proof(job: Job, traced: Any) -> Any:
    """The scripted module; where scripting fails, the trace, if it equals the module on inputs of other magnitudes.

    Libraries also trigger the tracer's warning with harmless checks of shapes, so the warning alone proves nothing.
    """
    import torch

    jit: Any = torch.jit
    try:
        return jit.script(job.module)
    except Exception as error:  # the compiler raises many kinds
        x = torch.from_numpy(job.example)
        for other in (x * 0, -x, x * 10, x.flip(-1), x + 3):
            want, got = flat_arrays(job.module(other.clone())), flat_arrays(traced(other.clone()))
            same = all(a.shape == b.shape and np.allclose(a, b, 1e-3, 1e-5) for a, b in zip(want, got, strict=True))
            if not same:
                raise ExportError(
                    f"{job.spec.name} can't be exported to {job.target.name}.",
                    "its Python code depends on tensor values, so a trace is wrong for other inputs, "
                    f"and torch.jit.script refuses it: {str(error).strip().splitlines()[0][:200]}",
                    "replace the branch by torch.where, keep sizes as constants, and avoid .item() and int(tensor).",
                ) from error
        return traced
