"""Post-training static int8 quantization: calibrate on real inputs, then store weights and activations in 8 bits.

Two routes share one config: PT2E (torchao) for programs that go to ExecuTorch's XNNPACK delegate, and ONNX
Runtime's QDQ quantizer for .onnx files. Method: B. Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.errors import ExportError, InputError
from edge_lab.quiet import quiet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StaticInt8:
    """Static int8: activations per tensor (asymmetric), weights symmetric.

    Attributes:
        per_channel: one weight scale per output channel instead of one per tensor.
        fuse_relu6: quantize conv + ReLU6 as one unit. ExecuTorch's stock quantizer fuses conv + ReLU only and so
            quantizes the value before the clamp, which wastes most of the 256 steps on numbers that ReLU6 cuts off.
    """

    per_channel: bool = True
    fuse_relu6: bool = True


def quantize(
    module: torch.nn.Module, example: np.ndarray, calibration: Sequence[np.ndarray], config: StaticInt8 | None = None
) -> torch.nn.Module:
    """Quantize a module for XNNPACK with PT2E.

    Args:
        module: float32 module in eval mode, one tensor in; it is not changed.
        example: one input, float32 (1, ...).
        calibration: real inputs with the example's shape; 32 are usually enough.
        config: default StaticInt8().

    Returns:
        A graph module that computes with quantize/dequantize pairs, ready for torch.export.

    Raises:
        InputError: no calibration inputs, or one of another shape or with NaN.
        ExportError: nothing in the module could be quantized.
    """
    import torch

    config = config or StaticInt8()
    check_calibration(calibration, example)
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        exported = torch.export.export(module, (torch.from_numpy(example),), strict=False)
        prepared = prepare_pt2e(exported.module(check_guards=False), xnnpack_quantizer(config))
        with torch.no_grad():
            for x in calibration:
                prepared(torch.from_numpy(x))
        converted: torch.nn.Module = convert_pt2e(prepared)
    if not any("quantize_per" in str(node.target) for node in converted.graph.nodes):  # type: ignore[union-attr]
        raise ExportError(
            "nothing in this model was quantized.",
            "it has no layer that the XNNPACK quantizer knows (conv, linear, add, mul, average pool, cat).",
            "use the fp32 target; an int8 label on it would be a lie.",
        )
    return converted


def check_calibration(calibration: Sequence[np.ndarray], example: np.ndarray) -> None:
    """Raise InputError unless every calibration input is finite and has the example's shape and dtype."""
    if len(calibration) == 0:
        raise InputError(
            "int8 needs calibration inputs, and there are none.",
            "static quantization reads the range of every activation from real inputs.",
            "pass calibration=a set of images or a list of arrays; 32 real ones are enough.",
        )
    for i, x in enumerate(calibration):
        if x.shape[1:] != example.shape[1:] or x.dtype != example.dtype or not np.isfinite(x).all():
            raise InputError(
                f"calibration input {i} is {x.dtype} {x.shape}"
                + ("." if np.isfinite(x).all() else " and holds NaN or infinity."),
                f"the model takes finite {example.dtype} {example.shape}.",
                "preprocess calibration images with edge_lab.preprocess(image, model.spec).",
            )


def xnnpack_quantizer(config: StaticInt8) -> Any:
    """ExecuTorch's XNNPACKQuantizer with min/max observers, and with conv + ReLU6 as one unit if asked for."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver

    stock = get_symmetric_quantization_config(is_per_channel=config.per_channel)
    # The stock HistogramObserver is minutes slower on a CPU and no better here.
    activation = replace(stock.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12))
    qconfig = replace(stock, input_activation=activation, output_activation=activation)

    class FusedClampQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            if config.fuse_relu6:
                _annotate_conv_relu6(model, qconfig)
            return super().annotate(model)

    return FusedClampQuantizer().set_global(qconfig)


def _annotate_conv_relu6(model: Any, qconfig: Any) -> None:
    """Mark each conv whose only user is a ReLU6: quantize what goes in, and what leaves the clamp, not between."""
    import torch
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    aten = torch.ops.aten
    clamps = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default)
    for clamp in model.graph.nodes:
        if clamp.target not in clamps:
            continue
        conv = clamp.args[0]
        if conv.target not in (aten.conv2d.default, aten.conv1d.default) or len(conv.users) != 1:
            continue
        inputs = {conv.args[0]: qconfig.input_activation, conv.args[1]: qconfig.weight}
        if len(conv.args) > 2 and conv.args[2] is not None:
            inputs[conv.args[2]] = qconfig.bias
        conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=qconfig.output_activation, _annotated=True)


def quantize_onnx(
    source: Path, target: Path, calibration: Sequence[np.ndarray], config: StaticInt8 | None = None
) -> None:
    """Quantize an ONNX file to int8 QDQ with ONNX Runtime (activations uint8, weights int8).

    Args:
        source: float32 .onnx with one input.
        target: the file to write.
        calibration: real float32 inputs of the model's shape.
        config: default StaticInt8(); `fuse_relu6` has no effect, since ONNX Runtime fuses clamps itself.
    """
    import tempfile

    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as ort_quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    config = config or StaticInt8()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.rows = iter([{name: x} for x in calibration])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    import onnx

    name = onnx.load(source, load_external_data=False).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        ort_quantize(
            prepared,
            target,
            Reader(name),
            quant_format=QuantFormat.QDQ,
            per_channel=config.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
