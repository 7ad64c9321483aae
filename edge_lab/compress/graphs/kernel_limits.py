"""Steps that XNNPACK's int8 kernels can compute with, for values of any size.

A kernel multiplies its integer sums by input step x weight step / output step, and takes that number within limits only
(XNNPACK: src/operators/convolution-nhwc.c, binary-elementwise-nd.c); a bias is 32 bits wide in units of input step x
weight step. ExecuTorch's quantizer stays inside by letting no step be smaller than 2**-12: whoever computes with small
numbers gets zeros. Here a step is widened only where a kernel needs it, and never to more than the error that the
kernel's inputs have anyway.

Import this file lazily: it needs torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edge_lab.compress.graphs.graph import attribute, is_observer, operator_of

_UNSEEN = 2**-12  # step of a place that was zero on all inputs, if nothing else gives its size
_FINER = 2**-7  # an output's step against the unit of its sum: 2**-8 is the kernels' limit
_ADD = 2**-9  # an addend's step against the sum's: 2**-10 is the limit
_PRODUCT = 2**15  # a product's step against that of its factors: 2**16 is the limit
_BIAS = 2**30


def fit_steps(prepared: fx.GraphModule) -> None:
    """Widen the steps of a calibrated graph that no kernel could compute with. In place, from input to output."""
    for node in prepared.graph.nodes:
        kind = operator_of(node)
        if kind.startswith("conv") or kind == "linear":
            _fit_layer(prepared, node)
        elif kind in ("add", "mul"):
            steps = [_observer(prepared, a) for a in node.args[:2]]
            inputs = [o for o in steps if o is not None]
            out = _after(prepared, node)
            if out is not None and inputs:
                (_fit_sum if kind == "add" else _fit_product)(inputs, out)
        elif node.op == "placeholder":
            _widen(_after(prepared, node), 0.0, _UNSEEN)


def _fit_layer(prepared: fx.GraphModule, node: fx.Node) -> None:
    entering, weight = _observer(prepared, node.args[0]), _observer(prepared, node.args[1])
    if entering is None or weight is None:
        return
    step = float(_step(entering))
    bias: Any = node.args[2] if len(node.args) > 2 else None
    if isinstance(bias, fx.Node) and bias.op == "get_attr":
        need = attribute(prepared, bias).detach().abs() / (step * _BIAS)
        weight.eps = torch.maximum(weight.eps, need if _step(weight).numel() > 1 else need.max())
    unit = step * float(_step(weight).max())
    _widen(_after(prepared, node), unit * _FINER, unit)


def _fit_sum(inputs: list[Any], out: Any) -> None:
    largest = max(float(_step(o)) for o in inputs)
    _widen(out, largest * _FINER, largest)
    for addend in inputs:
        _widen(addend, float(_step(out)) * _ADD)


def _fit_product(inputs: list[Any], out: Any) -> None:
    unit = float(_step(inputs[0])) * float(_step(inputs[-1]))
    _widen(out, unit * _FINER, unit)
    _widen(inputs[0], float(_step(out)) / (float(_step(inputs[-1])) * _PRODUCT))


def _widen(observer: Any, least: float, if_unseen: float = 0.0) -> None:
    """Let an observer's step be `least` or more; one that has met nothing but zeros takes `if_unseen`."""
    if observer is None:
        return
    unseen = bool((observer.max_val == observer.min_val).all()) and float(observer.max_val) == 0
    observer.eps = torch.clamp(observer.eps, min=max(least, if_unseen if unseen else 0.0))


def _step(observer: Any) -> torch.Tensor:
    scale: torch.Tensor = observer.calculate_qparams()[0]
    return scale


def _observer(prepared: fx.GraphModule, node: Any) -> Any:
    """The observer with a fixed range that a node is, or None."""
    if not isinstance(node, fx.Node) or not is_observer(node):
        return None
    observer = prepared.get_submodule(str(node.target))
    return observer if hasattr(observer, "min_val") and hasattr(observer, "eps") else None


def _after(prepared: fx.GraphModule, node: fx.Node) -> Any:
    """The observer of what a node writes, past an activation that is one unit with it."""
    if len(node.users) == 1 and operator_of(next(iter(node.users))) in ("relu", "hardtanh", "relu6"):
        node = next(iter(node.users))
    return next((found for user in node.users if (found := _observer(prepared, user)) is not None), None)
