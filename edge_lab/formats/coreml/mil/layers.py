"""What each operator of Core ML's MIL language computes, in PyTorch and float32.

Definitions: Apple's "MIL Ops" reference in the coremltools documentation. Every operator that coremltools itself can
evaluate is compared with that in the tests, and the others with PyTorch's own module of that name.

Import this file lazily: it needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.table import OPERATORS, Inputs, operator, plain


def _elementwise(name: str, function: Callable[[Tensor], Tensor]) -> None:
    OPERATORS[name] = lambda p: function(p["x"])


def _binary(name: str, function: Callable[[Any, Any], Tensor]) -> None:
    OPERATORS[name] = lambda p: function(torch.as_tensor(p["x"]), torch.as_tensor(p["y"]))


for _name in ("relu", "sigmoid", "tanh", "sqrt", "exp", "abs", "floor", "ceil", "round", "square", "sign", "erf"):
    _elementwise(_name, getattr(torch, _name))
for _name in ("sin", "cos", "asin", "acos", "atan", "sinh", "cosh", "exp2", "logical_not"):
    _elementwise(_name, getattr(torch, _name))
_elementwise("relu6", F.relu6)
_elementwise("silu", F.silu)
_elementwise("softsign", F.softsign)
_elementwise("softplus", F.softplus)
_elementwise("identity", lambda x: x)
_elementwise("shape", lambda x: torch.tensor(x.shape, dtype=torch.int32))

for _name, _as in {
    "add": "add", "sub": "sub", "mul": "mul", "real_div": "true_divide", "pow": "pow", "maximum": "maximum",
    "minimum": "minimum", "floor_div": "floor_divide", "mod": "remainder", "equal": "eq", "not_equal": "ne",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "logical_and": "logical_and",
    "logical_or": "logical_or", "logical_xor": "logical_xor",
}.items():  # fmt: skip
    _binary(_name, getattr(torch, _as))


@operator("rsqrt")
def _rsqrt(p: Inputs) -> Tensor:
    return torch.rsqrt(p["x"] + p.get("epsilon", 0.0))


@operator("inverse")
def _inverse(p: Inputs) -> Tensor:
    return torch.reciprocal(p["x"] + p.get("epsilon", 0.0))


@operator("log")
def _log(p: Inputs) -> Tensor:
    return torch.log(p["x"] + p.get("epsilon", 0.0))


@operator("clip")
def _clip(p: Inputs) -> Tensor:
    return torch.clamp(p["x"], p["alpha"], p["beta"])


@operator("leaky_relu")
def _leaky_relu(p: Inputs) -> Tensor:
    return F.leaky_relu(p["x"], p["alpha"])


@operator("elu")
def _elu(p: Inputs) -> Tensor:
    return F.elu(p["x"], p["alpha"])


@operator("prelu")
def _prelu(p: Inputs) -> Tensor:
    return F.prelu(p["x"], p["alpha"])


@operator("sigmoid_hard")
def _sigmoid_hard(p: Inputs) -> Tensor:
    return torch.clamp(p["alpha"] * p["x"] + p["beta"], 0, 1)


@operator("linear_activation")
def _linear_activation(p: Inputs) -> Tensor:
    return p["alpha"] * p["x"] + p.get("beta", 0.0)  # type: ignore[no-any-return]


@operator("gelu")
def _gelu(p: Inputs) -> Tensor:
    mode, x = p.get("mode", "EXACT"), p["x"]
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)  # type: ignore[no-any-return]
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operator("softmax")
def _softmax(p: Inputs) -> Tensor:
    return torch.softmax(p["x"], p["axis"])


@operator("cast")
def _cast(p: Inputs) -> Tensor:
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bool": torch.bool}
    kind = kinds.get(p["dtype"]) or getattr(torch, p["dtype"])
    out: Tensor = torch.as_tensor(p["x"]).to(kind)
    return out.float() if kind is torch.float16 else out


@operator("select")
def _select(p: Inputs) -> Tensor:
    return torch.where(torch.as_tensor(p["cond"]).bool(), p["a"], p["b"])


# Layers


@operator("linear")
def _linear(p: Inputs) -> Tensor:
    return F.linear(p["x"], p["weight"], p.get("bias"))


@operator("matmul")
def _matmul(p: Inputs) -> Tensor:
    x, y = p["x"], p["y"]
    x = x.transpose(-1, -2) if p.get("transpose_x") else x
    y = y.transpose(-1, -2) if p.get("transpose_y") else y
    return torch.matmul(x, y)


@operator("einsum")
def _einsum(p: Inputs) -> Tensor:
    return torch.einsum(p["equation"], *p["values"])


@operator("scaled_dot_product_attention")
def _attention(p: Inputs) -> Tensor:
    return F.scaled_dot_product_attention(p["query"], p["key"], p["value"], p.get("attn_mask"))


@operator("conv")
def _conv(p: Inputs) -> Tensor:
    x, weight = p["x"], p["weight"]
    n = weight.ndim - 2
    stride, dilation = plain(p.get("strides", [1] * n)), plain(p.get("dilations", [1] * n))
    kernel = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    x = F.pad(x, padding(p, x, kernel, stride))
    function = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    return function(x, weight, p.get("bias"), stride, 0, dilation, int(p.get("groups", 1)))


@operator("conv_transpose")
def _conv_transpose(p: Inputs) -> Tensor:
    x, weight = p["x"], p["weight"]
    n = weight.ndim - 2
    stride, dilation = plain(p.get("strides", [1] * n)), plain(p.get("dilations", [1] * n))
    if p.get("pad_type", "valid") not in ("valid", "custom"):
        raise NotImplementedError(f"conv_transpose with pad_type {p['pad_type']}")
    pads = plain(p.get("pad", [0] * (2 * n))) if p.get("pad_type") == "custom" else [0] * (2 * n)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    out = function(x, weight, p.get("bias"), stride, 0, 0, int(p.get("groups", 1)), dilation)
    wanted = plain(p["output_shape"])[2:] if p.get("output_shape") is not None else None
    for axis in range(n):
        before, after = pads[2 * axis], pads[2 * axis + 1]
        length = wanted[axis] if wanted else out.shape[2 + axis] - before - after
        missing = before + length - out.shape[2 + axis]
        if missing > 0:  # output padding: positions that no input reaches hold the bias alone
            out = _extend(out, 2 + axis, missing, p.get("bias"))
        out = out.narrow(2 + axis, before, length)
    return out


def _extend(out: Tensor, axis: int, amount: int, bias: Tensor | None) -> Tensor:
    shape = list(out.shape)
    shape[axis] = amount
    fill = torch.zeros(shape)
    if bias is not None:
        fill += bias.reshape(1, -1, *[1] * (out.ndim - 2))
    return torch.cat([out, fill], axis)


def padding(p: Inputs, x: Tensor, kernel: list[int], stride: list[int]) -> list[int]:
    """PyTorch's pad amounts (last axis first) for a MIL pad_type."""
    kind, n = p.get("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return [0] * (2 * n)
    if kind == "custom":
        pairs = list(zip(*[iter(plain(p["pad"]))] * 2, strict=True))
    elif kind in ("same", "same_lower"):
        pairs = []
        for size, k, s in zip(x.shape[-n:], kernel, stride, strict=True):
            total = max(0, (math.ceil(size / s) - 1) * s + k - size)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if kind == "same" else (more, less))
    else:
        raise NotImplementedError(f"pad_type {kind}")
    return [amount for pair in reversed(pairs) for amount in pair]


@operator("batch_norm")
def _batch_norm(p: Inputs) -> Tensor:
    return F.batch_norm(p["x"], p["mean"], p["variance"], p.get("gamma"), p.get("beta"), False, 0.0, p["epsilon"])


@operator("instance_norm")
def _instance_norm(p: Inputs) -> Tensor:
    return F.instance_norm(p["x"], weight=p.get("gamma"), bias=p.get("beta"), eps=p["epsilon"])


@operator("layer_norm")
def _layer_norm(p: Inputs) -> Tensor:
    x, axes = p["x"], sorted(a % p["x"].ndim for a in plain(p["axes"]))
    mean = x.mean(axes, keepdim=True)
    out: Tensor = (x - mean) / torch.sqrt(x.var(axes, unbiased=False, keepdim=True) + p["epsilon"])
    shape = [x.shape[a] if a in axes else 1 for a in range(x.ndim)]
    if p.get("gamma") is not None:
        out = out * p["gamma"].reshape(shape)
    if p.get("beta") is not None:
        out = out + p["beta"].reshape(shape)
    return out


@operator("classify")
def _classify(p: Inputs) -> tuple[Any, Tensor]:
    """The last operator of a classifier: the label with the highest score, and the scores (Core ML makes a dict)."""
    scores: Tensor = p["probabilities"]
    labels = p["classes"]
    return labels[int(scores.argmax())], scores


# Quantized activations


@operator("quantize")
def _quantize(p: Inputs) -> Tensor:
    x, kind = p["input"], p["output_dtype"]
    scale, zero = _along(p["scale"], p, x), _along(p.get("zero_point", 0), p, x)
    low, high = (0, 255) if kind == "uint8" else (-128, 127)
    return torch.clamp(torch.round(x / scale) + zero, low, high).to(torch.uint8 if kind == "uint8" else torch.int8)


@operator("dequantize")
def _dequantize(p: Inputs) -> Tensor:
    x = p["input"]
    out: Tensor = (x.float() - _along(p.get("zero_point", 0), p, x)) * _along(p["scale"], p, x)
    return out


def _along(value: Any, p: Inputs, x: Tensor) -> Tensor:
    values: Tensor = torch.as_tensor(value).float()
    if values.ndim == 0:
        return values
    shape = [1] * x.ndim
    shape[int(p["axis"])] = -1
    return values.reshape(shape)
