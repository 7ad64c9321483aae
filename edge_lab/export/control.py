"""What a precision itself costs a network: PyTorch in that precision, no converter involved.

A control, as in an experiment: a program may be as far from the model as its precision explains, and no further.
float32 is compared with float64; 16-bit floats are had by casting the module, integers by rounding weights (and what
the modules hand on) to the grid that the precision has. Import this file lazily: it needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from edge_lab.bundle.folder import Scheme

Outputs = tuple[np.ndarray, ...]
_FLOATS: dict[Scheme, torch.dtype] = {"fp32": torch.float64, "fp16": torch.float16, "bf16": torch.bfloat16}
_GROUP = 32  # 4-bit weights that share a scale


def in_precision(module: nn.Module, scheme: Scheme, inputs: Sequence[np.ndarray]) -> list[Outputs] | None:
    """The outputs of a module for each input, computed in a precision (of fp32: in float64).

    Args:
        module: in eval mode; it is not changed.
        scheme: of the program that is judged.
        inputs: real ones; ranges of int8 activations are read from them as well.

    Returns:
        One tuple for each input, or None: there is no control for this precision, or the module can't run in it.
    """
    try:
        own = copy.deepcopy(module)
        with torch.no_grad():
            if scheme in _FLOATS:
                kind = _FLOATS[scheme]
                return _run(own.to(kind), inputs, lambda x: x.to(kind))
            if scheme == "int8-weights":
                _round_weights(own, 8)
                return _run(own, inputs)
            if scheme == "int4-weights":
                _round_weights(own, 4, _GROUP)
                return _run(own, inputs)
            if scheme == "int8-static":
                return _static_int8(own, inputs)
    except Exception:  # whatever a module does with numbers that it was not written for
        return None
    return None


def _run(
    module: nn.Module, inputs: Sequence[np.ndarray], cast: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.clone
) -> list[Outputs]:
    from edge_lab.formats.runtime import flat_arrays

    found = []
    for x in inputs:
        tensor = torch.from_numpy(x.copy())
        value = module(cast(tensor) if tensor.is_floating_point() else tensor)
        found.append(flat_arrays(pytree.tree_map_only(torch.Tensor, _as_numpy_knows, value)))
    return found


def _as_numpy_knows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _round_weights(module: nn.Module, bits: int, group: int | None = None) -> None:
    """Every matrix or filter on a symmetric grid: a scale for each first index, or for each `group` of its weights."""
    highest = 2 ** (bits - 1) - 1
    for weight in {id(p): p for p in module.parameters() if p.ndim > 1}.values():
        rows = weight.data.reshape(weight.shape[0], -1)
        short = -rows.shape[1] % group if group else 0
        padded = nn.functional.pad(rows, (0, short)).reshape(-1, group or rows.shape[1])
        step = padded.abs().amax(1, keepdim=True).clamp(min=1e-30) / highest
        rounded = (torch.round(padded / step) * step).reshape(rows.shape[0], -1)[:, : rows.shape[1]]
        weight.data = rounded.reshape(weight.shape)


def _static_int8(module: nn.Module, inputs: Sequence[np.ndarray]) -> list[Outputs]:
    """Weights in 8 bits, and the input and what each module hands on in 256 steps of the range that it has here."""
    _round_weights(module, 8)
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str, value: torch.Tensor) -> torch.Tensor:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
        return value

    def steps(name: str, value: torch.Tensor) -> torch.Tensor:
        low, high = ranges[name]
        step = max(high - low, 1e-30) / 255
        return torch.round(value / step) * step

    with _at_every_module(module, watch):
        _run(module, inputs)
    with _at_every_module(module, steps):
        return _run(module, inputs)


@contextmanager
def _at_every_module(module: nn.Module, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let `change` make something of every finite float tensor that a module returns."""

    def hook(name: str, value: Any) -> Any:
        def one(tensor: torch.Tensor) -> torch.Tensor:
            usable = tensor.is_floating_point() and tensor.numel() and bool(torch.isfinite(tensor).all())
            return change(name, tensor) if usable else tensor

        return pytree.tree_map_only(torch.Tensor, one, value)

    hooks = [
        part.register_forward_hook(lambda _m, _x, out, name=name: hook(name, out))
        for name, part in module.named_modules()
    ]
    hooks.append(module.register_forward_pre_hook(lambda _m, args: hook("input", args)))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
