"""Static int8 for another engine than XNNPACK: PyTorch's own compiler, Inductor, on x86 CPUs.

The graph holds the same kind of quantize/dequantize pairs, but for activations in 0..255, which is what the CPU's VNNI
instructions multiply; Inductor replaces them by oneDNN's int8 kernels (`torch.compile`, or AOTInductor's library: the
target linux-inductor-int8). Core ML needs no recipe of its own: its converter reads the graph of `quantize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.compress.graphs.quantized import refuse_quantized, seal
from edge_lab.compress.static.quantize import StaticInt8, check_calibration, check_weights, corrected
from edge_lab.compress.static.ranges import SMALLEST_SCALE, torchao_observer
from edge_lab.core.errors import InputError
from edge_lab.core.quiet import quiet

if TYPE_CHECKING:
    import torch


def quantize_inductor(
    module: torch.nn.Module, example: np.ndarray, calibration: Sequence[np.ndarray], config: StaticInt8 | None = None
) -> torch.nn.Module:
    """Quantize a module for Inductor on x86 with PT2E.

    Args:
        module: float32 module in eval mode, one tensor in; it is not changed.
        example: one input, float32 (1, ...).
        calibration: real inputs with the example's shape; 32 are usually enough.
        config: default StaticInt8(). Weights are always per channel, and Inductor fuses clamps and pads itself.

    Returns:
        A graph module with quantize/dequantize pairs. Called as it is, it computes them one by one and is slow; compile
        it with torch.compile and `torch._inductor.config.freezing`, or export it.

    Raises:
        InputError: no calibration inputs, or one of another shape or with NaN; per_channel=False; layers in keep_float.
        ExportError: nothing in the module could be quantized.
    """
    config = config or StaticInt8()
    if not config.per_channel or config.keep_float:
        raise InputError(
            "Inductor's int8 can't do what this recipe asks.",
            "its kernels take one weight scale per output channel, and its recipe no list of layers to keep in float.",
            "use StaticInt8() with per_channel=True and without keep_float, or an xnnpack or onnx target.",
        )
    refuse_quantized(module, type(module).__name__, "quantized")
    check_calibration(calibration, example)
    check_weights(module)
    ready = module
    if config.adjusts_weights:
        ready = corrected(module, example, calibration, config, smallest_scale=SMALLEST_SCALE)
    with quiet():
        converted = _converted(ready, example, calibration, config)
    return seal(converted, "ptq", "Inductor's quantizer knows (conv2d, linear, and what follows them)")


def _converted(
    module: torch.nn.Module, example: np.ndarray, calibration: Sequence[np.ndarray], config: StaticInt8
) -> torch.nn.Module:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from edge_lab.compress.static.capture import captured

    prepared = prepare_pt2e(captured(module, example), _quantizer(config))
    with torch.no_grad():
        for x in calibration:
            prepared(torch.from_numpy(x.copy()))
        converted: torch.nn.Module = convert_pt2e(prepared)
    return converted


def _quantizer(config: StaticInt8) -> Any:
    """torchao's X86InductorQuantizer with the config's observer, and weights on the grid that `corrected` rounds to."""
    import torch
    from torchao.quantization.pt2e import PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    # Without VNNI the products of 8-bit numbers overflow 16 bits: torchao then wants 7-bit activations.
    stock = x86.get_default_x86_inductor_quantization_config(reduce_range=not torch.cpu._is_vnni_supported())
    observer = torchao_observer(config.observer)
    activation = replace(stock.input_activation, observer_or_fake_quant_ctr=observer)
    of_weights = PerChannelMinMaxObserver.with_args(eps=SMALLEST_SCALE)
    weight = replace(stock.weight, quant_min=-127, observer_or_fake_quant_ctr=of_weights)  # -128..127: other steps
    qconfig = replace(stock, input_activation=activation, output_activation=activation, weight=weight)
    return x86.X86InductorQuantizer().set_global(qconfig)
