"""Core ML: an .mlpackage (ML program) for iOS 16 and later, converted from torch.export on any platform."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.exported import exported_program
from edge_lab.capture.target import Job, Precision, Program, exporter
from edge_lab.compress.graphs.layers import Layer, LayerReport
from edge_lab.compress.graphs.quantized import has_dynamic_ranges, has_quantized_graph
from edge_lab.compress.static.quantize import quantize
from edge_lab.core.errors import ExportError
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet
from edge_lab.formats.coreml.graph import core_ml_graph, pipeline

if TYPE_CHECKING:
    import torch

_SMALLEST_STEP = 2.0**-14  # scales are float16 there: below, they lose digits and end as 0
_SMALLEST = 2048  # coremltools' own limit: a layer of as many weights or fewer stays float
_PALETTES: dict[Precision, int] = {"palette6": 6, "palette4": 4}


@exporter("coreml", "mlpackage", ("ios",), ("fp16", "fp32", "int8", "int8-weights", *_PALETTES), takes=("graph",))
def export_coreml(job: Job) -> Program:
    """Write model.mlpackage. Input and outputs are float32 tensors, so that every engine is fed alike.

    Static int8 is the graph of `compress.quantize` with its quantize and dequantize operators, which Core ML knows from
    iOS 17 on; whatever stays float is float16, and so is the arithmetic of int8-weights and of palettes. A palette is
    found by k-means over the weights of a layer (Han et al. 2016, "Deep Compression").
    """
    module, precision = job.module, job.target.precision
    if precision == "int8" and not has_quantized_graph(module):
        recipe = replace(job.target.quantize, float_scores=False)  # Core ML knows fixed scales only
        module = quantize(module, job.example, job.calibration, recipe, smallest_scale=_SMALLEST_STEP)
    _refuse_dynamic(module)
    with quiet():
        model = convert(job, core_ml_graph(exported_program(job, module)))
        shrink = _shrinker(precision)
        model = shrink(model) if shrink is not None else model
        report = None if precision in ("fp16", "fp32") else weights_of(model)
        model.short_description = f"{job.spec.name}, made by edge-lab"
        model.save(str(job.folder / "model.mlpackage"))
    if report is not None and not report.quantized:
        raise ExportError(
            "nothing in this model was quantized.",
            f"Core ML quantizes layers of more than {_SMALLEST} weights, and those that XNNPACK's quantizer knows.",
            "use the fp16 target; an int8 label on it would be a lie.",
        )
    version = version_of("coremltools")
    return Program("model.mlpackage", Runtime("mlpackage", "coreml", "coremltools", version, version), report)


def convert(job: Job, program: torch.export.ExportedProgram) -> Any:
    """A captured program as a coremltools MLModel with the job's names, float32 at its borders."""
    import coremltools as ct

    precision = job.target.precision
    return ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[ct.TensorType(name=job.spec.input.name, shape=job.example.shape, dtype=np.float32)],
        outputs=[ct.TensorType(name=out.name, dtype=np.float32) for out in job.outputs],
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS17 if precision == "int8" else ct.target.iOS16,
        skip_model_load=True,
        pass_pipeline=pipeline(program),
    )


def _shrinker(precision: Precision) -> Callable[[Any], Any] | None:
    """What stores the weights of a converted model in fewer bits; None where they stay floats or are int8 already."""
    import coremltools.optimize.coreml as shrink

    if precision == "int8-weights":
        affine = shrink.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=_SMALLEST
        )
        return lambda model: shrink.linear_quantize_weights(model, shrink.OptimizationConfig(global_config=affine))
    if precision in _PALETTES:
        palette = shrink.OpPalettizerConfig("kmeans", _PALETTES[precision], weight_threshold=_SMALLEST)
        return lambda model: shrink.palettize_weights(model, shrink.OptimizationConfig(global_config=palette))
    return None


def weights_of(model: Any) -> LayerReport:
    """The layers with weights of a converted ML program, and how each is stored.

    Args:
        model: a coremltools MLModel that was just converted. A weight in 8 bits is a `constexpr_affine_dequantize`, one
            with a palette a `constexpr_lut_to_dense`; a layer computes in int8 if its input comes out of a
            `dequantize`, the pattern that Core ML fuses.
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
            computes_in_int8 = op.inputs["x"].op is not None and op.inputs["x"].op.op_type == "dequantize"
            bits, extra = _stored_bits(weight.op)
            size = math.ceil(values * bits / 8) + extra
            layers.append(Layer(op.name, op.op_type, bits, "int8" if computes_in_int8 else "float16", 4 * values, size))
        elif weight.op.op_type in ("const", "cast"):
            size = 2 if str(weight.dtype).endswith("fp16'>") else 4
            layers.append(Layer(op.name, op.op_type, 8 * size, f"float{8 * size}", 4 * values, size * values))
    return LayerReport(tuple(layers))


def _stored_bits(op: Any) -> tuple[int, int]:
    """Bits of one stored weight, and bytes of the palette beside them."""
    if op.op_type != "constexpr_lut_to_dense":
        return 8, 0
    entries = int(np.size(op.lut.val))
    return max(1, (entries - 1).bit_length()), 2 * entries


def _refuse_dynamic(module: torch.nn.Module) -> None:
    if has_dynamic_ranges(module):
        raise ExportError(
            "Core ML can't read ranges while it runs.",
            "a layer of this graph finds the range of its input anew every time: by default the last linear one.",
            "quantize with StaticInt8(float_scores=False), or pass the float model and let the target quantize it.",
        )
