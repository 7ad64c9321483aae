"""Progress on stderr: one line a step, with the time since the start."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints `[ 12 s] text` lines; silent if `enabled` is False."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print one line."""
        if self.enabled:
            print(f"[{time.monotonic() - self.started:4.0f} s] {text}", file=sys.stderr, flush=True)

    def step(self, number: int, total: int, name: str, text: str) -> None:
        """Print that step `number` of `total` is done."""
        self(f"{number}/{total} {name:24} {text}")
