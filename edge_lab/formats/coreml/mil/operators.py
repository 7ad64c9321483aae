"""All operators of Core ML that can be computed here. Import lazily: torch."""

from __future__ import annotations

from edge_lab.formats.coreml.mil import (  # noqa: F401  # importing them fills the table
    gather,
    layers,
    more,
    pool,
    recurrent,
    resize,
    shapes,
)
from edge_lab.formats.coreml.mil.table import OPERATORS


def known_operators() -> tuple[str, ...]:
    """Names of all operators in the table, sorted."""
    return tuple(sorted(OPERATORS))
