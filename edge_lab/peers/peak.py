"""What this CPU can do at best, for each kind of arithmetic that an engine may use: the roofs of the picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edge_lab.measure.peaks import roofline

_N = 1024


@dataclass(frozen=True)
class Peaks:
    """Measured on `threads` threads: giga-operations per second of a 1024^3 matrix product, GB/s of a 128 MB copy.

    fp32 and bf16 by torch.mm, int8 by torch._int_mm (int8 in, int32 out); a multiply-add is two operations. None: not
    possible here.
    """

    threads: int
    fp32: float
    bf16: float | None
    int8: float | None
    bandwidth_gbs: float

    def of(self, roof: str) -> float | None:
        """The peak of "fp32", "bf16" or "int8"."""
        value: float | None = getattr(self, roof)
        return value

    def best(self, other: Peaks) -> Peaks:
        """The higher of each: a limit is asked for, and what disturbs makes it look lower."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in ("fp32", "bf16", "int8")}
        highest = {name: max((v for v in pair if v is not None), default=None) for name, pair in pairs.items()}
        bandwidth = max(self.bandwidth_gbs, other.bandwidth_gbs)
        return Peaks(self.threads, highest["fp32"] or self.fp32, highest["bf16"], highest["int8"], bandwidth)


def peaks(threads: int = 1, *, repeats: int = 30) -> Peaks:
    """Measure them with PyTorch, best of `repeats`; about two seconds. PyTorch's thread count stays at `threads`."""
    import torch

    base = roofline(threads, repeats=repeats)
    half = [torch.rand(_N, _N).to(torch.bfloat16) for _ in range(2)]
    whole = [torch.randint(-128, 127, (_N, _N), dtype=torch.int8) for _ in range(2)]
    return Peaks(
        threads,
        base.peak_gflops,
        _gops(torch.mm, half, threads, repeats),
        _gops(torch._int_mm, whole, threads, repeats),
        base.bandwidth_gbs,
    )


def _gops(product: Any, matrices: list[Any], threads: int, repeats: int) -> float | None:
    clock = time.process_time if threads == 1 else time.perf_counter
    best = float("inf")
    try:
        for _ in range(repeats):
            begin = clock()
            product(*matrices)
            best = min(best, clock() - begin)
    except RuntimeError:  # a processor or a build of PyTorch without it
        return None
    return 2 * _N**3 / best / 1e9
