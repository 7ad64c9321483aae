"""TorchScript: legacy since torch 2.11, still read by many apps. Trace, and script where tracing would be wrong."""

from __future__ import annotations

import warnings
from typing import Any

from edge_lab.bundle import Runtime
from edge_lab.export.made_with import version_of
from edge_lab.export.target import Job, Program, exporter


@exporter("torchscript", "torchscript", ("linux",), ("fp32",))
def export_torchscript(job: Job) -> Program:
    """Write model.pt.

    A trace records one path through the code. Where that depends on the data, the tracer warns and the program
    would be silently wrong for other inputs; such a module is scripted instead.
    """
    import torch

    jit: Any = torch.jit

    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        program = jit.trace(job.module, (torch.from_numpy(job.example),), strict=False)
        if any(issubclass(w.category, jit.TracerWarning) and _loses_control_flow(str(w.message)) for w in caught):
            program = jit.script(job.module)
        jit.freeze(program).save(str(job.folder / "model.pt"))
    torch_version = version_of("torch")
    return Program("model.pt", Runtime("torchscript", "cpu", "torch", torch_version, torch_version))


def _loses_control_flow(warning: str) -> bool:
    return "to a Python boolean" in warning or ("might not generalize" in warning and "iterat" in warning.lower())
