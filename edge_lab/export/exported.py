"""torch.export: the graph that every current path starts from, saved as .pt2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_lab.bundle import Runtime
from edge_lab.export.made_with import version_of
from edge_lab.export.target import Job, Program, exporter

if TYPE_CHECKING:
    import torch


def exported_program(job: Job) -> torch.export.ExportedProgram:
    """Capture the job's module as an ATen graph with static shapes (non-strict)."""
    import torch

    return torch.export.export(job.module, (torch.from_numpy(job.example),), strict=False)


@exporter("pt2", "pt2", ("linux",), ("fp32",))
def export_pt2(job: Job) -> Program:
    """Write model.pt2 (torch.export.save)."""
    import torch

    torch.export.save(exported_program(job), job.folder / "model.pt2")
    torch_version = version_of("torch")
    return Program("model.pt2", Runtime("pt2", "cpu", "torch", torch_version, torch_version))
