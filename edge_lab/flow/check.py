"""Is this bundle fit to ship? Intact, runs here, answers as recorded and as PyTorch does, and keeps its budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab.bundle.folder import MANIFEST, Bundle
from edge_lab.core.errors import BundleError, EdgeLabError, InputError, MissingTool
from edge_lab.data import ImageSet
from edge_lab.export.gate import compare, limits_of, nearness
from edge_lab.formats.c.boards import fits
from edge_lab.formats.runtime import Session, load
from edge_lab.results.budget import Budgets, load_budget
from edge_lab.results.budget import check as verdicts_of
from edge_lab.results.result import TargetResult, Verdict

_ROUNDS = 30


@dataclass(frozen=True)
class Line:
    """One thing that was looked at; `ok` None: it could not be looked at on this machine."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Checked:
    """All lines of a check, and the budget verdicts that follow from what was measured."""

    bundle: str
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...] = ()

    @property
    def _marks(self) -> list[bool | None]:
        return [line.ok for line in self.lines] + [verdict.ok for verdict in self.verdicts]

    @property
    def ok(self) -> bool:
        """Nothing failed. What could not be measured here does not count; see `complete`."""
        return all(ok is not False for ok in self._marks)

    @property
    def complete(self) -> bool:
        """Everything was measured and nothing failed."""
        return all(ok is True for ok in self._marks)


def check(
    bundle: Path | str,
    *,
    budget: Path | Budgets | None = None,
    against: Path | str | None = None,
    images: str | ImageSet | None = None,
    limit: int | None = None,
    board: str | None = None,
    allow_divergence: bool = False,
) -> Checked:
    """Check a bundle the way a build does before it ships.

    Args:
        bundle: its folder.
        budget: a budgets.toml, or Budgets; default: the package's defaults (50 MB).
        against: another bundle, usually the fp32 one. Ratios, losses, agreement and SQNR refer to it. Without it,
            agreement and SQNR are the ones `edge-lab run` recorded in the bundle, and ratios can't be measured.
        images: a data set name or a folder to measure Top-1 on (and agreement, with `against`).
        limit: at most so many images.
        board: a microcontroller board whose memory the bundle must fit (`boards.boards()`).
        allow_divergence: let pass a program that answers differently from PyTorch, if its bundle says that this was
            allowed when it was written.

    Raises:
        BundleError: there is no bundle at this path. A damaged one is a failed line, not an error.
        InputError, DataError: the budget file or the images are unusable.
    """
    path = Path(bundle)
    budgets = budget if isinstance(budget, Budgets) else load_budget(budget) if budget else Budgets()
    try:
        opened = Bundle.load(path)
    except BundleError as error:
        if not (path / MANIFEST).is_file():
            raise
        return Checked(str(path), (Line("intact", False, f"{error.what} {error.why}"),))
    lines = [Line("intact", True, f"{len(opened.files)} checksums, schema, {opened.runtime.package}")]
    row = _recorded(opened)
    if board is not None:
        need = fits(opened, board)
        lines.append(Line("board", need.ok, str(need)))
    session, line = _session(opened)
    lines.append(line)
    reference = None
    if session is not None:
        lines += [golden(opened, session), parity(opened, session, allow_divergence)]
        row, fresh = _fresh(row, path)
        lines.append(fresh)
        row, reference, labelled = _measured(row, session, opened, against, images, limit)
        verdicts = verdicts_of(row, reference, budgets, labelled=labelled)
    else:
        lines += _interpreted(opened, allow_divergence)
        if against is not None:
            reference = _recorded(Bundle.load(against))
        verdicts = verdicts_of(row, reference, budgets)
    return Checked(opened.name, tuple(lines), verdicts)


def golden(bundle: Bundle, session: Session) -> Line:
    """Run the golden vectors: every output must be finite and within the recorded tolerance."""
    worst, good, count = (0.0, 0.0, ""), 0, 0  # share of its tolerance, difference, where
    for case, x, expected in bundle.golden_cases():
        outputs = session.run(x)
        count += 1
        if len(outputs) != len(expected) or any(o.shape != e.shape for o, e in zip(outputs, expected, strict=False)):
            return Line("golden", False, f"case {count} has outputs of another number or shape than recorded")
        shares = []
        for output, exact, allowed, spec in zip(outputs, expected, case.tolerances, bundle.outputs, strict=True):
            difference = float(np.max(np.abs(output.astype(np.float64) - exact.astype(np.float64)), initial=0))
            where = f" of {spec.name}" if len(expected) > 1 else ""
            shares.append((difference / allowed, difference, f"{where}, allowed {allowed:.2g}"))
        good += all(share <= 1 for share, _, _ in shares)  # NaN stays NaN, and fails
        worst = max([worst, *shares], key=lambda found: inf if found[0] != found[0] else found[0])
    if not count:
        return Line("golden", False, "the bundle holds no golden vectors: nothing says what it should answer")
    detail = f"{good} of {count} within tolerance; largest difference {worst[1]:.2g}{worst[2]}"
    return Line("golden", good == count, detail)


def parity(bundle: Bundle, session: Session, allow_divergence: bool = False) -> Line:
    """Run the golden inputs and compare with what the PyTorch model answers, by the limits of `to`, per output."""
    cases = list(bundle.eager_cases())
    if not cases:
        return Line("as PyTorch", None, "it holds no answers of the PyTorch model: export it again to compare")
    names = [output.name for output in bundle.outputs]
    outputs = [session.run(x) for x, _ in cases]
    here = compare(names, [exact for _, exact in cases], outputs, limits_of(bundle))
    written = bundle.parity.outputs if bundle.parity else ()
    found = min((*here, *written), key=lambda output: output.sqnr_db - output.limit_db)
    detail = f"{found.sqnr_db:.1f} dB on {len(cases)} golden inputs, at least {found.limit_db:g}"
    detail += f" (output {found.name!r} of {len(names)})" if len(names) > 1 else ""
    if found.ok:
        return Line("as PyTorch", True, detail)
    if bundle.parity is not None and bundle.parity.allowed:
        return Line(
            "as PyTorch", allow_divergence, f"{detail}; {bundle.parity.starts_at or 'cause not known'}; allowed"
        )
    noted = [output for output in written if not output.ok]
    return Line("as PyTorch", False, f"{detail}; seen on {bundle.parity.inputs}" if noted and bundle.parity else detail)


def _recorded(bundle: Bundle) -> TargetResult:
    """The row of a bundle from what it says itself."""

    def number(name: str) -> float | None:
        value = bundle.metrics.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    return TargetResult(
        bundle.target,
        bundle.runtime.format,
        bundle.quantization.scheme,
        bundle=str(bundle.path),
        size_mb=bundle.program_bytes / 1e6,
        delegated=bundle.runtime.delegated,
        top1=number("top1"),
        top5=number("top5"),
        agreement=number("agreement"),
        answers=int(number("answers") or 0) or None,
        sqnr_db=number("sqnr_db"),
    )


def _session(bundle: Bundle) -> tuple[Session | None, Line]:
    try:
        session = load(bundle)
    except MissingTool as error:
        return None, Line("runs here", None, f"{error.what} {error.why}")
    except BundleError as error:
        return None, Line("runs here", False, f"{error.what} {error.why}")
    return session, Line("runs here", True, session.engine)


def _interpreted(bundle: Bundle, allow_divergence: bool) -> list[Line]:
    """The golden vectors of a program that can't run here, by interpretation of its file."""
    from edge_lab.formats.coreml.mil.run import BACKENDS, interpret

    if bundle.runtime.backend not in BACKENDS:
        return [Line("as PyTorch", None, "not compared: the program neither runs nor is interpreted here")]
    try:
        session = interpret(bundle)
        line, same = golden(bundle, session), parity(bundle, session, allow_divergence)
    except BundleError as error:  # an operator that the interpreter does not know: no verdict
        return [Line("interpreted", None, f"{error.what} {error.why}")]
    return [Line("interpreted", line.ok, line.detail), same]


def _fresh(row: TargetResult, path: Path) -> tuple[TargetResult, Line]:
    """Start-up and memory, from a process of its own."""
    from edge_lab.measure.cold import fresh

    try:
        found = fresh(path)
    except EdgeLabError as error:
        return row, Line("fresh process", False, f"{error.what} {error.why}")
    cold, memory = found.cpu, found.memory
    row = replace(row, load_ms=cold.load_ms, first_ms=cold.first_ms, peak_mb=memory.peak_mb, delta_mb=memory.delta_mb)
    return row, Line("fresh process", True, f"loads in {cold.load_ms:.0f} ms, adds {memory.delta_mb:.0f} MB of memory")


def _measured(
    row: TargetResult,
    session: Session,
    bundle: Bundle,
    against: Path | str | None,
    images: str | ImageSet | None,
    limit: int | None,
) -> tuple[TargetResult, TargetResult | None, int | None]:
    """Time the program (beside the reference, if there is one) and, given images, measure its answers."""
    from edge_lab.measure.timing import interleaved

    x = next(iter(bundle.golden_cases()))[1] if bundle.golden else np.zeros(bundle.spec.input.shape, np.float32)
    other = load(against) if against is not None else None
    calls: dict[str, Any] = {"this": lambda: session.run(x)}
    reference = None
    if other is not None:
        if other.spec.input.shape != bundle.spec.input.shape:
            raise InputError(
                f"{other.name} takes {other.spec.input.shape}, {bundle.name} takes {bundle.spec.input.shape}.",
                "two programs can be compared only on the same inputs.",
                "pass the fp32 bundle of the same model to --against.",
            )
        reference = _recorded(Bundle.load(against or "", verify=False))
        calls["other"] = lambda: other.run(x)
    times = interleaved(calls, rounds=_ROUNDS, threads=1)
    row = replace(row, p50_ms=times["this"].p50_ms, p90_ms=times["this"].p90_ms, samples_ms=times["this"].samples_ms)
    if reference is not None:
        reference = replace(reference, p50_ms=times["other"].p50_ms, p90_ms=times["other"].p90_ms)
    labelled = None
    if images is not None:
        row, reference, labelled = _answers(row, reference, {"this": session, "other": other}, images, limit)
    return row, reference, labelled


def _answers(
    row: TargetResult,
    reference: TargetResult | None,
    sessions: Mapping[str, Session | None],
    images: str | ImageSet,
    limit: int | None,
) -> tuple[TargetResult, TargetResult | None, int | None]:
    """On the given images: Top-1 where labels fit; agreement, and SQNR of the furthest output, with the reference."""
    from edge_lab.flow.inputs import image_set
    from edge_lab.quality.accuracy import prepare, score
    from edge_lab.quality.agreement import every_output
    from edge_lab.quality.agreement import parity as closeness

    session, other = sessions["this"], sessions["other"]
    assert session is not None
    spec = session.spec
    if spec.preprocess is None:
        takes = "recordings" if spec.audio is not None else "ready tensors"
        raise InputError(
            f"{spec.name} takes {takes}, so images are no use to it.",
            "its bundle has no image preprocessing.",
            "leave --images out: its golden inputs are run in any case.",
        )
    chosen = image_set(images)
    chosen = chosen.take(limit) if limit else chosen
    inputs = prepare(chosen, spec)
    each = [inputs.x[i : i + 1] for i in range(len(inputs.x))]
    outputs = every_output(session, each)
    known = spec.task == "classify" and chosen.labels and chosen.labels == spec.labels
    labelled = sum(bool(t) for t in inputs.targets) if known else 0
    if labelled:
        found = score(outputs[0], inputs.targets)
        row = replace(row, top1=found.top1, top5=found.top5)
    else:
        row = replace(row, top1=None, top5=None)
    if other is not None and reference is not None:
        expected = every_output(other, each)
        if [e.shape for e in expected] != [o.shape for o in outputs]:
            raise _unlike(other, session)
        close = closeness(expected[0], outputs[0], task=spec.task)
        furthest = min(nearness([exact], [here]) for exact, here in zip(expected, outputs, strict=True))
        answers = close.answers(spec.task)
        row = replace(row, agreement=close.agreement, answers=answers, sqnr_db=furthest)
        top1 = score(expected[0], inputs.targets).top1 if labelled else None
        reference = replace(reference, top1=top1)
    return row, reference, labelled or None


def _unlike(other: Session, this: Session) -> InputError:
    return InputError(
        f"the outputs of {other.name} and {this.name} have other shapes.",
        "two programs can be compared only if they answer the same question.",
        "pass the fp32 bundle of the same model to --against.",
    )
