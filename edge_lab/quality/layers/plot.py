"""The picture of a divergence report. Imports matplotlib inside the function."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edge_lab.quality.layers.report import Divergence

_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "#999999"


def draw(report: Divergence) -> Figure:
    """SQNR along the network; the threshold; the first layer below it in red. Equal layers are gaps in the line."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    levels = [layer.sqnr_db if isfinite(layer.sqnr_db) else float("nan") for layer in report.layers]
    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    axes.plot(levels, "o-", color=_BLUE, markersize=3, linewidth=1)
    axes.axhline(report.threshold_db, color=_GREY, linestyle="--", linewidth=1)
    first = report.first
    if first is not None:
        height = first.sqnr_db if isfinite(first.sqnr_db) else 0.0
        axes.plot([first.order], [height], "o", color=_RED, markersize=7)
        late = first.order > len(levels) / 2
        axes.annotate(
            f"{first.name or first.kind}: {height:.1f} dB",
            (first.order, height),
            (-8 if late else 8, 6),
            textcoords="offset points",
            fontsize=8,
            color=_RED,
            ha="right" if late else "left",
            bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8},
        )
    axes.set_title(f"{report.program}: output of each layer against PyTorch", loc="left", fontsize=10)
    axes.set_ylabel("SQNR, dB (lower is worse)", fontsize=8)
    axes.set_ylim(min(0, axes.get_ylim()[0]), axes.get_ylim()[1] * 1.1)
    axes.spines[["top", "right"]].set_visible(False)
    step = max(1, len(levels) // 24)
    names = [layer.name or layer.kind for layer in report.layers[::step]]
    axes.set_xticks(range(0, len(levels), step), names, rotation=60, ha="right", fontsize=7)
    plt.close(figure)  # a notebook shows what a cell returns, and would show an open figure a second time
    assert isinstance(figure, Figure)
    return figure
