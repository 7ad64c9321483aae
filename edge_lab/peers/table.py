"""The result of comparing engines: rows, the measurements behind them, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_lab.core.numbers import EQUAL_DB
from edge_lab.measure.record import Measurements
from edge_lab.peers.engines import Peer
from edge_lab.peers.peak import Peaks
from edge_lab.report.text import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edge_lab.decide import Recommendation
    from edge_lab.results.budget import Budgets


@dataclass(frozen=True)
class PeerRow:
    """One engine in one precision. What was not measured is None or absent; `problem` says why there is nothing.

    `p50_ms` is the median by thread count: CPU time on one thread, wall time on more. `share` (0-1) is what it reaches
    of this CPU's measured peak in its kind of arithmetic, by thread count. Times of loading are CPU times. Memory is in
    MB (1e6 bytes); agreement and SQNR are against float32 PyTorch; top1 and agreement are in percent of `images`.
    """

    peer: Peer
    version: str = ""
    size_mb: float | None = None
    import_ms: float | None = None
    load_ms: float | None = None
    p50_ms: Mapping[int, float] = field(default_factory=dict)
    share: Mapping[int, float] = field(default_factory=dict)
    peak_mb: float | None = None
    added_mb: float | None = None
    top1: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    images: int = 0
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Engine and precision: openvino-int8."""
        return self.peer.name

    @property
    def engine(self) -> str:
        """The engine's name: openvino."""
        return self.peer.engine

    @property
    def precision(self) -> str:
        """What it computes in, such as int8-static."""
        return self.peer.precision


@dataclass(frozen=True)
class PeerTable:
    """Every engine on one model, measured in one sitting.

    Attributes:
        model: its name.
        weights: where they are from.
        rows: in the order of `engines.PEERS`.
        measured: the same as measurements; `measured.save(path)` writes a file for `edge-lab compare`.
        peaks: of this CPU, one for each number of threads.
        flops: of one run (a multiply-add is two).
        weight_bytes: of all weights in float32.
        moved_bytes: estimate of what one run in float32 moves, weights included.
        rounds: how often each engine had its turn.
        dataset: what was run, `images` inputs of it; `calibration`: what int8 was calibrated with.
    """

    model: str
    weights: str
    rows: tuple[PeerRow, ...]
    measured: Measurements
    peaks: tuple[Peaks, ...]
    flops: int
    weight_bytes: int
    moved_bytes: int
    rounds: int
    dataset: str
    images: int
    calibration: str

    @property
    def threads(self) -> tuple[int, ...]:
        """The numbers of threads that were measured."""
        return tuple(p.threads for p in self.peaks)

    def fastest(self, threads: int = 1) -> PeerRow | None:
        """The row with the shortest median, whatever it answers; None if nothing was timed."""
        timed = [row for row in self.rows if threads in row.p50_ms]
        return min(timed, key=lambda row: row.p50_ms[threads], default=None)

    def recommend(self, threads: int = 1, budget: Budgets | None = None) -> Recommendation:
        """What to ship, whoever made it: see `edge_lab.decide.recommend`. Raises InputError if nothing was timed."""
        from edge_lab.decide import from_measurements, recommend

        return recommend(from_measurements(self.measured, threads=threads), budget)

    def intensity(self, row: PeerRow) -> float:
        """FLOP per byte moved, estimated: float32's bytes, scaled by the bits of weights and activations."""
        weights, activations = row.peer.bits
        moved = self.weight_bytes * weights / 32 + (self.moved_bytes - self.weight_bytes) * activations / 32
        return self.flops / moved

    def markdown(self) -> str:
        """A table for a README, with what it rests on below."""
        head, rows = cells(self)
        rule = ["---", "---"] + ["---:"] * (len(head) - 2)
        lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
        return "\n".join([*lines, "", *facts(self)])

    def __str__(self) -> str:
        head, rows = cells(self)
        return "\n".join([*aligned([head, *rows], left=2), "", *facts(self)])

    def plot(self) -> Figure:
        """The roofline: this CPU's measured limits as lines, every engine as a point below them."""
        from edge_lab.peers.plot import draw

        return draw(self)


def cells(table: PeerTable) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows as text."""
    threads = table.threads
    labelled = any(row.top1 is not None for row in table.rows)
    head = ["engine", "precision", "MB", "load ms"]
    head += [f"ms, {n} thread{'s' if n > 1 else ''}" for n in threads]
    head += ["peak MB", "added MB"] + (["Top-1 %"] if labelled else []) + ["agree %", "SQNR dB", "of peak"]
    return head, [_cells(row, threads, labelled) for row in table.rows]


def _cells(row: PeerRow, threads: tuple[int, ...], labelled: bool) -> list[str]:
    share = row.share.get(threads[0]) if threads else None
    return [
        row.peer.label,
        row.precision,
        _number(row.size_mb, 2),
        _number(row.load_ms, 0),
        *(_number(row.p50_ms.get(n), 2) for n in threads),
        _number(row.peak_mb, 0),
        _number(row.added_mb, 0),
        *([_number(row.top1, 1)] if labelled else []),
        _number(row.agreement, 1),
        "equal" if row.sqnr_db is not None and row.sqnr_db >= EQUAL_DB else _number(row.sqnr_db, 1),
        "–" if share is None else f"{100 * share:.0f} % of {row.peer.roof}",
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def facts(table: PeerTable) -> list[str]:
    """What the numbers rest on, problems and notes first."""
    lines = [f"- {row.name}: {row.problem}." for row in table.rows if row.problem]
    said: dict[str, list[str]] = {}
    for row in table.rows:
        for note in row.notes:
            said.setdefault(note, []).append(row.name)
    lines += [f"- {', '.join(names)}: {note}." for note, names in said.items()]
    for p in table.peaks:
        roofs = [f"{name} {value:.0f}" for name in ("fp32", "bf16", "int8") if (value := p.of(name)) is not None]
        roofs.append(f"memory {p.bandwidth_gbs:.0f} GB/s")
        lines.append(f"- peak on {p.threads} thread(s), measured: {', '.join(roofs)} (GOP/s of a 1024³ product)")
    lines += [
        f"- {table.model}, weights {table.weights}, {table.flops / 1e9:.3f} GFLOP a picture; "
        f"{table.images} inputs of {table.dataset}, int8 calibrated with {table.calibration}",
        f"- {table.rounds} rounds, every engine in a process of its own, in shuffled turns; "
        "ms: median; one thread: CPU time, pinned to one core; more: wall time",
        f"- {table.measured.heading}",
    ]
    return lines
