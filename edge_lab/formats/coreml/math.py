"""Functions that neither coremltools 9 nor PyTorch's rules take apart, in operators that Core ML has.

For `core_ml_graph`. Each is a definition of the function, not an approximation; NaN is left out of account.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


def math_rules() -> dict[Any, Callable[..., Any]]:
    """Decompositions by operator, for `ExportedProgram.run_decompositions`."""
    return {
        aten.trunc.default: _trunc,
        aten.fmod.Tensor: _fmod,
        aten.fmod.Scalar: _fmod,
        aten.erfc.default: lambda x: 1 - torch.erf(x),
        aten.asinh.default: lambda x: torch.sign(x) * torch.log(x.abs() + torch.sqrt(x * x + 1)),
        aten.acosh.default: lambda x: torch.log(x + torch.sqrt(x * x - 1)),
        aten.hypot.default: lambda x, y: torch.sqrt(x * x + y * y),
        aten.copysign.Tensor: lambda x, y: x.abs() * (1 - 2 * (y < 0).to(x.dtype)),
        aten.fmax.default: torch.maximum,
        aten.fmin.default: torch.minimum,
        aten.signbit.default: lambda x: x < 0,
        aten.gelu.default: _gelu,
        aten.instance_norm.default: _instance_norm,
        aten.log_softmax.int: _log_softmax,
        aten._log_softmax.default: _log_softmax,
        aten.log_sigmoid.default: lambda x: -F.softplus(-x),
        aten.hardshrink.default: lambda x, limit=0.5: x * (x.abs() > limit).to(x.dtype),
        aten.any.dim: lambda x, dim, keep=False: _as_flags(aten.any.dim, x, dim, keep),
        aten.argmax.default: lambda x, dim=None, keep=False: _over_all(aten.argmax.default, x, dim, keep),
        aten.argmin.default: lambda x, dim=None, keep=False: _over_all(aten.argmin.default, x, dim, keep),
        aten.where.ScalarSelf: lambda c, x, y: torch.where(c, torch.full_like(y, x), y),
        aten.where.ScalarOther: lambda c, x, y: torch.where(c, x, torch.full_like(x, y)),
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.bitwise_or.Tensor,
        aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
        aten.bitwise_and.Tensor: _flags(torch.logical_and),
        aten.bitwise_or.Tensor: _flags(torch.logical_or),
        aten.bitwise_xor.Tensor: _flags(torch.logical_xor),
    }


def _trunc(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.floor(x.abs())


def _fmod(x: Tensor, y: Any) -> Tensor:
    out: Tensor = x - y * _trunc(x / y)
    return out


def _instance_norm(x: Tensor, *rest: Any) -> Any:
    """coremltools measures the input also where stored statistics are meant (track_running_stats)."""
    weight, bias, mean, variance, measure, _, eps, *_ = rest
    return NotImplemented if measure else F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _log_softmax(x: Tensor, dim: int, other: Any = None) -> Tensor:
    """coremltools takes the logarithm of the softmax, which is 0 for scores that differ by 100."""
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def _gelu(x: Tensor, approximate: str = "none") -> Any:
    """coremltools overlooks `approximate` and writes the exact one for both."""
    if approximate == "none":
        return NotImplemented
    return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _as_flags(own: Any, x: Tensor, *rest: Any) -> Any:
    """coremltools makes integers of floats first: 0.3 would count as false."""
    return NotImplemented if x.dtype == torch.bool else own(x != 0, *rest)


def _over_all(own: Any, x: Tensor, dim: int | None, keep: bool) -> Any:
    """coremltools takes no axis for the last one, not for all."""
    if dim is not None or keep:
        return NotImplemented
    return own(x.reshape(-1), 0)


def _flags(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Any]:
    """Core ML has these for flags, not for the bits of integers."""
    return lambda x, y: function(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented
