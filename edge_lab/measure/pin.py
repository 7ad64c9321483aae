"""Bind this process to cores, so that the scheduler does not move it in the middle of a sample."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...] | None]:
    """Bind every thread of this process, and those it starts meanwhile, to the `threads` idlest of its cores.

    Yields the cores' numbers, or None where binding is not possible (macOS, fewer cores than threads): then nothing is
    bound. Threads that an engine started inside the block stay bound; the rest get their cores back.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(allowed) <= threads:  # nothing to choose from: all of them, as it is
        yield tuple(allowed) if len(allowed) == threads else None
        return
    cores = _idlest(allowed, threads)
    before = {thread: os.sched_getaffinity(thread) for thread in _threads()}
    _bind(before, {thread: set(cores) for thread in before})
    try:
        yield cores
    finally:
        _bind(before, before)


def _idlest(allowed: list[int], count: int) -> tuple[int, ...]:
    import psutil

    used = psutil.cpu_percent(interval=0.2, percpu=True)
    order = sorted(allowed, key=lambda core: used[core] if core < len(used) else 100.0)
    return tuple(sorted(order[:count]))


def _threads() -> list[int]:
    import psutil

    return [thread.id for thread in psutil.Process().threads()]


def _bind(threads: dict[int, set[int]], cores: dict[int, set[int]]) -> None:
    for thread in threads:
        try:
            os.sched_setaffinity(thread, cores[thread])
        except OSError:  # it ended meanwhile
            continue
