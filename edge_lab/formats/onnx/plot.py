"""A picture of an ONNX graph, or of one module of it, without Graphviz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lab.core.errors import InputError
from edge_lab.formats.onnx.file import operator
from edge_lab.formats.onnx.ort import refusal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LIMIT = 60  # boxes that a person can still follow
_COLORS = {"weights": "#0072b2", "rounding": "#999999", "border": "#ffffff", "other": "#e69f00"}
_ROUNDING = ("QuantizeLinear", "DequantizeLinear", "Cast")


@dataclass(frozen=True)
class Box:
    """One operator of a drawing.

    Attributes:
        label: text, short lines.
        inputs: places in the list of the boxes that it reads from.
        kind: "weights", "rounding", "border" (what enters and leaves) or "other": its colour.
    """

    label: str
    inputs: tuple[int, ...]
    kind: str = "other"


def graph_plot(path: Path | str, module: str = "") -> Figure:
    """Draw the operators of an .onnx file from left to right, as the data passes them.

    Args:
        path: the file.
        module: only what came from this module ("blocks.2.1"), as torch's exporter notes it. A batch norm that was
            folded into a convolution has the name of the batch norm.

    Returns:
        A matplotlib Figure; in a notebook it shows itself as the last line of a cell.

    Raises:
        BundleError: the file can't be read.
        InputError: the file knows no such module, or more than 60 operators would be drawn.
    """
    import onnx

    path = Path(path)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's and the operating system's
        raise refusal(path, error) from error
    scopes: dict[str, tuple[str, ...]] = {}
    for node in graph.node:  # what a later tool has put in (a rounding) belongs to what stands before it
        before = next((scopes[name] for name in node.input if name in scopes), ())
        scopes |= dict.fromkeys(node.output, _scopes(node) or before)
    chosen = [node for node in graph.node if not module or module in scopes[node.output[0]]]
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:  # weights in integers are stored values, too, and not worth a box
        if node.input and all(name in stored for name in node.input if name):
            stored[node.output[0]] = stored[node.input[0]]
            chosen = [other for other in chosen if other.output != node.output]
    if not chosen or len(chosen) > _LIMIT:
        known = sorted(
            {scope for found in scopes.values() for scope in found if scope}, key=lambda s: (s.count("."), s)
        )
        raise InputError(
            f"{path.name} has {len(chosen)} operators" + (f" of a module {module!r}." if module else "."),
            f"from 1 to {_LIMIT} can be drawn.",
            "pass a module: " + ", ".join(known[:8]) if known else "the file does not say which modules it has.",
        )
    title = f"{path.parent.name}/{path.name}" + (f", {module}" if module else "")
    return plot_boxes(_boxes(chosen, stored, graph), title)


def _scopes(node: Any) -> tuple[str, ...]:
    note = next((e.value for e in node.metadata_props if e.key == "pkg.torch.onnx.name_scopes"), "")
    return tuple(part.strip(" '\"") for part in note.strip("[]").split(","))[:-1]


def _boxes(nodes: Sequence[Any], stored: dict[str, tuple[int, ...]], graph: Any) -> list[Box]:
    boxes: list[Box] = []
    made: dict[str, int] = {}
    for node in nodes:
        values = [name for name in node.input if name and name not in stored]
        for name in values:
            if name not in made:
                made[name] = len(boxes)
                boxes.append(Box("in", (), "border"))
        weights = [stored[name] for name in node.input[1:] if name in stored and len(stored[name]) > 1]
        label = operator(node).replace("Linear", "").replace("::", "::\n")
        kind = "rounding" if node.op_type in _ROUNDING else "weights" if weights else "other"
        if weights:
            label += "\n" + "×".join(map(str, weights[0]))
        made |= {name: len(boxes) for name in node.output}
        boxes.append(Box(label, tuple(dict.fromkeys(made[name] for name in values)), kind))
    read = {name for node in nodes for name in node.input}
    leaving = [name for node in nodes for name in node.output if name and name not in read]
    return [*boxes, *(Box("out", (made[name],), "border") for name in leaving)]


def plot_boxes(boxes: Sequence[Box], title: str = "") -> Figure:
    """Draw boxes that are sorted so that each comes after what it reads: depth to the right, branches below."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    places = _places(boxes)
    wide, high = (max(place[i] for place in places) + 1 for i in (0, 1))
    figure, axes = plt.subplots(figsize=(min(14, max(4, 1.15 * wide)), 0.9 + 0.75 * high), layout="constrained")
    small = 7 if wide <= 13 else 90 / wide
    texts = []
    for box, (x, y) in zip(boxes, places, strict=True):
        color = _COLORS.get(box.kind, _COLORS["other"])
        look = {"boxstyle": "round,pad=0.35", "fc": color + "33" if box.kind != "border" else color, "ec": color}
        if box.kind == "border":
            look["ec"] = _COLORS["rounding"]
        texts.append(axes.text(x, -y, box.label, ha="center", va="center", fontsize=small, bbox=look))
    axes.set_xlim(-0.6, wide - 0.4)
    axes.set_ylim(-high + 0.4, 0.75)
    axes.set_title(title, loc="left", fontsize=10)
    axes.axis("off")
    figure.draw_without_rendering()  # so that arrows know where the boxes end
    for i, box in enumerate(boxes):
        for source in box.inputs:
            _arrow(axes, places[source], places[i], places, [texts[j].get_bbox_patch() for j in (source, i)])
    plt.close(figure)  # a notebook shows what a cell returns, and would show an open figure a second time
    assert isinstance(figure, Figure)
    return figure


def _places(boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Column (longest way from an input) and row of each box: the row of what it reads, or the next free one."""
    places: list[tuple[int, int]] = []
    for box in boxes:
        column = 1 + max((places[i][0] for i in box.inputs), default=-1)
        row = min((places[i][1] for i in box.inputs), default=0)
        while (column, row) in places:
            row += 1
        places.append((column, row))
    return places


def _arrow(
    axes: Any, start: tuple[int, int], end: tuple[int, int], places: Sequence[tuple[int, int]], patches: Sequence[Any]
) -> None:
    crossed = any(y == start[1] == end[1] and start[0] < x < end[0] for x, y in places)
    far = end[0] - start[0]
    bend = -min(0.45, 1.1 / far) if crossed else 0.0
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": "#555555", "lw": 0.8, "shrinkA": 1, "shrinkB": 1}
    style |= {"connectionstyle": f"arc3,rad={bend}", "patchA": patches[0], "patchB": patches[1]}
    axes.annotate("", (end[0], -end[1]), (start[0], -start[1]), arrowprops=style)
