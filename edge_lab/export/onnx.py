"""ONNX, by torch.export and the dynamo exporter; int8 by ONNX Runtime's own quantizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_lab.bundle import Runtime
from edge_lab.compress.quantize import check_calibration, corrected, quantize_onnx
from edge_lab.errors import ExportError
from edge_lab.export.exported import exported_program
from edge_lab.export.made_with import version_of
from edge_lab.export.ready import ready
from edge_lab.export.target import Job, Program, exporter
from edge_lab.quiet import quiet


@exporter("onnx", "onnx", ("linux", "android"), ("fp32", "int8", "int8-weights", "int4-weights"), takes=("packed",))
def export_onnx(job: Job) -> Program:
    """Write model.onnx in one file, checked by onnx.checker."""
    path = job.folder / "model.onnx"
    module, report = ready(job)
    if job.target.precision != "int8":
        _write(replace(job, module=module), path)
    else:
        check_calibration(job.calibration, job.example)
        full = job.folder / "fp32.onnx"
        recipe = job.target.quantize
        steady = corrected(job.module, job.example, job.calibration, recipe) if recipe.correct_bias else job.module
        _write(replace(job, module=steady), full)
        with quiet():
            quantize_onnx(full, path, job.calibration, job.target.quantize)
        full.unlink()
        _refuse_fp32(path)
    version = version_of("onnxruntime")
    return Program(path.name, Runtime("onnx", "cpu", "onnxruntime", version, version), report)


def _write(job: Job, path: Path) -> None:
    import onnx
    import torch

    program = exported_program(job)
    with quiet():
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=[job.spec.input.name],
            output_names=[out.name for out in job.outputs],
        )
    onnx.checker.check_model(str(path))


def _refuse_fp32(path: Path) -> None:
    import onnx

    if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node):
        raise ExportError(
            "nothing in this model was quantized.",
            "it has no operator that ONNX Runtime can quantize (Conv, MatMul, Gemm, Add, ...).",
            "use the fp32 target; an int8 label on it would be a lie.",
        )
