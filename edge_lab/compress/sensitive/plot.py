"""The picture of a sensitivity report. Imports matplotlib inside the function."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edge_lab.compress.sensitive.report import LayerSensitivity, Sensitivity

_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "#999999"
_NAMED = 3
_CUT = 0.5


def draw(report: Sensitivity, against: Sensitivity | None) -> Figure:
    """Two panels over the layers of the network: error so far (line), and each layer's own damage (bars)."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    layers = report.in_order
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    place = {(layer.name, layer.kind): i for i, layer in reversed(list(enumerate(layers)))}
    if against is not None:
        others = [layer for layer in against.in_order if (layer.name, layer.kind) in place]
        where = [place[layer.name, layer.kind] for layer in others]
        above.plot(where, [_drawn(x.output_db) for x in others], color=_GREY, label=_recipe(against))
        below.plot(where, [_error(x.own_db) for x in others], "_", color=_GREY, markersize=7)
    above.plot([_drawn(x.output_db) for x in layers], color=_BLUE, label=_recipe(report))
    cut = [i for i, x in enumerate(layers) if x.cut > _CUT]
    if cut:
        label = "rounded before a clamp that cuts off more than half of the range"
        above.plot(cut, [_drawn(layers[i].output_db) for i in cut], "o", color=_RED, markersize=4, label=label)
    colors = [_RED if x.cut > _CUT else _BLUE for x in layers]
    below.bar(range(len(layers)), [_error(x.own_db) for x in layers], color=colors, width=0.7)
    _name_the_worst(below, report, layers)
    above.set_title(f"{report.model}, all layers in int8: SQNR of each layer's output", loc="left", fontsize=10)
    below.set_title("One layer alone in int8: error of the network's output", loc="left", fontsize=10)
    above.set_ylabel("dB (lower is worse)", fontsize=8)
    below.set_ylabel("% of the output (higher is worse)", fontsize=8)
    for axes in (above, below):
        axes.set_ylim(min(0, axes.get_ylim()[0]), axes.get_ylim()[1] * 1.15)
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(fontsize=8, frameon=False)
    step = max(1, len(layers) // 24)
    names = [x.name or x.kind for x in layers[::step]]
    below.set_xticks(range(0, len(layers), step), names, rotation=60, ha="right", fontsize=7)
    plt.close(figure)  # a notebook shows what a cell returns, and would show an open figure a second time
    assert isinstance(figure, Figure)
    return figure


def _name_the_worst(axes: Any, report: Sensitivity, layers: tuple[LayerSensitivity, ...]) -> None:
    for layer in report.layers[:_NAMED]:
        place = layers.index(layer)
        side, space = ("right", -4) if place > len(layers) / 2 else ("left", 4)
        axes.annotate(
            layer.name or layer.kind,
            (place, _error(layer.own_db)),
            (space, -2),
            textcoords="offset points",
            fontsize=7,
            ha=side,
            va="bottom",
        )


def _recipe(report: Sensitivity) -> str:
    return f"{report.output_db:.1f} dB at the output"


def _error(db: float) -> float:
    """RMS error as a percentage of the RMS value: 20 dB are 10 %."""
    return float(100 * 10 ** (-db / 20))


def _drawn(db: float) -> float:
    """Infinite values (equal tensors) are drawn as gaps."""
    return db if isfinite(db) else float("nan")
