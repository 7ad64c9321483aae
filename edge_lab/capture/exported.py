"""torch.export: the graph that every current path starts from, saved as .pt2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.ready import ready
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.compress.graphs.quantized import form_of
from edge_lab.compress.weights.dynamic import DynamicInt8
from edge_lab.core.made_with import version_of

if TYPE_CHECKING:
    import torch


def exported_program(job: Job, module: torch.nn.Module | None = None) -> torch.export.ExportedProgram:
    """Capture a module (default: the job's) as an ATen graph with static shapes (non-strict)."""
    import torch

    module = job.module if module is None else module
    return torch.export.export(module, (torch.from_numpy(job.example),), strict=False)


def settled_program(job: Job, module: torch.nn.Module, *, delegate: bool = True) -> torch.export.ExportedProgram:
    """Capture a module for ExecuTorch: no channels_last; for a delegate no batch norm and no tensor of several layers.

    Raises:
        ExportError: so written, it computes something else.
    """
    import torch

    from edge_lab.compress.graphs.fold import separate, settled

    program = exported_program(job, module)
    graph: Any = program.module(check_guards=False)
    changed = settled(graph, module, job.example, norms=delegate)
    if delegate:
        changed |= separate(graph)
    if not changed:  # an int8 graph: its norms were folded before, and capturing it again takes seconds
        return program
    return torch.export.export(graph, (torch.from_numpy(job.example),), strict=False)


@exporter(
    "pt2",
    "pt2",
    ("linux",),
    ("fp32", "fp16", "bf16", "int8-weights", "int4-weights", "int8-dynamic"),
    takes=("plain", "packed", "torchao"),
)
def export_pt2(job: Job) -> Program:
    """Write model.pt2 (torch.export.save).

    Dynamic int8 is there to be compiled further: run as it is, each quantization step is an operator of its own, and
    the program is slower than fp32.
    """
    import torch

    module, report = ready(job, DynamicInt8("inductor") if job.target.precision == "int8-dynamic" else None)
    program = exported_program(job, module)
    if form_of(module) == "torchao":
        rules: Any = torch.export.default_decompositions()
        own = {operator: rule for operator, rule in rules.items() if str(operator).startswith("torchao")}
        program = program.run_decompositions(own)  # torchao's own operators would need torchao to be loaded
    torch.export.save(program, job.folder / "model.pt2")
    torch_version = version_of("torch")
    return Program("model.pt2", Runtime("pt2", "cpu", "torch", torch_version, torch_version), report)
