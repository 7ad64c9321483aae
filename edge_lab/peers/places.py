"""Where the engines are: this environment, or one of those that `python tools/peers.py env NAME` makes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ENVIRONMENTS = {"peers": ".venv-peers", "litert": ".venv-litert"}
MAIN = "main"  # the environment that runs edge_lab


def interpreter(environment: str) -> Path | None:
    """The Python of an environment, or None if it was not made.

    Looked for in $EDGE_LAB_PEERS (the folder that holds the environments) if that is set; else beside the package (a
    checkout) and in the current folder.
    """
    if environment == MAIN:
        return Path(sys.executable)
    given = os.environ.get("EDGE_LAB_PEERS")
    roots = [Path(given)] if given else [Path(__file__).resolve().parents[2], Path.cwd()]
    for root in roots:
        python = root / ENVIRONMENTS[environment] / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if python.is_file():
            return python
    return None


def remedy(environment: str) -> str:
    """What to do where an environment is missing."""
    return f"not installed: python tools/peers.py env {environment}"
