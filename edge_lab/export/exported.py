"""torch.export: the graph that every current path starts from, saved as .pt2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_lab.bundle import Runtime
from edge_lab.export.made_with import version_of
from edge_lab.export.ready import ready
from edge_lab.export.target import Job, Program, exporter

if TYPE_CHECKING:
    import torch


def exported_program(job: Job, module: torch.nn.Module | None = None) -> torch.export.ExportedProgram:
    """Capture a module (default: the job's) as an ATen graph with static shapes (non-strict)."""
    import torch

    module = job.module if module is None else module
    return torch.export.export(module, (torch.from_numpy(job.example),), strict=False)


@exporter(
    "pt2",
    "pt2",
    ("linux",),
    ("fp32", "fp16", "bf16", "int8-weights", "int4-weights"),
    takes=("plain", "packed"),
)
def export_pt2(job: Job) -> Program:
    """Write model.pt2 (torch.export.save)."""
    import torch

    module, report = ready(job)
    torch.export.save(exported_program(job, module), job.folder / "model.pt2")
    torch_version = version_of("torch")
    return Program("model.pt2", Runtime("pt2", "cpu", "torch", torch_version, torch_version), report)
