"""Programs that a test needs and a Python package can't bring: a missing one skips the test in one line.

On a build machine (`EDGE_LAB_ALL_TOOLS=1`, which .ci/run sets after `make native-tools`) nothing may skip: it fails.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def tool(*names: str, package: str) -> str:
    """Path of the first of `names` that is installed; skips (or fails) with the Debian `package` that has it."""
    beside_python = Path(sys.prefix) / "bin"  # cmake and ninja of the lock
    path = f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}"
    found = next((place for name in names if (place := shutil.which(name, path=path))), None)
    if found is None:
        missing(
            f"{names[0]} is not installed (Debian: {package}; all of them: make native-tools arm-tools speech-tools)"
        )
    return found


def missing(sentence: str) -> NoReturn:
    """Skip with this sentence, or fail where every tool must be there."""
    if os.environ.get("EDGE_LAB_ALL_TOOLS"):
        pytest.fail(sentence)
    pytest.skip(sentence)
