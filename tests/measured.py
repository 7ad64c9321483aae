"""Which tests look at times, memory or rounding of this machine: read from their code, so that none is forgotten."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

CLOCKS = ("sleep", "perf_counter", "monotonic", "process_time")
CALLS = {"latency", "interleaved", "fresh", "cold_start", "roofline", "profile", "energy", "bench", *CLOCKS}
FIGURES = re.compile(r"(_ms|_mb|_gflops|_gbs|_s|watts|joules|busy)$|sqnr|decibels|\bdb$")
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@cache
def measured(file: Path) -> frozenset[str]:
    """Names of the tests in a file that call a clock, or hold a time, a size in memory or decibels against a limit."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tests = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    return frozenset(test.name for test in tests if any(map(_measures, ast.walk(test))))


def _measures(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _name(node.func) in CALLS
    if isinstance(node, ast.Compare) and any(isinstance(operator, _ORDER) for operator in node.ops):
        return any(FIGURES.search(_name(part)) for part in ast.walk(node))
    return False


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
