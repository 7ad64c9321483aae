"""Options of all tests and labs: `--load N` keeps N processes busy meanwhile, `--cpu-isa NAME` runs on an older CPU.

python -m pytest tests -m measured --load 4
python -m pytest tests/test_onnx.py labs/11_onnx.ipynb --nbval-lax --nbval-current-env --cpu-isa haswell
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "tests"))
from other_cpus import ISAS, MARK, busy, capped

_while_it_runs = ExitStack()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options."""
    group = parser.getgroup("other machines")
    group.addoption("--load", type=int, default=0, metavar="N", help="keep N processes busy while the tests run")
    group.addoption("--cpu-isa", choices=ISAS, help="run as on a CPU without what came after this one (x86-64 only)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Become another machine before anything is imported."""
    if hasattr(config, "workerinput"):
        return  # workers of pytest-xdist have the variables and the load of the process that started them
    name = config.getoption("--cpu-isa")
    if name and os.environ.get(MARK) != name:
        _start_again(config, capped(name))
    _while_it_runs.enter_context(busy(config.getoption("--load")))


def pytest_unconfigure() -> None:
    """End the load; also after Ctrl-C."""
    _while_it_runs.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say on which machine the tests think that they are."""
    lines = [f"load: {number} busy processes"] if (number := config.getoption("--load")) else []
    if name := config.getoption("--cpu-isa"):
        whole = "every engine" if os.environ.get("EDGE_LAB_CPUID_OFF") else "PyTorch only: cpuid can't be hidden here"
        lines.append(f"CPU: as {name} ({whole})")
    return lines


def _start_again(config: pytest.Config, variables: dict[str, str]) -> None:
    """Pytest anew in place of this process: engines ask for the CPU when they are loaded."""
    if capture := config.pluginmanager.getplugin("capturemanager"):
        capture.stop_global_capturing()
    arguments = [sys.executable, "-m", "pytest", *map(str, config.invocation_params.args)]
    os.chdir(config.invocation_params.dir)
    os.execve(sys.executable, arguments, os.environ | variables)
