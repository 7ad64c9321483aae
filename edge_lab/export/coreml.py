"""Core ML: an .mlpackage (ML program) for iOS 16 and later, converted from torch.export on any platform."""

from __future__ import annotations

import numpy as np

from edge_lab.bundle import Runtime
from edge_lab.export.exported import exported_program
from edge_lab.export.made_with import version_of
from edge_lab.export.target import Job, Program, exporter
from edge_lab.quiet import quiet


@exporter("coreml", "mlpackage", ("ios",), ("fp16", "fp32"))
def export_coreml(job: Job) -> Program:
    """Write model.mlpackage. Input and outputs are float32 tensors, so that every engine is fed alike."""
    with quiet():
        import coremltools as ct

        program = exported_program(job).run_decompositions({})
        precision = ct.precision.FLOAT16 if job.target.precision == "fp16" else ct.precision.FLOAT32
        model = ct.convert(
            program,
            convert_to="mlprogram",
            inputs=[ct.TensorType(name=job.spec.input.name, shape=job.example.shape, dtype=np.float32)],
            outputs=[ct.TensorType(name=out.name, dtype=np.float32) for out in job.outputs],
            compute_precision=precision,
            minimum_deployment_target=ct.target.iOS16,
        )
        model.short_description = f"{job.spec.name}, made by edge-lab"
        model.save(str(job.folder / "model.mlpackage"))
    version = version_of("coremltools")
    return Program("model.mlpackage", Runtime("mlpackage", "coreml", "coremltools", version, version))
