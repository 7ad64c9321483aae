"""How fast could it be? The work a model does, against what this very machine was measured to do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Roofline:
    """Measured limits of this machine on `threads` threads: fp32 GFLOP/s of a large GEMM, GB/s of a large copy.

    The roofline model: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
    """

    peak_gflops: float
    bandwidth_gbs: float
    threads: int = 1

    def floor_ms(self, flops: float, moved_bytes: float = 0) -> float:
        """The least milliseconds that this much work can take here: arithmetic or memory, whichever is longer."""
        return 1e3 * max(flops / (1e9 * self.peak_gflops), moved_bytes / (1e9 * self.bandwidth_gbs))

    def share(self, latency_s: float, flops: float) -> float:
        """Fraction (0-1) of the measured peak that a run of `latency_s` seconds reached."""
        return flops / latency_s / (1e9 * self.peak_gflops)

    @property
    def ridge(self) -> float:
        """FLOP per byte above which arithmetic is the limit, and below which memory is."""
        return self.peak_gflops / self.bandwidth_gbs


def flops(module: torch.nn.Module, input_shape: tuple[int, ...]) -> int:
    """Floating-point operations of one forward pass, counted by torch.utils.flop_counter.

    One multiply-add counts as two (FLOPs = 2 x MACs). Convolutions, matrix products and attention are counted;
    activations, pooling and normalisation are not.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(input_shape))
    return int(counter.get_total_flops())


def bytes_moved(module: torch.nn.Module, input_shape: tuple[int, ...]) -> int:
    """Estimate of the bytes one forward pass moves: weights and input read once, each result written and read once.

    Views are free. Caches make the real figure smaller, unfused operators make it larger.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    x = torch.zeros(input_shape)
    total = sum(t.nbytes for t in (x, *module.parameters(), *module.buffers()))

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            out = func(*args, **(kwargs or {}))
            inputs = {t.data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            total += sum(2 * t.nbytes for t in results if t.data_ptr() not in inputs)
            return out

    with torch.no_grad(), Count():  # type: ignore[no-untyped-call]
        module.eval()(x)
    return total


def roofline(threads: int = 1, *, repeats: int = 30) -> Roofline:
    """Measure this machine's limits with PyTorch: best of `repeats` of a 1024^3 fp32 GEMM and of a 128 MB copy.

    The best run counts, since a limit is asked for; a copy reads and writes, so it moves twice its size. Takes
    about a second; on a busy machine the result can still be 15 % low. PyTorch's thread count stays at `threads`.
    """
    import torch

    torch.set_num_threads(threads)
    n = 1024
    a, b, out = torch.rand(n, n), torch.rand(n, n), torch.empty(n, n)
    source = torch.ones(32 * 2**20)
    copy = torch.empty_like(source)
    gemm_s = _best(lambda: torch.mm(a, b, out=out), threads, repeats)
    copy_s = _best(lambda: copy.copy_(source), threads, repeats)
    return Roofline(2 * n**3 / gemm_s / 1e9, 2 * source.nbytes / copy_s / 1e9, threads)


def _best(call: Callable[[], object], threads: int, repeats: int) -> float:
    """Shortest of `repeats` runs after two warm-up runs, in seconds; CPU time on one thread (see latency.py)."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times = []
    for _ in range(repeats + 2):
        start = clock()
        call()
        times.append(clock() - start)
    return float(np.min(times[2:]))
