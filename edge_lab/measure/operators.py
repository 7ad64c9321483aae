"""Where the time goes inside an eager PyTorch model: the PyTorch Profiler as a short list and one picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

REST = "everything else"
_MARK = "layer::"  # names our own ranges in the profiler's list


@dataclass(frozen=True)
class OpTime:
    """One operator or kind of layer: calls and CPU milliseconds per run, share of the run (0-1).

    `flops` per run is known for kinds of layers only (2 x multiply-adds, see `edge_lab.measure.flops`).
    """

    name: str
    calls: float
    ms: float
    share: float
    flops: int | None = None


def profile(
    module: torch.nn.Module,
    x: np.ndarray | torch.Tensor,
    *,
    by: Literal["operator", "layer"] = "operator",
    runs: int = 5,
    top: int = 8,
    threads: int = 1,
) -> tuple[OpTime, ...]:
    """Profile a forward pass with torch.profiler.

    Profiling adds a few microseconds to each operator: read the shares, not the times.

    Args:
        module: the model.
        x: its input.
        by: "operator" lists what PyTorch calls, each without the operators it calls in turn; "layer" adds up layers of
            the same kind (1x1 convolution, batch norm, ...).
        runs: profiled runs, after two that are not.
        top: rows to name; the others are summed in a last row, so that shares add up to 1.
        threads: PyTorch's thread count, which stays set.

    Returns:
        The costliest first.
    """
    import torch

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it writes two lines to stderr for each run otherwise
    torch.set_num_threads(threads)
    tensor = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    module.eval()
    if by == "layer":
        work = _layer_flops(module, tensor)
        with _layers_marked(module, _recorder()):
            events = _events(module, tensor, runs)
        rows = [(key.removeprefix(_MARK), n, us) for key, n, _, us in events if key.startswith(_MARK)]
    else:
        work = {}
        events = _events(module, tensor, runs)
        rows = [(key.removeprefix("aten::"), n, us) for key, n, us, _ in events]
    total = sum(self_us for _, _, self_us, _ in events) / 1e3 / runs
    ops = [OpTime(name, n / runs, us / 1e3 / runs, us / 1e3 / runs / total, work.get(name)) for name, n, us in rows]
    ops.sort(key=lambda op: -op.ms)
    return with_rest(ops, top, total)


def profile_plot(ops: Sequence[OpTime], *, ax: Any = None, title: str = "Where the time goes") -> Any:
    """Draw the list as horizontal bars, the costliest on top; returns the matplotlib Axes."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.36 * len(ops) + 0.8), layout="constrained")
    shares = [100 * op.share for op in ops]
    colors = ["#b9c2cc" if op.name == REST else "#2f6f9f" for op in ops]
    bars = ax.barh([op.name for op in ops], shares, color=colors, height=0.7)
    ax.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=5)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.15 * max(shares))
    ax.set_xticks([])
    ax.tick_params(left=False)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set_title(title, loc="left")
    return ax


def _events(module: Any, tensor: Any, runs: int) -> list[tuple[str, int, float, float]]:
    """(name, calls, own CPU time, CPU time with children), times in us over all runs."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    with torch.no_grad():
        for _ in range(2):
            module(tensor)
        with torch_profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(runs):
                module(tensor)
    return [(e.key, e.count, e.self_cpu_time_total, e.cpu_time_total) for e in profiler.key_averages()]


def with_rest(ops: list[OpTime], top: int, total: float) -> tuple[OpTime, ...]:
    """The first `top` rows, and one row for the others and for time outside any of them; the shares add up to 1.

    On a busy machine a profiler's clock has given the rows 0.9 % more than the whole run: then their sum is the whole.
    """
    shown = ops[:top]
    rest_ms = max(total, sum(op.ms for op in ops)) - sum(op.ms for op in shown)
    if len(ops) > top or rest_ms > 0.001 * total:
        shown = [*shown, OpTime(REST, sum(op.calls for op in ops[top:]), rest_ms, 0.0)]
    whole = sum(op.ms for op in shown) or 1.0
    return tuple(replace(op, share=op.ms / whole) for op in shown)


def _layer_flops(module: Any, tensor: Any) -> dict[str, int]:
    """FLOPs of one forward pass for each kind of layer."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    found: dict[str, int] = {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:

        def begin(kind: str) -> Callable[[], None]:
            before = counter.get_total_flops()

            def end() -> None:
                found[kind] = found.get(kind, 0) + counter.get_total_flops() - before

            return end

        with _layers_marked(module, begin):
            module(tensor)
    return found


def _recorder() -> Callable[[str], Callable[[], None]]:
    from torch.profiler import record_function

    def begin(kind: str) -> Callable[[], None]:
        span = record_function(_MARK + kind)
        span.__enter__()  # type: ignore[no-untyped-call]
        return lambda: span.__exit__(None, None, None)

    return begin


@contextmanager
def _layers_marked(module: Any, begin: Callable[[str], Callable[[], None]]) -> Iterator[None]:
    """Call `begin(kind)` before each layer of `module` runs, and what it returned afterwards."""
    open_: list[Callable[[], None]] = []
    hooks = []
    for layer, kind in _layers(module):
        hooks.append(layer.register_forward_pre_hook(lambda _m, _x, kind=kind: open_.append(begin(kind))))
        hooks.append(layer.register_forward_hook(lambda _m, _x, _y: open_.pop()()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(module: Any) -> Iterator[tuple[Any, str]]:
    """Layers and their kinds: what has no parts, and convolutions, linear layers and norms even where they have."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd

    if isinstance(module, _ConvNd):
        size = "x".join(map(str, module.kernel_size))
        depthwise = 1 < module.groups == module.in_channels
        yield module, f"depthwise {size} convolution" if depthwise else f"{size} convolution"
    elif isinstance(module, _BatchNorm):
        yield module, "batch norm + activation" if any(True for _ in module.children()) else "batch norm"
    elif isinstance(module, nn.Linear):
        yield module, "linear"
    elif not any(True for _ in module.children()):
        yield module, type(module).__name__
    else:
        for child in module.children():
            yield from _layers(child)
