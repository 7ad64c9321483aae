"""Options of common functions that coremltools 9 overlooks, and functions that it has no conversion for.

Decompositions for `core_ml_graph`, in operators that Core ML has. Each is a definition of the function, not an
approximation; NaN is left out of account.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def option_rules() -> dict[Any, Callable[..., Any]]:
    """Decompositions by operator, for `ExportedProgram.run_decompositions`."""
    usual: Any = torch.export.default_decompositions()
    return {
        aten.add.Tensor: lambda x, y, *, alpha=1: NotImplemented if alpha == 1 else x + y * alpha,
        aten.add.Scalar: lambda x, y, alpha=1: NotImplemented if alpha == 1 else x + y * alpha,
        aten.sub.Tensor: lambda x, y, *, alpha=1: NotImplemented if alpha == 1 else x - y * alpha,
        aten.sub.Scalar: lambda x, y, alpha=1: NotImplemented if alpha == 1 else x - y * alpha,
        aten.rsub.Tensor: lambda x, y, *, alpha=1: y - x * alpha,
        aten.rsub.Scalar: lambda x, y, alpha=1: x * -alpha + y,  # y - x would be this operator again
        aten.addmv.default: lambda x, m, v, *, beta=1, alpha=1: x * beta + (m * v).sum(1) * alpha,
        aten.addbmm.default: lambda x, a, b, *, beta=1, alpha=1: x * beta + torch.bmm(a, b).sum(0) * alpha,
        aten.clamp.Tensor: _clamp,
        aten.var.correction: _var,
        aten.std.correction: lambda x, dim=None, **rest: _root(_var(x, dim, **rest)),
        aten.var_mean.correction: _var_mean,
        aten.softplus.default: _softplus,
        aten.prod.dim_int: lambda x, dim, keep=False: x.cumprod(dim).narrow(dim, x.shape[dim] - 1, 1).sum(dim, keep),
        aten.round.decimals: lambda x, *, decimals: torch.round(x * 10.0**decimals) / 10.0**decimals,
        aten.lerp.Scalar: lambda x, y, weight: x + (y - x) * weight,
        aten.kthvalue.default: _kthvalue,
        aten.median.dim: lambda x, dim, keep=False: _kthvalue(x, (x.shape[dim] + 1) // 2, dim, keep),
        aten.cosine_similarity.default: _cosine,
        aten._cdist_forward.default: _cdist,
        aten.isinf.default: lambda x: x.abs() == torch.inf,
        aten.ldexp.Tensor: lambda x, y: x * torch.pow(2.0, y.to(x.dtype)),
        aten.diagonal.default: _diagonal,
        aten.unfold.default: _unfold,
        aten.bucketize.Tensor: _bucketize,
        aten.rms_norm.default: _rms_norm,
        aten.zeros.default: _zeros,
        aten.affine_grid_generator.default: usual[aten.affine_grid_generator.default],
    }


def _clamp(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    x = x if least is None else torch.maximum(x, least)
    return x if most is None else torch.minimum(x, most)


def _var(x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    """Over all axes coremltools corrects by the size of the last one."""
    dims = list(dim) if dim else list(range(x.ndim))
    count = functools.reduce(lambda n, d: n * x.shape[d], dims, 1)
    squares = torch.square(x - x.mean(dims, keepdim=True)).sum(dims, keepdim)
    return squares / (count - (1 if correction is None else correction))


def _root(value: Any) -> Any:
    return torch.sqrt(value)


def _var_mean(x: Tensor, dim: Sequence[int] | None = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    dims = list(dim) if dim else list(range(x.ndim))
    return _var(x, dims, correction=correction, keepdim=keepdim), x.mean(dims, keepdim)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    """coremltools overlooks the threshold, past which the function is a straight line. Past 20 the two are the same."""
    if threshold >= 20:
        return NotImplemented
    return torch.where(x * beta > threshold, x, torch.log(1 + torch.exp(x * beta)) / beta)


def _kthvalue(x: Tensor, k: int, dim: int = -1, keep: bool = False) -> tuple[Tensor, Tensor]:
    values, places = torch.sort(x, dim)
    if keep:
        return values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return values.select(dim, k - 1), places.select(dim, k - 1)


def _cosine(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    x, y = (v / torch.sqrt(torch.square(v).sum(dim, keepdim=True)).clamp_min(eps) for v in (x, y))
    return (x * y).sum(dim)


def _cdist(x: Tensor, y: Tensor, p: float, mode: int | None = None) -> Any:
    if p != 2:
        return NotImplemented
    return torch.sqrt(torch.square(x.unsqueeze(-2) - y.unsqueeze(-3)).sum(-1))


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Every (width + 1)th number of the rows, one after the other."""
    rows, columns = dim1 % x.ndim, dim2 % x.ndim
    x = x.permute(*(d for d in range(x.ndim) if d not in (rows, columns)), rows, columns)
    high, wide = x.shape[-2:]
    count = max(0, min(high, wide - offset) if offset >= 0 else min(high + offset, wide))
    first = offset if offset >= 0 else -offset * wide
    flat = x.reshape(*x.shape[:-2], high * wide)
    return aten.slice.Tensor(flat, -1, first, first + (count - 1) * (wide + 1) + 1, wide + 1)  # type: ignore[no-any-return]


def _unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Windows, as the first, second, ... number of all of them side by side."""
    count = (x.shape[dim] - size) // step + 1
    return torch.stack([aten.slice.Tensor(x, dim, i, i + (count - 1) * step + 1, step) for i in range(size)], -1)


def _bucketize(x: Tensor, bounds: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    below = x.unsqueeze(-1) >= bounds if right else x.unsqueeze(-1) > bounds
    return below.to(torch.float32).sum(-1).to(torch.int32 if out_int32 else torch.int64)


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    axes = list(range(x.ndim - len(shape), x.ndim))
    smallest = torch.finfo(x.dtype).eps if eps is None else eps
    x = x * torch.rsqrt(torch.square(x).mean(axes, keepdim=True) + smallest)
    return x if weight is None else x * weight


def _zeros(size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """coremltools overlooks the type: zeros of integers would be floats."""
    return torch.full(size, 0, dtype=dtype or torch.float32)
