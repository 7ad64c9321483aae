"""Dynamic int8 quantization, and 16-bit floats: two recipes that need no calibration data.

Dynamic: weights are int8 once and for all; the range of every input is measured at run time, one row at a time. That
pays where a layer reads many weights for few inputs: Linear, LSTM and GRU at batch 1. PyTorch has no such kernel for
convolutions, so on a conv net it does nothing, and this module says so instead of returning an fp32 model called int8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edge_lab.compress.graphs.layers import LayerReport, quantized_layers
from edge_lab.compress.graphs.quantized import refuse_quantized
from edge_lab.core.errors import ExportError, InputError
from edge_lab.core.quiet import quiet
from edge_lab.zoo import Model

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class DynamicInt8:
    """Dynamic quantization; the runtime decides which layers can take part.

    Attributes:
        runtime: who will execute the model:
            "eager": PyTorch itself, by the legacy torch.ao kernels. Linear, LSTM and GRU. They are deprecated, and
            still the only int8 kernels for LSTM and GRU and the only ones that are fast without a compiler.
            "inductor": torch.compile, by torchao's Int8DynamicActivationInt8WeightConfig. Linear only. Slow until
            compiled: eager executes each quantization step as an operator of its own.
            "executorch": XNNPACK, by torchao's Int8DynamicActivationIntxWeightConfig. Linear only. For a .pte.
        weight_bits: 8, or 4 with runtime="executorch" ("8da4w").
        group: weights per scale for 4 bits; must divide the layers' inputs, a multiple of 32.
    """

    runtime: Literal["eager", "inductor", "executorch"] = "eager"
    weight_bits: Literal[8, 4] = 8
    group: int = 32

    def __post_init__(self) -> None:
        known = self.runtime in ("eager", "inductor", "executorch")
        if not known or self.weight_bits not in (8, 4) or (self.weight_bits == 4 and self.runtime != "executorch"):
            raise InputError(
                f"DynamicInt8(runtime={self.runtime!r}, weight_bits={self.weight_bits!r}) is not supported.",
                'runtimes are "eager", "inductor" and "executorch"; 4-bit weights exist for "executorch" only.',
                'use DynamicInt8(), or DynamicInt8("executorch", weight_bits=4).',
            )

    @property
    def label(self) -> str:
        """Short name: "dynamic-int8", or "dynamic-8da4w" with 4-bit weights."""
        return "dynamic-int8" if self.weight_bits == 8 else "dynamic-8da4w"


def quantize_dynamic(model: Model, config: DynamicInt8 | None = None) -> Model:
    """Quantize all layers that the runtime has dynamic int8 kernels for.

    Args:
        model: float; it is not changed.
        config: default DynamicInt8(): Linear, LSTM and GRU, for PyTorch itself.

    Returns:
        A new model named "<name>-dynamic-int8"; if some layers stay in float the name says how many were done, such as
        "mynet-dynamic-int8-1of50". `quantized_layers(result.module)` lists them.

    Raises:
        InputError: quantized already.
        ExportError: not one layer can be quantized this way: a conv net, for example.
    """
    import copy

    config = config or DynamicInt8()
    refuse_quantized(model.module, model.spec.name, "quantized")
    module = copy.deepcopy(model.module).eval()
    with quiet():  # torch.ao says that it is deprecated, torchao that it is young
        module = _QUANTIZERS[config.runtime](module, config)
    report = quantized_layers(module)
    if not report.quantized:
        raise _nothing_done(model, config, report)
    share = "" if not report.untouched else f"-{len(report.quantized)}of{len(report.layers)}"
    return Model(module, model.spec.with_(name=f"{model.spec.name}-{config.label}{share}"))


def _nothing_done(model: Model, config: DynamicInt8, report: LayerReport) -> ExportError:
    kinds = ", ".join(sorted({layer.kind for layer in report.layers})) or "none with weights"
    wanted = "Linear, LSTM and GRU" if config.runtime == "eager" else "Linear"
    return ExportError(
        f"dynamic int8 does nothing for {model.spec.name}: 0 of {len(report.layers)} layers quantized.",
        f"its layers are {kinds}; this route has int8 kernels for {wanted} only.",
        "quantize_weights(model) makes any conv net smaller; static int8 (an -int8 target) also makes it faster.",
    )


def _eager(module: nn.Module, config: DynamicInt8) -> nn.Module:
    import torch

    kinds = {torch.nn.Linear, torch.nn.LSTM, torch.nn.GRU}
    if type(module) in kinds:  # it replaces children only
        return _eager(torch.nn.Sequential(module), config)[0]  # type: ignore[index,no-any-return]
    legacy: Any = torch.ao.quantization
    quantized: nn.Module = legacy.quantize_dynamic(module, kinds, dtype=torch.qint8)
    return quantized


def _inductor(module: nn.Module, config: DynamicInt8) -> nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module


def _executorch(module: nn.Module, config: DynamicInt8) -> nn.Module:
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    four = config.weight_bits == 4
    how = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, f"int{config.weight_bits}"),
        weight_granularity=PerGroup(config.group) if four else PerAxis(0),
    )

    def fits(part: nn.Module, name: str) -> bool:
        return isinstance(part, torch.nn.Linear) and not (four and part.in_features % config.group)

    quantize_(module, how, filter_fn=fits)
    return module


_QUANTIZERS: dict[str, Callable[[Any, DynamicInt8], Any]] = {
    "eager": _eager,
    "inductor": _inductor,
    "executorch": _executorch,
}


@dataclass(frozen=True)
class Half:
    """16-bit floats inside, float32 in and out.

    float16 keeps 11 significant bits up to 65504: for ARM phones, Core ML and GPUs. bfloat16 keeps 8 bits with the
    range of float32: for CPUs with bf16 instructions (AVX-512 BF16, AMX, ARMv8.6). Elsewhere both are converted back
    and forth and are slower than float32; the file is half as large everywhere.
    """

    dtype: Literal["float16", "bfloat16"] = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "bfloat16"):
            raise InputError(
                f"Half(dtype={self.dtype!r}) is not supported.",
                "the two 16-bit floats are float16 and bfloat16.",
                'use Half("float16") for phones, Half("bfloat16") for CPUs that have bf16 instructions.',
            )


def to_half(model: Model, config: Half | None = None) -> Model:
    """Store and compute in 16-bit floats.

    Args:
        model: float32; it is not changed.
        config: default Half(): float16.

    Returns:
        A new model named "<name>-float16" or "<name>-bfloat16", which takes and returns float32.

    Raises:
        InputError: quantized already, or a weight does not fit the type's range.
    """
    import torch

    from edge_lab.compress.graphs.packed import HalfInside

    config = config or Half()
    refuse_quantized(model.module, model.spec.name, "stored in 16-bit floats")
    dtype: torch.dtype = getattr(torch, config.dtype)
    parameters = {name for name, _ in model.module.named_parameters(remove_duplicate=False)}
    for name, tensor in model.module.state_dict().items():
        if tensor.is_floating_point() and _is_lost(tensor, dtype, mask=name not in parameters):
            raise InputError(
                f"{name!r} of {model.spec.name} does not fit {config.dtype}.",
                f"it holds NaN, infinity, or a magnitude above {torch.finfo(dtype).max:.0f}.",
                'use Half("bfloat16"), which has the range of float32, or repair the checkpoint.',
            )
    module = HalfInside(model.module, dtype).eval()
    return Model(module, model.spec.with_(name=f"{model.spec.name}-{config.dtype}"))


def _is_lost(tensor: torch.Tensor, dtype: torch.dtype, *, mask: bool) -> bool:
    """Whether a tensor doesn't fit a type. A mask may hold infinities, and one number that becomes minus infinity."""
    import torch

    outside = tensor[~torch.isfinite(tensor.to(dtype))]
    if mask and not outside.isnan().any():
        finite = outside[outside.isfinite()]
        return bool((finite > 0).any()) or bool((finite != finite[:1]).any())
    return outside.numel() > 0
