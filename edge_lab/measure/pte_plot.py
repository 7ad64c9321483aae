"""A picture of the memory that an ExecuTorch program has planned ahead."""

from __future__ import annotations

from typing import Any

from edge_lab.core.errors import InputError
from edge_lab.formats.pte.file import DELEGATE, Planned, PteReport

_COLORS = {"input": "#7a9e7e", "output": "#d9822b", "inside": "#2f6f9f"}
_NAMED = 0.055  # of the arena's height: smaller tensors get no name


def memory_plot(report: PteReport, *, method: str = "forward", buffer: int = 1, ax: Any = None) -> Any:
    """Draw an arena: time (instructions) to the right, addresses upwards, one box for each tensor.

    Boxes never overlap. Where one stands above the end of another, the memory is used again. A delegate keeps its own
    memory for what is inside it: that part is not in the file and not in this picture.

    Returns:
        The matplotlib Axes.

    Raises:
        InputError: no such method or buffer.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch, Rectangle

    found = next((m for m in report.methods if m.name == method), None)
    if found is None or not 1 <= buffer <= len(found.arena):
        raise InputError(
            f"{report.path.name} has no arena {buffer} of a method {method!r}.",
            f"it has {', '.join(f'{m.name} with {len(m.arena)}' for m in report.methods)}.",
            "name one of these.",
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    height = found.arena[buffer - 1] / 1e3
    end = max(1, len(found.instructions))
    for tensor in (p for p in found.planned if p.buffer == buffer):
        box = (tensor.first, tensor.offset / 1e3), tensor.last + 1 - tensor.first, tensor.bytes / 1e3
        color = _COLORS[_kind(tensor, len(found.instructions), found.outputs)]
        ax.add_patch(Rectangle(*box, facecolor=color, edgecolor="white", linewidth=0.8))
        if tensor.bytes / 1e3 > _NAMED * height:
            middle = (tensor.first + (tensor.last + 1 - tensor.first) / 2, (tensor.offset + tensor.bytes / 2) / 1e3)
            text = _short(tensor.made_by) if box[1] > end / 8 or end < 12 else ""
            ax.text(*middle, text, ha="center", va="center", fontsize=7, color="white", clip_on=True)
    ax.set(xlim=(0, end), ylim=(0, 1.02 * height), xlabel="instruction", ylabel="address, kB")
    ax.legend(handles=[Patch(color=c, label=k) for k, c in _COLORS.items()], fontsize=7, loc="upper right")
    ax.set_title(f"{report.path.name}: {height:.0f} kB planned ahead", loc="left")
    return ax


def _kind(tensor: Planned, steps: int, outputs: tuple[Any, ...]) -> str:
    if tensor.made_by == "input":
        return "input"
    return "output" if tensor.last == steps - 1 and tensor.tensor in outputs else "inside"


def _short(name: str) -> str:
    return name.removeprefix(DELEGATE).removeprefix("aten::").split(".")[0].removesuffix("_copy")
