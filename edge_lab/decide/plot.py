"""The front as a picture: size against latency, accuracy as colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_lab.decide.candidate import Candidate
from edge_lab.decide.choose import accuracy_of
from edge_lab.decide.pareto import Front

_GREY = "#b9c2cc"


def pareto_plot(front: Front, *, choice: Candidate | None = None, ax: Any = None, title: str = "") -> Any:
    """Draw every candidate of a front: the front with its names, the beaten small and pale, the choice ringed.

    Both axes are logarithmic, so that equal distances are equal ratios. Returns the matplotlib Axes.

    Args:
        front: of `pareto`; candidates without a size or a latency are left out.
        choice: of `recommend`.
        ax: where to draw; default: a new figure.
        title: above the picture.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    drawn = [c for c in (*front.front, *front.beaten) if c.size_mb and c.p50_ms]
    of = accuracy_of(drawn)
    colours = [of(c) for c in drawn]
    known = [c for c in colours if c is not None]
    low, high = (min(known), max(known)) if known else (0.0, 100.0)
    low = min(low, high - 1.0)  # a difference of nothing is not drawn as one of everything
    winners = {id(c) for c in front.front}
    for one, colour in zip(drawn, colours, strict=True):
        inside = id(one) in winners
        ax.scatter(
            one.size_mb,
            one.p50_ms,
            c=[_GREY if colour is None else colour],
            cmap=None if colour is None else "viridis_r",
            vmin=None if colour is None else low,
            vmax=None if colour is None else high,
            s=90 if inside else 36,
            alpha=1.0 if inside else 0.55,
            zorder=3 if inside else 2,
            edgecolor="white",
        )
    if choice is not None and choice.size_mb and choice.p50_ms:
        ax.scatter(choice.size_mb, choice.p50_ms, s=260, facecolor="none", edgecolor="#d9822b", lw=2.2, zorder=4)
    ax.set(xscale="log", yscale="log", xlabel="size, MB", ylabel="median latency, ms")
    ax.set_title(title, loc="left")
    _line(ax, [c for c in drawn if id(c) in winners])
    _names(ax, [c for c in drawn if id(c) in winners], _shared([c.name for c in drawn]))
    _ticks(ax)
    if known:
        from matplotlib.cm import ScalarMappable

        scale = ScalarMappable(plt.Normalize(low, high), "viridis_r")
        ax.figure.colorbar(scale, ax=ax, label="accuracy, %", shrink=0.8)
    return ax


def _line(ax: Any, front: Sequence[Candidate]) -> None:
    """The lower left border of what is drawn: sizes and latencies that nobody undercuts in both."""
    border, best = [], float("inf")
    for one in sorted(front, key=lambda c: (c.size_mb or 0.0, c.p50_ms or 0.0)):
        if (one.p50_ms or 0.0) < best:
            best = one.p50_ms or 0.0
            border.append(one)
    ax.plot([c.size_mb for c in border], [c.p50_ms for c in border], color=_GREY, lw=1.2, zorder=1)


def _shared(names: Sequence[str]) -> int:
    """Length of the model's name if every name begins with it, as in "model/engine-precision"."""
    models = {name.split("/")[0] for name in names if "/" in name}
    return len(models.pop()) + 1 if len(models) == 1 and all("/" in name for name in names) else 0


def _names(ax: Any, front: Sequence[Candidate], cut: int) -> None:
    """Names beside the marks, without their first `cut` letters, moved down until they no longer cover each other."""
    ax.figure.canvas.draw()
    taken: list[Any] = []
    for one in sorted(front, key=lambda c: -(c.p50_ms or 0.0)):
        for step in range(12):
            text = ax.annotate(
                one.name[cut:],
                (one.size_mb, one.p50_ms),
                xytext=(9, 4 - 11 * step),
                textcoords="offset points",
                fontsize=8,
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken) or step == 11:
                taken.append(box)
                break
            text.remove()
    ax.margins(x=0.3, y=0.15)


def _ticks(ax: Any) -> None:
    """Plain numbers on logarithmic axes."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
