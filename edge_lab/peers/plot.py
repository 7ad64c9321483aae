"""The roofline picture: what every engine reaches, under what this CPU was measured to be able to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.peers.peak import Peaks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edge_lab.peers.table import PeerRow, PeerTable

_COLORS = {"fp32": "#1f5fa8", "bf16": "#8a4fb0", "int8": "#c2571a"}
_TICKS_X = [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
_TICKS_Y = [m * 10**k for k in range(-1, 5) for m in (1, 2, 5)]
_MARKS = "osD^vP*X<>"


def draw(table: PeerTable) -> Figure:
    """One panel for each number of threads; both axes logarithmic."""
    from matplotlib.figure import Figure as NewFigure

    count = max(1, len(table.peaks))
    figure = NewFigure(figsize=(4.6 * count + 1.6, 4.4), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    engines = list(dict.fromkeys(row.peer.label for row in table.rows))
    for axes, peaks in zip(panels, table.peaks, strict=False):
        _panel(axes, peaks, table, engines)
    panels[0].set_ylabel("reached, GOP/s")
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"{table.model}: {table.measured.heading}", fontsize=8, x=0.01, ha="left")
    return figure


def _panel(axes: Axes, peaks: Peaks, table: PeerTable, engines: list[str]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    points = [(table.intensity(row), row) for row in table.rows if peaks.threads in row.p50_ms]
    ridges = [value / peaks.bandwidth_gbs for roof in _COLORS if (value := peaks.of(roof))]
    spread = [x for x, _ in points] + ridges
    low, high = min(spread, default=1) / 3, max(spread, default=100) * 3
    x = np.geomspace(low, high, 200)
    for roof, color in _COLORS.items():
        value = peaks.of(roof)
        if value and any(row.peer.roof == roof for _, row in points):
            axes.plot(x, np.minimum(value, x * peaks.bandwidth_gbs), color=color, lw=1.4)
            axes.annotate(f"{roof} {value:.0f}", (high, value), color=color, fontsize=8, ha="right", va="bottom")
    for (
        at,
        row,
    ) in points:  # side by side: one kind of arithmetic has one intensity, and the marks would hide each other
        at *= 1.07 ** (engines.index(row.peer.label) - len(engines) / 2)
        reached = table.flops / (1e6 * row.p50_ms[peaks.threads])
        axes.plot(at, reached, **_style(row, engines))
    axes.set(xscale="log", yscale="log", xlabel="operations per byte moved (estimated)")
    for axis, ticks in ((axes.xaxis, _TICKS_X), (axes.yaxis, _TICKS_Y)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_title(f"{peaks.threads} thread{'s' if peaks.threads > 1 else ''}", fontsize=9)
    axes.grid(True, which="both", lw=0.3, alpha=0.5)


def _style(row: PeerRow, engines: list[str]) -> dict[str, Any]:
    """Engines differ by mark, arithmetic by colour; a hollow mark is weights of 8 bits alone."""
    color = _COLORS[row.peer.roof]
    hollow = row.precision == "int8-weights"
    return {
        "marker": _MARKS[engines.index(row.peer.label) % len(_MARKS)],
        "color": color,
        "markerfacecolor": "none" if hollow else color,
        "markersize": 6,
        "linestyle": "none",
        "label": f"{row.peer.label} {row.precision}",
    }
