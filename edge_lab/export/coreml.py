"""Core ML: an .mlpackage (ML program) for iOS 16 and later, converted from torch.export on any platform."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle import Runtime
from edge_lab.compress.layers import Layer, LayerReport
from edge_lab.compress.quantize import quantize
from edge_lab.compress.quantized import has_dynamic_ranges, has_quantized_graph
from edge_lab.errors import ExportError
from edge_lab.export.exported import exported_program
from edge_lab.export.made_with import version_of
from edge_lab.export.target import Job, Program, exporter
from edge_lab.quiet import quiet

if TYPE_CHECKING:
    import torch

_SMALLEST = 2048  # coremltools' own limit: weights with fewer values stay float


@exporter("coreml", "mlpackage", ("ios",), ("fp16", "fp32", "int8", "int8-weights"), takes=("graph",))
def export_coreml(job: Job) -> Program:
    """Write model.mlpackage. Input and outputs are float32 tensors, so that every engine is fed alike.

    Static int8 is the graph of `compress.quantize` with its quantize and dequantize operators, which Core ML knows from
    iOS 17 on; whatever stays float is float16, and so is the arithmetic of int8-weights.
    """
    module, precision = job.module, job.target.precision
    if precision == "int8" and not has_quantized_graph(module):
        recipe = replace(job.target.quantize, float_scores=False)  # Core ML knows fixed scales only
        module = quantize(module, job.example, job.calibration, recipe)
    _refuse_dynamic(module)
    with quiet():
        import coremltools as ct

        model = ct.convert(
            exported_program(job, module).run_decompositions({}),
            convert_to="mlprogram",
            inputs=[ct.TensorType(name=job.spec.input.name, shape=job.example.shape, dtype=np.float32)],
            outputs=[ct.TensorType(name=out.name, dtype=np.float32) for out in job.outputs],
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS17 if precision == "int8" else ct.target.iOS16,
        )
        if precision == "int8-weights":
            model = _with_int8_weights(model)
        report = weights_of(model) if precision.startswith("int8") else None
        model.short_description = f"{job.spec.name}, made by edge-lab"
        model.save(str(job.folder / "model.mlpackage"))
    if report is not None and not report.quantized:
        raise ExportError(
            "nothing in this model was quantized.",
            f"Core ML quantizes layers of {_SMALLEST} weights or more, and those that XNNPACK's quantizer knows.",
            "use the fp16 target; an int8 label on it would be a lie.",
        )
    version = version_of("coremltools")
    return Program("model.mlpackage", Runtime("mlpackage", "coreml", "coremltools", version, version), report)


def _with_int8_weights(model: Any) -> Any:
    import coremltools.optimize.coreml as shrink

    how = shrink.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=_SMALLEST
    )
    return shrink.linear_quantize_weights(model, config=shrink.OptimizationConfig(global_config=how))


def weights_of(model: Any) -> LayerReport:
    """The layers with weights of a converted ML program, and how each is stored.

    Args:
        model: a coremltools MLModel that was just converted. A weight in 8 bits is a `constexpr_affine_dequantize`; its
            layer computes in int8 if its input comes out of a `dequantize`, the pattern that Core ML fuses.
    """
    layers = []
    for op in model._mil_program.functions["main"].operations:
        if op.op_type not in ("conv", "conv_transpose", "linear", "matmul", "lstm", "gru"):
            continue
        weight = op.inputs.get("weight") or op.inputs.get("y") or op.inputs.get("weight_hh")
        if weight is None or weight.op is None:
            continue
        values = int(np.prod(weight.shape))
        if weight.op.op_type.startswith("constexpr"):
            compute = (
                "int8" if op.inputs["x"].op is not None and op.inputs["x"].op.op_type == "dequantize" else "float16"
            )
            layers.append(Layer(op.name, op.op_type, 8, compute, 4 * values, values))
        elif weight.op.op_type in ("const", "cast"):
            size = 2 if str(weight.dtype).endswith("fp16'>") else 4
            layers.append(Layer(op.name, op.op_type, 8 * size, f"float{8 * size}", 4 * values, size * values))
    return LayerReport(tuple(layers))


def _refuse_dynamic(module: torch.nn.Module) -> None:
    if has_dynamic_ranges(module):
        raise ExportError(
            "Core ML can't read ranges while it runs.",
            "a layer of this graph finds the range of its input anew every time: by default the last linear one.",
            "quantize with StaticInt8(float_scores=False), or pass the float model and let the target quantize it.",
        )
