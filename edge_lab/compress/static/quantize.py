"""Post-training static int8 quantization: calibrate on real inputs, then store weights and activations in 8 bits.

Two routes share one config: PT2E (torchao) for programs that go to ExecuTorch's XNNPACK delegate, and ONNX
Runtime's QDQ quantizer for .onnx files. Method: B. Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.compress.graphs.graph import is_zero_pad
from edge_lab.compress.graphs.keep_float import check_patterns, mark_kept
from edge_lab.compress.graphs.masks import mark_spoiled
from edge_lab.compress.graphs.quantized import refuse_quantized, seal
from edge_lab.compress.static.onnx_float import float_nodes
from edge_lab.compress.static.onnx_weights import separate
from edge_lab.compress.static.ranges import (
    ANY_SCALE,
    SMALLEST_SCALE,
    MinMax,
    Observer,
    Percentile,
    check_ranges,
    onnx_calibration,
    torchao_observer,
)
from edge_lab.compress.static.rounding import Nearest, SecondOrder
from edge_lab.compress.static.scores import annotate_scores
from edge_lab.core.errors import InputError
from edge_lab.core.quiet import quiet

if TYPE_CHECKING:
    import torch


_CORRECTION_INPUTS = 32  # all their activations at one place of the network are in memory at once


@dataclass(frozen=True)
class StaticInt8:
    """Static int8: activations per tensor (asymmetric), weights symmetric.

    Attributes:
        per_channel: one weight scale per output channel instead of one per tensor.
        fuse_relu6: quantize conv + ReLU6 as one unit. ExecuTorch's stock quantizer fuses conv + ReLU only and so
            quantizes the value before the clamp, which wastes most of the 256 steps on numbers that ReLU6 cuts off.
        fuse_pad: add the zeros of a separate pad (TensorFlow's SAME padding) to the int8 values. The stock quantizer
            converts to float, pads, and converts back.
        correct_bias: let each layer's bias take back the shift that rounding gives its mean (`compress/correct.py`).
        float_scores: let a linear layer at the end write floats: in 256 steps near answers tie. XNNPACK
            then rounds what goes into it anew for every input; with per-channel weights only.
        observer: how the range of an activation is read from the calibration inputs: MinMax(), MovingAverage(),
            Histogram() (PT2E only) or Percentile() (ONNX Runtime only).
        rounding: how weights are rounded: SecondOrder(), so that a layer's output changes least, or Nearest().
        keep_float: layers that stay in float (mixed precision): shell patterns of names in `module.named_modules()`,
            such as ("classifier", "blocks.0*"); a module is kept with all that is inside it. What `int8` layers read of
            their outputs is still rounded. `sensitivity(...).worst(n)` gives the names worth keeping.
    """

    per_channel: bool = True
    fuse_relu6: bool = True
    fuse_pad: bool = True
    correct_bias: bool = True
    float_scores: bool = True
    observer: Observer = field(default_factory=MinMax)
    rounding: Nearest | SecondOrder = field(default_factory=SecondOrder)
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_patterns(self.keep_float)

    @property
    def adjusts_weights(self) -> bool:
        """Whether the recipe changes the float weights or biases before they are stored."""
        return self.correct_bias or self.rounding != Nearest()


def quantize(
    module: torch.nn.Module,
    example: np.ndarray,
    calibration: Sequence[np.ndarray],
    config: StaticInt8 | None = None,
    *,
    smallest_scale: float = SMALLEST_SCALE,
) -> torch.nn.Module:
    """Quantize a module for XNNPACK, or for Core ML, with PT2E.

    Args:
        module: float32 module in eval mode, one tensor in; it is not changed.
        example: one input, float32 (1, ...).
        calibration: real inputs with the example's shape; 32 are usually enough.
        config: default StaticInt8().
        smallest_scale: the smallest step that a range may get.

    Returns:
        A graph module that computes with quantize/dequantize pairs, ready for torch.export.

    Raises:
        InputError: no calibration inputs, or one of another shape or with NaN; weights or activations with NaN or
            infinity; an observer that PT2E doesn't have; a pattern in keep_float fits nothing.
        ExportError: nothing in the module could be quantized.
    """
    config = config or StaticInt8()
    prepared = _calibrated(module, example, calibration, config, smallest_scale)
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        converted = convert_pt2e(prepared)
    return seal(converted, "ptq")


def corrected(
    module: torch.nn.Module,
    example: np.ndarray,
    calibration: Sequence[np.ndarray],
    config: StaticInt8 | None = None,
    *,
    smallest_scale: float = ANY_SCALE,
) -> torch.nn.Module:
    """A float module ready for another int8 quantizer: batch norms folded, weights on the int8 grid, biases corrected.

    Arguments and errors as for `quantize`; `smallest_scale` is the smallest step that the other quantizer allows. Were
    the simulated steps coarser than the program's, biases would take back errors that never come. Its float outputs
    differ from the module's: only its int8 version is meant to be used.
    """
    from edge_lab.compress.static.correct import without_observers

    recipe = config or StaticInt8()
    if isinstance(recipe.observer, Percentile):  # ONNX Runtime's own; only the walk that corrects needs ranges here
        recipe = replace(recipe, observer=MinMax())
    prepared = _calibrated(module, example, calibration, recipe, smallest_scale)
    with quiet():
        return without_observers(prepared)


def _calibrated(
    module: torch.nn.Module,
    example: np.ndarray,
    calibration: Sequence[np.ndarray],
    config: StaticInt8,
    smallest_scale: float = SMALLEST_SCALE,
) -> Any:
    prepared = observed(module, example, calibration, config, smallest_scale)
    with quiet():
        split = remedy(prepared, calibration, config)
    if split:
        warnings.warn(
            f"the filters of {', '.join(split)} were rounded in parts of 1024 inputs: as a whole they would take "
            "minutes and gigabytes. rounding=SecondOrder(largest=...) sets the limit.",
            stacklevel=4,
        )
    return prepared


def remedy(prepared: Any, calibration: Sequence[np.ndarray], config: StaticInt8) -> tuple[str, ...]:
    """Change weights and biases of a prepared model as the config asks. In place.

    Returns:
        Layers whose filters were too long to be rounded as a whole, with their sizes.
    """
    if not config.adjusts_weights:
        return ()
    from edge_lab.compress.static.correct import correct

    return correct(prepared, calibration[:_CORRECTION_INPUTS], config.rounding, biases=config.correct_bias)


def observed(
    module: torch.nn.Module,
    example: np.ndarray,
    calibration: Sequence[np.ndarray],
    config: StaticInt8,
    smallest_scale: float = SMALLEST_SCALE,
) -> Any:
    """A copy of a module as a graph with observers that have seen the calibration inputs; weights are still exact."""
    import torch

    from edge_lab.compress.graphs.kernel_limits import fit_steps
    from edge_lab.compress.static.capture import captured

    refuse_quantized(module, type(module).__name__, "quantized")
    check_calibration(calibration, example)
    check_weights(module)
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

        quantizer = xnnpack_quantizer(config, smallest_scale, calibration)
        prepared = prepare_pt2e(captured(module, example), quantizer)
        with torch.no_grad():
            try:
                for x in calibration:
                    prepared(torch.from_numpy(x.copy()))
            finally:  # the histogram observer stops at NaN with an error of its own
                check_ranges(prepared)
            if smallest_scale > ANY_SCALE:
                fit_steps(prepared)
    return prepared


def check_weights(module: torch.nn.Module) -> None:
    """Raise InputError if a weight or bias is NaN or infinite, or a buffer NaN. A mask may hold minus infinity."""
    import torch

    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            continue
        broken = ~torch.isfinite(value) if name in parameters else torch.isnan(value)
        if broken.any():
            raise InputError(
                f"the network holds NaN or infinity in {name}.",
                "a scale can't be computed from it, and the int8 program would answer nonsense.",
                "check the checkpoint the weights came from.",
            )


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


def xnnpack_quantizer(
    config: StaticInt8, smallest_scale: float = SMALLEST_SCALE, calibration: Sequence[np.ndarray] = ()
) -> Any:
    """ExecuTorch's XNNPACKQuantizer with the config's observer, and with conv + ReLU6 as one unit if asked for.

    What masks spoil on the calibration inputs stays in float.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver

    stock = get_symmetric_quantization_config(is_per_channel=config.per_channel)
    observer = torchao_observer(config.observer, smallest_scale)
    activation = replace(stock.input_activation, observer_or_fake_quant_ctr=observer)
    of_weights = PerChannelMinMaxObserver if config.per_channel else MinMaxObserver
    weight = replace(stock.weight, observer_or_fake_quant_ctr=of_weights.with_args(eps=smallest_scale))
    qconfig = replace(stock, input_activation=activation, output_activation=activation, weight=weight)

    class FusedClampQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
        # Batch norms are folded by now; to look for them all the same, torchao would trace twelve patterns: 3 s.
        SUPPORTED_PATTERNS = [p for p in XNNPACKQuantizer.SUPPORTED_PATTERNS if not p.is_qat]  # noqa: RUF012

        def annotate(self, model: Any) -> Any:
            mark_kept(model, config.keep_float)
            mark_spoiled(model, calibration)
            if config.float_scores and config.per_channel:
                annotate_scores(model)
            _annotate_convs(model, qconfig, config)
            return super().annotate(model)

    return FusedClampQuantizer().set_global(qconfig)


def _annotate_convs(model: Any, qconfig: Any, config: StaticInt8) -> None:
    """Mark the convolutions that the stock quantizer handles badly, so that it leaves them alone.

    Conv + ReLU6: quantize what goes in, and what leaves the clamp, not between. Pad + conv: quantize before the pad,
    so that the zeros are added to int8 values and the pad does not run in float between two conversions.
    """
    import torch
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    aten = torch.ops.aten
    for conv in list(model.graph.nodes):
        if conv.target not in (aten.conv2d.default, aten.conv1d.default):
            continue
        if Q_ANNOTATION_KEY in conv.meta:  # stays in float
            continue
        user = next(iter(conv.users)) if len(conv.users) == 1 else None
        clamp = user if user is not None and user.target in _clamps(config) else None
        source = conv.args[0]
        padded = config.fuse_pad and is_zero_pad(source) and len(source.users) == 1
        if clamp is None and not padded:
            continue
        inputs = {conv.args[1]: qconfig.weight}
        if padded:
            source.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                input_qspec_map={source.args[0]: qconfig.input_activation}, _annotated=True
            )
        else:
            inputs[source] = qconfig.input_activation
        if len(conv.args) > 2 and conv.args[2] is not None:
            inputs[conv.args[2]] = qconfig.bias
        out = None if clamp is not None else qconfig.output_activation
        conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=out, _annotated=True)
        if clamp is not None:
            clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                output_qspec=qconfig.output_activation, _annotated=True
            )


def _clamps(config: StaticInt8) -> tuple[Any, ...]:
    import torch

    aten = torch.ops.aten
    relu = (aten.relu.default, aten.relu_.default)
    relu6 = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default)
    return relu + relu6 if config.fuse_relu6 else relu


def quantize_onnx(
    source: Path, target: Path, calibration: Sequence[np.ndarray], config: StaticInt8 | None = None
) -> None:
    """Quantize an ONNX file to int8 QDQ with ONNX Runtime (activations uint8, weights int8).

    Args:
        source: float32 .onnx with one input.
        target: the file to write.
        calibration: real float32 inputs of the model's shape.
        config: default StaticInt8(); `fuse_relu6` has no effect, since ONNX Runtime fuses clamps itself.

    Raises:
        InputError: ONNX Runtime has no such observer.
    """
    import tempfile

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as ort_quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    config = config or StaticInt8()
    method, options = onnx_calibration(config.observer)

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
        ready = onnx.load(prepared)
        ort_quantize(
            prepared,
            target,
            Reader(name),
            quant_format=QuantFormat.QDQ,
            per_channel=config.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options=options | (_float_outputs(ready.graph) if config.float_scores else {}),
            nodes_to_exclude=float_nodes(ready, calibration, config.keep_float),
        )
    written = onnx.load(target)
    if separate(written.graph):
        onnx.save(written, target)


def _float_outputs(graph: Any) -> dict[str, list[str]]:
    """Let a final linear layer write floats: nothing int8 reads them, and 256 steps are few for a thousand scores."""
    ends = {output.name for output in graph.output}
    linear = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    if not linear or not all(ends.issuperset(node.output) for node in linear):
        return {}
    return {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}
