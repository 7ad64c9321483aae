"""What ONNX Runtime makes of a graph before it runs it, at each of its optimisation levels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_lab.formats.onnx.file import OnnxFile, described
from edge_lab.formats.onnx.ort import LEVELS, Level, open_session


def optimized(path: Path | str, level: Level = "all") -> OnnxFile:
    """What ONNX Runtime makes of an .onnx file on this computer before it runs it.

    `operators` counts what is left: fused operators have names of other domains ("com.microsoft::FusedConv"), and at
    level "all" they depend on the processor. The optimised graph itself is not kept; `path` is the original.

    Raises:
        InputError: no such level.
        BundleError: the file can't be used.
    """
    import onnx

    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "optimized.onnx"
        open_session(path, level=level, save=saved)
        model = onnx.load(saved, load_external_data=False)
    return described(path, model)


def level_table(path: Path | str, levels: Sequence[Level] = LEVELS) -> str:
    """How often each operator occurs at each level, as text; "file" is the graph as it was written."""
    import onnx

    path = Path(path)
    columns = {"file": described(path, onnx.load(path, load_external_data=False)).operators}
    columns |= {level: optimized(path, level).operators for level in levels}
    names = list(dict.fromkeys(name for counts in columns.values() for name in counts))
    width = max(len(name) for name in [*names, "all operators"])
    lines = [" " * width + "".join(f"{column:>10}" for column in columns)]
    for name in names:
        lines.append(f"{name:{width}}" + "".join(f"{counts.get(name, 0) or '·':>10}" for counts in columns.values()))
    return "\n".join(
        [*lines, f"{'all operators':{width}}" + "".join(f"{sum(c.values()):10}" for c in columns.values())]
    )
