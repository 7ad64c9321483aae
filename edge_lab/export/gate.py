"""The gate of `to`: a program that answers differently from its model is not written.

Every output has a signal to noise ratio (SQNR) over the golden inputs, and every precision a limit. docs/promise.md
says from which programs the limits come and how they were chosen; `run`, `coverage` and `check` hold programs to the
same.

A network can be so sensitive that a precision itself, not the converter, costs more than the limit. So below the limit
there is a control (`export/control.py`: PyTorch in that precision), and a program that is about as near as that passes,
down to a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.folder import Bundle, OutputParity, ProgramParity, Scheme
from edge_lab.core.errors import DivergenceError, EdgeLabError
from edge_lab.core.numbers import EQUAL_DB, sqnr_db

if TYPE_CHECKING:
    from edge_lab.zoo import Model

Outputs = tuple[np.ndarray, ...]


_SCATTER_DB = 3.0  # between five inputs and any others, and between CPUs


@dataclass(frozen=True)
class Limit:
    """What a precision must reach, in dB.

    Attributes:
        db: for an output of any network.
        floor: below this no program passes.
        margin: how much worse than PyTorch in the same precision a program may be, between `floor` and `db`.
    """

    db: float
    floor: float
    margin: float = 0.0


LIMITS: dict[Scheme, Limit] = {
    "fp32": Limit(60, 20, 20),
    "fp16": Limit(30, 10, 12),
    "bf16": Limit(15, 6, 12),
    "int8-static": Limit(10, 0, 6),
    "int8-dynamic": Limit(10, 10),
    "int4-dynamic": Limit(6, 6),
    "int8-weights": Limit(10, 0, 6),
    "int4-weights": Limit(6, 0, 6),
    "palette6": Limit(10, 10),
    "palette4": Limit(6, 6),
}

_FIXES: dict[Scheme, str] = {
    "fp32": "take another target of this platform (`edge-lab coverage` shows which are right), or write that part with "
    "other torch functions",
    "fp16": "use the fp32 target, or scale what is large or small inside the network",
    "int8-static": "give inputs like the real ones as calibration, keep that layer in float with "
    "StaticInt8(keep_float=...), or use the fp32 target",
}


def nearness(reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> float:
    """How near one output is to its reference, over all inputs: SQNR in dB, within -200 to 200.

    Of whole numbers and truth values (an argmax, a mask) it is the share of wrong ones in dB: 20 dB are one in hundred.
    The same infinity on both sides counts as equal.

    Args:
        reference: the model's, one array for each input.
        outputs: the program's. Another shape or a NaN is as far as can be.
    """
    signal = noise = wrong = 0.0
    whole = False
    for exact, other in zip(reference, outputs, strict=True):
        if exact.shape != other.shape:
            return -EQUAL_DB
        whole = whole or exact.dtype.kind in "biu"
        same = exact == other
        wide, near = exact.astype(np.float64), other.astype(np.float64)
        fine = np.isfinite(wide) & np.isfinite(near)
        if not (fine | same).all():
            return -EQUAL_DB
        wrong += float(np.size(same) - np.count_nonzero(same))
        signal += float(np.square(wide[fine]).sum())
        noise += float(np.square(wide[fine] - near[fine]).sum())
    if whole:
        signal, noise = float(sum(exact.size for exact in reference)), wrong
    return min(max(sqnr_db(signal, noise), -EQUAL_DB), EQUAL_DB) if noise else EQUAL_DB


def compare(
    names: Sequence[str], reference: Sequence[Outputs], outputs: Sequence[Outputs], limits: Sequence[float]
) -> tuple[OutputParity, ...]:
    """Every output of a program beside the model's.

    Args:
        names: of the outputs.
        reference: the model's outputs, one tuple for each input.
        outputs: the program's.
        limits: in dB, one for each output.
    """
    sides = zip(names, zip(*reference, strict=True), zip(*outputs, strict=True), limits, strict=True)
    return tuple(OutputParity(name, nearness(exact, other), limit) for name, exact, other, limit in sides)


def judge(
    model: Model,
    bundle: Bundle,
    graph: Any,
    inputs: Sequence[np.ndarray],
    reference: list[Outputs],
    seen: ProgramParity,
    found: Sequence[Outputs],
    allow_divergence: bool,
) -> ProgramParity:
    """Hold a program that was just written to its model.

    Args:
        model: what it was made from.
        bundle: the draft that holds the program.
        graph: of `Program.graph`.
        inputs: of the golden cases.
        reference: the model's outputs for them.
        seen: how the program's outputs came about, and what the inputs are.
        found: the program's outputs; empty if it could not be compared here.
        allow_divergence: let it pass all the same, and say so in what is returned.

    Raises:
        DivergenceError: an output is below its limit.
    """
    if not found:
        return seen
    scheme = bundle.quantization.scheme
    names = [output.name for output in bundle.outputs]
    outputs = compare(names, reference, found, (LIMITS[scheme].db,) * len(names))
    own = None if all(output.ok for output in outputs) else own_precision(model, scheme, inputs, reference)
    outputs = lowered(outputs, scheme, own)
    parity = replace(seen, outputs=outputs)
    if parity.ok:
        return parity
    limit = min(output.limit_db for output in outputs if not output.ok)
    starts_at = where_it_starts(model, bundle, graph, inputs[0], limit)
    if not allow_divergence:
        about = f"on {seen.inputs} {starts_at or 'it can not be seen where it starts'}"
        if own is not None:
            exact = "float64" if scheme == "fp32" else scheme
            about += f"; PyTorch's own {exact} comes as near as {min(own):.1f} dB"
        raise refusal(bundle, outputs, about)
    return replace(parity, allowed=True, starts_at=starts_at)


def limits_of(bundle: Bundle) -> tuple[float, ...]:
    """What each output of a bundle has to reach on other inputs than `to` had, or on another CPU."""
    if bundle.parity is not None and bundle.parity.outputs:
        limits = tuple(output.limit_db for output in bundle.parity.outputs)
    else:
        limits = (LIMITS[bundle.quantization.scheme].db,) * len(bundle.outputs)
    return tuple(limit - _SCATTER_DB for limit in limits)


def caution(bundle: Bundle) -> str:
    """One sentence about a program that passed a lowered limit, or that was allowed to differ; "" for all others."""
    if bundle.parity is None or not bundle.parity.outputs:
        return ""
    scheme, worst = bundle.quantization.scheme, min(bundle.parity.outputs, key=lambda output: output.sqnr_db)
    if bundle.parity.allowed:
        return f"answers differently from PyTorch ({worst.sqnr_db:.1f} dB); that was allowed"
    low = [output for output in bundle.parity.outputs if output.sqnr_db < LIMITS[scheme].db]
    return f"{worst.sqnr_db:.1f} dB: {scheme} itself costs this network that much, in PyTorch as well" if low else ""


def lowered(found: tuple[OutputParity, ...], scheme: Scheme, own: list[float] | None) -> tuple[OutputParity, ...]:
    """The same comparison with limits that are lower where the precision itself (`own_precision`) costs as much."""
    if own is None:
        return found
    limit = LIMITS[scheme]
    limits = (round(min(limit.db, max(limit.floor, db - limit.margin)), 1) for db in own)
    return tuple(replace(output, limit_db=db) for output, db in zip(found, limits, strict=True))


def own_precision(
    model: Model, scheme: Scheme, inputs: Sequence[np.ndarray], reference: list[Outputs]
) -> list[float] | None:
    """SQNR of the control for each output: how near PyTorch itself comes in a precision. None: there is no control."""
    from edge_lab.export.control import in_precision

    found = in_precision(model.module, scheme, inputs)
    if found is None or {len(outputs) for outputs in (*found, *reference)} != {len(reference[0])}:
        return None
    exact, other = (found, reference) if scheme == "fp32" else (reference, found)
    return [nearness([e[i] for e in exact], [o[i] for o in other]) for i in range(len(reference[0]))]


def refusal(bundle: Bundle, outputs: tuple[OutputParity, ...], why: str) -> DivergenceError:
    """The error for a program below its limit: which output, by how much, why, and what to do."""
    scheme = bundle.quantization.scheme
    worst = min(outputs, key=lambda output: output.sqnr_db - output.limit_db)
    which = f"output {worst.name!r} has " if len(outputs) > 1 else ""
    fix = _FIXES.get(scheme, "use a target of higher precision")
    return DivergenceError(
        f"{bundle.spec.name} for {bundle.target} answers differently from PyTorch: {which}{worst.sqnr_db:.1f} dB, "
        f"and {scheme} asks for {worst.limit_db:g} here.",
        f"{why}.",
        f"{fix}; allow_divergence=True (--allow-divergence) writes it as it is.",
        worst.sqnr_db,
    )


def where_it_starts(model: Model, bundle: Bundle, graph: Any, x: np.ndarray, limit_db: float) -> str:
    """In words, the first layer that is below the limit on one input.

    Args:
        model: as it was exported.
        bundle: of the program; its folder may still be a temporary one.
        graph: the captured program that was handed to a delegate, for formats that hide their inside; or None.
        x: an input.
        limit_db: what counts as equal.
    """
    from edge_lab.quality.layers.find import first_divergence
    from edge_lab.quality.layers.match import compare as by_layer

    def first() -> str:
        if graph is None:
            layers = first_divergence(model, bundle, x, threshold_db=limit_db).layers
        else:
            from edge_lab.quality.layers.pt2 import graph_values

            layers, _ = by_layer(model.module, x, list(graph_values(graph.module(check_guards=False), x)))
        low = next((layer for layer in layers if layer.sqnr_db < limit_db), None)
        if low is None:
            where = (
                "the graph that was handed to the delegate is right" if graph is not None else "every layer is right"
            )
            return f"{where}, so it starts in what {bundle.runtime.package} makes of it"
        return f"it starts at {low.name or 'the top level'} ({low.kind}), {low.sqnr_db:.1f} dB"

    return _or_nothing(first)


def _or_nothing(look: Callable[[], str]) -> str:
    """A closer look may fail in as many ways as a converter; the verdict stands without it."""
    try:
        return look()
    except (EdgeLabError, RuntimeError, ValueError, KeyError, TypeError, AssertionError):
        return ""
