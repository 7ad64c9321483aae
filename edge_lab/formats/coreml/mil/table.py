"""The table of Core ML operators that `edge_lab.formats.coreml.mil.run` can compute. Import lazily: torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Inputs = dict[str, Any]  # by name: tensors, or plain numbers, strings and lists for constants
Operator = Callable[[Inputs], Any]

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function under the MIL names of the operators that it computes."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def plain(values: Any) -> list[Any]:
    """A constant list of numbers or flags as a Python list."""
    return values.tolist() if isinstance(values, Tensor) else [v.item() if hasattr(v, "item") else v for v in values]
