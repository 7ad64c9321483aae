"""Core ML operators that read or write by index (definitions: see `mil_layers`).

From iOS 17 on an index may not be negative: devices do anything then. The two versions are told apart by the input
`validate_indices`, which the older does not have. An index outside is refused here, not read as PyTorch would read it.

Import this file lazily: it needs torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.table import Inputs, operator

_MODES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _index(p: Inputs, size: int | Tensor) -> Tensor:
    """Indices as int64 from 0 to size - 1."""
    index = torch.as_tensor(p["indices"]).long()
    if "validate_indices" not in p:
        index = torch.where(index < 0, index + size, index)
    if bool(((index < 0) | (index >= size)).any()):
        raise NotImplementedError("an index outside the tensor, for which Core ML defines no answer")
    return index


@operator("gather")
def _gather(p: Inputs) -> Tensor:
    if int(p.get("batch_dims", 0)):
        raise NotImplementedError("gather with batch_dims")
    x = torch.as_tensor(p["x"])
    axis = int(p.get("axis", 0)) % x.ndim
    index = _index(p, x.shape[axis])
    taken = x.index_select(axis, index.flatten())
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("gather_along_axis")
def _gather_along_axis(p: Inputs) -> Tensor:
    axis = int(p.get("axis", 0))
    return torch.gather(p["x"], axis, _index(p, p["x"].shape[axis]))


@operator("gather_nd")
def _gather_nd(p: Inputs) -> Tensor:
    if int(p.get("batch_dims", 0)):
        raise NotImplementedError("gather_nd with batch_dims")
    x, depth = p["x"], p["indices"].shape[-1]
    index = _index(p, torch.tensor(x.shape[:depth]))
    out: Tensor = x[tuple(index.unbind(-1))]
    return out


@operator("scatter")
def _scatter(p: Inputs) -> Tensor:
    data = p["data"]
    axis = int(p.get("axis", 0)) % data.ndim
    index = _index(p, data.shape[axis])
    shape = [-1 if a == axis else 1 for a in range(data.ndim)]
    return _written(p, data, axis, index.reshape(shape).expand_as(p["updates"]), p["updates"])


@operator("scatter_along_axis")
def _scatter_along_axis(p: Inputs) -> Tensor:
    axis = int(p.get("axis", 0))
    return _written(p, p["data"], axis, _index(p, p["data"].shape[axis]), p["updates"])


@operator("scatter_nd")
def _scatter_nd(p: Inputs) -> Tensor:
    data, depth = p["data"], p["indices"].shape[-1]
    index = _index(p, torch.tensor(data.shape[:depth])).reshape(-1, depth)
    place = torch.zeros(len(index), dtype=torch.long)
    for axis in range(depth):
        place = place * data.shape[axis] + index[:, axis]
    rest = data.shape[depth:]
    rows, updates = data.reshape(-1, rest.numel()), p["updates"].reshape(-1, rest.numel())
    return _written(p, rows, 0, place[:, None].expand_as(updates), updates).reshape(data.shape)


def _written(p: Inputs, data: Tensor, axis: int, index: Tensor, updates: Tensor) -> Tensor:
    mode = p.get("mode")
    if mode in _MODES:
        return data.scatter_reduce(axis, index, updates, _MODES[mode])
    if mode == "sub":
        return data.scatter_reduce(axis, index, -updates, "sum")
    if mode != "update":
        raise NotImplementedError(f"scatter with mode {mode}")
    times = torch.zeros(data.shape).scatter_add(axis, index, torch.ones(index.shape))
    if bool((times > 1).any()):
        raise NotImplementedError("scatter that writes twice to one place, in an order that is not defined")
    return data.scatter(axis, index, updates)


@operator("one_hot")
def _one_hot(p: Inputs) -> Tensor:
    index, size = torch.as_tensor(p["indices"]).long(), int(p["one_hot_vector_size"])
    on, off = (torch.as_tensor(p.get(name, usual)) for name, usual in (("on_value", 1), ("off_value", 0)))
    axis = int(p.get("axis", -1))
    inside = (index >= 0) & (index < size)  # a number outside is a row of off_value
    rows = F.one_hot(index.clamp(0, size - 1), size).bool() & inside[..., None]
    return torch.where(rows, on, off).movedim(-1, axis)


@operator("non_zero")
def _non_zero(p: Inputs) -> Any:
    return torch.nonzero(p["x"]).to(torch.int32)
