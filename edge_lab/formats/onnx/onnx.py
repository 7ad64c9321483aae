"""ONNX, by torch.export and the dynamo exporter; float16 and int8 by ONNX Runtime's own converters."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.expand import refuse_wide_output
from edge_lab.capture.exported import exported_program
from edge_lab.capture.ready import ready
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.compress.graphs.layers import Layer, LayerReport
from edge_lab.compress.graphs.quantized import scheme_of
from edge_lab.compress.static.quantize import check_calibration, corrected, quantize_onnx
from edge_lab.core.errors import BundleError, ExportError
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet
from edge_lab.formats.onnx.write import keep_scopes, to_float16, write_program

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")  # what holds weights
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_INTEGER_LAYERS = ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM")


@exporter(
    "onnx",
    "onnx",
    ("linux", "android"),
    ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "int4-weights"),
    takes=("plain", "packed"),
)
def export_onnx(job: Job) -> Program:
    """Write model.onnx in one file, checked by onnx.checker.

    Static and dynamic int8 are ONNX Runtime's own. Dynamic takes Linear and LSTM layers; dynamic convolutions exist
    (ConvInteger) but are slower than float ones.
    """
    path = job.folder / "model.onnx"
    module, report = ready(job)
    if job.target.precision == "int8-dynamic":
        report = _write_dynamic(job, path)
    elif job.target.precision == "fp16" and scheme_of(job.module) == "fp32":
        full = job.folder / "fp32.onnx"
        _write(job, full)
        to_float16(
            full, path, job.example
        )  # not the module that `ready` has cast: it only made sure that the weights fit
        full.unlink()
    elif job.target.precision != "int8":
        _write(replace(job, module=module), path)
    else:
        check_calibration(job.calibration, job.example)
        full = job.folder / "fp32.onnx"
        recipe = job.target.quantize
        steady = corrected(job.module, job.example, job.calibration, recipe) if recipe.adjusts_weights else job.module
        _write(replace(job, module=steady), full)
        with quiet():
            quantize_onnx(full, path, job.calibration, job.target.quantize)
        keep_scopes(full, path)
        full.unlink()
        report = _counted_or_refused(path)
    version = version_of("onnxruntime")
    return Program(path.name, Runtime("onnx", "cpu", "onnxruntime", version, version), report)


def _write(job: Job, path: Path) -> None:
    program = exported_program(job)
    refuse_wide_output(program, job.target.name)
    write_program(program, path, [job.spec.input.name], [out.name for out in job.outputs])
    values = [node.meta.get("val") for node in program.graph.nodes]
    inside = {str(getattr(value, "dtype", "")).removeprefix("torch.") for value in values} & {"bfloat16", "float64"}
    if inside:
        _refuse_unknown_floats(path, " and ".join(sorted(inside)))


def _refuse_unknown_floats(path: Path, kinds: str) -> None:
    """ONNX has these types; ONNX Runtime has kernels for some of their operators only, and no convolution."""
    from edge_lab.formats.onnx.ort import open_session

    try:
        open_session(path)
    except BundleError as error:
        raise ExportError(
            f"ONNX Runtime can't run this model: a part of it computes in {kinds}.",
            "torch.autocast or a cast (.bfloat16(), .double()) is left in forward; a CPU has no such kernels.",
            "take the autocast or the cast out of forward, and call .float() on the network.",
        ) from error


def _write_dynamic(job: Job, path: Path) -> LayerReport:
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as ort_quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    full, folded = job.folder / "fp32.onnx", job.folder / "folded.onnx"
    _write(job, full)
    with quiet():
        quant_pre_process(full, folded, skip_symbolic_shape=True)  # so that the weights of an LSTM are constants
    model = onnx.load(folded)
    full.unlink()
    folded.unlink()
    del model.graph.value_info[:]  # the quantizer turns Gemm into MatMul and stumbles over the shapes of its weights
    with quiet():
        ort_quantize(
            model, path, op_types_to_quantize=["MatMul", "LSTM"], per_channel=True, weight_type=QuantType.QInt8
        )
    report = _counted(onnx.load(path).graph)
    if not report.quantized:
        kinds = ", ".join(sorted({layer.kind for layer in report.layers})) or "none with weights"
        raise ExportError(
            f"dynamic int8 does nothing for {job.spec.name}: 0 of {len(report.layers)} layers quantized.",
            f"its layers are {kinds}; ONNX Runtime has fast dynamic kernels for MatMul (Linear) and LSTM only.",
            "use linux-onnx-int8 (static), which handles convolutions, or linux-onnx-int8-weights.",
        )
    return report


def _counted(graph: Any) -> LayerReport:
    """The layers of an ONNX graph: recurrent cells, and nodes whose second input is a stored weight, widened or not."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    widened = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = []
    for node in graph.node:
        recurrent = node.op_type in _RECURRENT
        if node.op_type not in (*_LAYERS, *_INTEGER_LAYERS):
            continue
        names = [widened.get(name, name) for name in node.input[1 : 3 if recurrent else 2]]
        weights = [stored[name] for name in names if name in stored]
        if not weights and not recurrent:
            continue
        integers = node.op_type in _INTEGER_LAYERS or node.input[1] in widened
        values = sum(math.prod(tensor.dims) for tensor in weights)
        size = values if integers else 4 * values
        layers.append(
            Layer(node.name, node.op_type, 8 if integers else 32, "int8" if integers else "float32", 4 * values, size)
        )
    return LayerReport(tuple(layers))


def _counted_or_refused(path: Path) -> LayerReport:
    import onnx

    graph = onnx.load(path).graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ExportError(
            "nothing in this model was quantized.",
            "it has no operator that ONNX Runtime can quantize (Conv, MatMul, Gemm, Add, ...).",
            "use the fp32 target; an int8 label on it would be a lie.",
        )
    return _counted(graph)
