"""What the layers of a Core ML program give, by interpretation of the saved file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.formats.coreml.mil.run import load_mil


def values(bundle: Bundle, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every floating-point value of the program. The file names no modules: layers count by their order."""
    program = load_mil(bundle.program_path)
    layers = {output for _, _, output in program.layers()}
    for name, value in program.trace(**{program.inputs[0]: x}):
        if value.dtype.kind == "f":
            yield "?" if name in layers else "", value
