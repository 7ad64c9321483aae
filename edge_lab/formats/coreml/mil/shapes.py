"""Core ML operators that move, pick and reduce values, in PyTorch (definitions: see `mil_layers`).

Import this file lazily: it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.table import OPERATORS, Inputs, operator, plain


@operator("reshape")
def _reshape(p: Inputs) -> Tensor:
    wanted = plain(p["shape"])
    if 0 in wanted and len(wanted) != p["x"].ndim:
        raise NotImplementedError("a size of 0 (copied from the input) in a reshape to another rank")
    shape = [p["x"].shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    out: Tensor = p["x"].reshape(shape)
    return out


@operator("transpose")
def _transpose(p: Inputs) -> Tensor:
    out: Tensor = p["x"].permute(plain(p["perm"]))
    return out


@operator("expand_dims")
def _expand_dims(p: Inputs) -> Tensor:
    x, axes = torch.as_tensor(p["x"]), plain(p["axes"])
    total = x.ndim + len(axes)
    for axis in sorted(a % total for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def _squeeze(p: Inputs) -> Tensor:
    axes = p.get("axes")
    out: Tensor = p["x"].squeeze() if axes is None else p["x"].squeeze(tuple(plain(axes)))
    return out


@operator("concat")
def _concat(p: Inputs) -> Tensor:
    if p.get("interleave"):
        stacked = torch.stack(p["values"], p["axis"] + 1)
        return stacked.flatten(p["axis"], p["axis"] + 1)
    return torch.cat([torch.as_tensor(v) for v in p["values"]], p["axis"])


@operator("stack")
def _stack(p: Inputs) -> Tensor:
    return torch.stack([torch.as_tensor(v) for v in p["values"]], p["axis"])


@operator("split")
def _split(p: Inputs) -> tuple[Tensor, ...]:
    sizes = p.get("split_sizes")
    if sizes is None:
        return torch.chunk(p["x"], int(p["num_splits"]), p["axis"])
    return torch.split(p["x"], plain(sizes), p["axis"])


@operator("tile")
def _tile(p: Inputs) -> Tensor:
    out: Tensor = p["x"].repeat(plain(p["reps"]))
    return out


@operator("slice_by_index")
def _slice_by_index(p: Inputs) -> Tensor:
    x = torch.as_tensor(p["x"])
    n = x.ndim
    begin, end, stride = plain(p["begin"]), plain(p["end"]), plain(p.get("stride", [1] * n))
    masks = [plain(p.get(k, [False] * n)) for k in ("begin_mask", "end_mask", "squeeze_mask")]
    for axis in range(n):
        size, step = x.shape[axis], stride[axis]
        if masks[2][axis]:
            places = [begin[axis] % size]
        else:
            first = None if masks[0][axis] else begin[axis]
            last = None if masks[1][axis] else end[axis]
            places = list(range(size))[slice(first, last, step)]
        x = x.index_select(axis, torch.tensor(places, dtype=torch.long))
    squeezed = [a for a in range(n) if masks[2][a]]
    return x.squeeze(tuple(squeezed)) if squeezed else x


@operator("slice_by_size")
def _slice_by_size(p: Inputs) -> Tensor:
    x: Tensor = p["x"]
    for axis, (begin, size) in enumerate(zip(plain(p["begin"]), plain(p["size"]), strict=True)):
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


@operator("reverse")
def _reverse(p: Inputs) -> Tensor:
    axes = p.get("axes")
    return torch.flip(p["x"], plain(axes) if axes is not None else list(range(p["x"].ndim)))


@operator("pad")
def _pad(p: Inputs) -> Tensor:
    pairs = list(zip(*[iter(plain(p["pad"]))] * 2, strict=True))
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    mode = p.get("mode", "constant")
    if mode == "constant":
        return F.pad(p["x"], amounts, value=float(p.get("constant_val", 0.0)))
    while len(amounts) > 2 and amounts[-2:] == [0, 0]:  # PyTorch pads the last axes only
        amounts = amounts[:-2]
    return F.pad(p["x"], amounts, mode={"reflect": "reflect", "replicate": "replicate"}[mode])


@operator("fill")
def _fill(p: Inputs) -> Tensor:
    return torch.full(plain(p["shape"]), p.get("value", 0.0))


@operator("range_1d")
def _range_1d(p: Inputs) -> Tensor:
    return torch.arange(p["start"], p["end"], p["step"])


@operator("space_to_depth")
def _space_to_depth(p: Inputs) -> Tensor:
    x, b = p["x"], int(p["block_size"])
    n, c, h, w = x.shape
    out: Tensor = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // b, w // b)
    return out


@operator("pixel_shuffle")
def _pixel_shuffle(p: Inputs) -> Tensor:
    return F.pixel_shuffle(p["x"], int(p["upscale_factor"]))


# Reductions


def _reduce(name: str, function: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    def reduce(p: Inputs) -> Tensor:
        axes = p.get("axes")
        places = plain(axes) if axes is not None else list(range(p["x"].ndim))
        return function(p["x"], places, bool(p.get("keep_dims", False)))

    OPERATORS[name] = reduce


_reduce("reduce_mean", lambda x, a, k: x.mean(a, keepdim=k))
_reduce("reduce_sum", lambda x, a, k: x.sum(a, keepdim=k))
_reduce("reduce_max", lambda x, a, k: x.amax(a, keepdim=k))
_reduce("reduce_min", lambda x, a, k: x.amin(a, keepdim=k))
_reduce("reduce_l1_norm", lambda x, a, k: x.abs().sum(a, keepdim=k))
_reduce("reduce_l2_norm", lambda x, a, k: x.square().sum(a, keepdim=k).sqrt())
_reduce("reduce_sum_square", lambda x, a, k: x.square().sum(a, keepdim=k))
_reduce("reduce_log_sum", lambda x, a, k: x.sum(a, keepdim=k).log())
_reduce("reduce_log_sum_exp", lambda x, a, k: torch.logsumexp(x, a, keepdim=k))


@operator("reduce_prod")
def _prod(p: Inputs) -> Tensor:
    x, axes = p["x"], p.get("axes")
    for axis in sorted((a % x.ndim for a in (plain(axes) if axes is not None else range(x.ndim))), reverse=True):
        x = x.prod(axis, keepdim=bool(p.get("keep_dims", False)))
    out: Tensor = x
    return out


@operator("reduce_argmax")
def _argmax(p: Inputs) -> Tensor:
    return torch.argmax(p["x"], int(p["axis"]), keepdim=bool(p.get("keep_dims", False))).to(torch.int32)


@operator("cumsum")
def _cumsum(p: Inputs) -> Tensor:
    x, axis = p["x"], int(p.get("axis", 0))
    x = x.flip(axis) if p.get("reverse") else x
    out = torch.cumsum(x, axis) - (x if p.get("exclusive") else 0)
    return out.flip(axis) if p.get("reverse") else out
