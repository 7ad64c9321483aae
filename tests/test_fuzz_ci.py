"""Sixteen random networks of a fixed seed, each on three formats in turn: right, or refused with a cause and a fix."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
SEED, DRAWN, TRIED, EACH = 7, 64, 16, 3  # 64 are drawn: the first of them are the simplest

pytestmark = pytest.mark.slow


def _tool(name: str) -> ModuleType:
    sys.path.append(str(TOOLS))  # at the end: another package may be called `coverage`
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


def test_right_or_refused() -> None:
    """The first network pays for half a minute of imports, so all of them share one worker and one test."""
    fuzz, check, worker = map(_tool, ("fuzz", "fuzz_check", "fuzz_worker"))
    networks = [net for net in fuzz.draw(SEED, 0, DRAWN) if not net.second_input][-TRIED:]
    assert len(networks) == TRIED
    asked, found, compared = worker.Worker(), list[Any](), 0
    try:
        for i, net in enumerate(networks):
            targets = [check.TARGETS[(EACH * i + j) % len(check.TARGETS)] for j in range(EACH)]
            cells = asked.ask(net, targets)
            if isinstance(cells, str):  # says nothing
                continue
            compared += sum(cell.verdict in ("right", "low") for cell in cells.values())
            found += [
                f"{cell.verdict} on {target}: {cell.text}\n{fuzz.script(net, target)}"
                for target, cell in cells.items()
                if cell.verdict in check.FINDINGS
            ]
    finally:
        asked.close()
    assert not found, "\n\n".join(found)
    assert compared > TRIED * EACH / 2
