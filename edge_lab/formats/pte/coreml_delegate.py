"""ExecuTorch's Core ML delegate: a .pte that carries a Core ML program, so that one app code runs either."""

from __future__ import annotations

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.exported import settled_program
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet
from edge_lab.formats.coreml.graph import core_ml_graph
from edge_lab.formats.pte.executorch import delegated


@exporter("coreml-pte", "pte", ("ios",), ("fp16", "fp32"))
def export_coreml_delegate(job: Job) -> Program:
    """Write model.pte: export, partition for Core ML, lower, serialize. iOS 16 and later.

    It can be written on any platform and runs on Apple's only. `formats.coreml.mil.run.load_mil` takes the program
    inside out again and interprets it.
    """
    with quiet():
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        from executorch.exir import to_edge_transform_and_lower

        half = job.target.precision == "fp16"
        how = CoreMLBackend.generate_compile_specs(
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
        )
        partitioner = CoreMLPartitioner(compile_specs=how)
        edge = to_edge_transform_and_lower(
            core_ml_graph(settled_program(job, job.module, delegate=False)), partitioner=[partitioner]
        )
        share, left = delegated(edge.exported_program().graph_module)
        buffer = edge.to_executorch().buffer
    (job.folder / "model.pte").write_bytes(buffer)
    version = version_of("executorch")
    return Program("model.pte", Runtime("pte", "coreml-pte", "executorch", version, version, share, left))
