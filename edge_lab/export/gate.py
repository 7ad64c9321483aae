"""The gate of `to`: a program that answers differently from its model is not written.

Every output has a signal to noise ratio (SQNR) over the golden inputs, and every precision a limit. docs/promise.md
says from which programs the limits come and how they were chosen; `run`, `coverage` and `check` hold programs to the
same.

A network can be so sensitive that a precision itself, not the converter, costs more than the limit. So below the limit
the same module is run by PyTorch in that precision (float32: against float64), and a program that is about as near as
that passes, down to a floor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle import Bundle, OutputParity, ProgramParity, Scheme
from edge_lab.errors import DivergenceError, EdgeLabError
from edge_lab.numbers import EQUAL_DB, sqnr_db

if TYPE_CHECKING:
    from edge_lab.zoo import Model

Outputs = tuple[np.ndarray, ...]


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
    "fp16": Limit(30, 10, 6),
    "bf16": Limit(15, 6, 6),
    "int8-static": Limit(8, 8),
    "int8-dynamic": Limit(10, 10),
    "int4-dynamic": Limit(6, 6),
    "int8-weights": Limit(10, 10),
    "int4-weights": Limit(6, 6),
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
    outputs = judged(model, scheme, outputs, inputs, reference)
    parity = replace(seen, outputs=outputs)
    if all(output.ok for output in outputs):
        return parity
    limit = min(output.limit_db for output in outputs if not output.ok)
    starts_at = where_it_starts(model, bundle, graph, inputs[0], limit)
    if not allow_divergence:
        raise refusal(model.spec.name, bundle.target, scheme, outputs, seen.inputs, starts_at)
    return replace(parity, allowed=True, starts_at=starts_at)


def limits_of(bundle: Bundle) -> tuple[float, ...]:
    """What each output of a bundle has to reach: as `to` recorded it, else what its precision asks."""
    if bundle.parity is not None and bundle.parity.outputs:
        return tuple(output.limit_db for output in bundle.parity.outputs)
    return (LIMITS[bundle.quantization.scheme].db,) * len(bundle.outputs)


def judged(
    model: Model,
    scheme: Scheme,
    found: tuple[OutputParity, ...],
    inputs: Sequence[np.ndarray],
    reference: list[Outputs],
) -> tuple[OutputParity, ...]:
    """The same comparison with this model's limits: lower where the precision itself costs that much."""
    limit = LIMITS[scheme]
    if all(output.ok for output in found) or not limit.margin:
        return found
    own = own_precision(model, scheme, inputs, reference)
    if own is None:
        return found
    lowered = (min(limit.db, max(limit.floor, db - limit.margin)) for db in own)
    return tuple(OutputParity(o.name, o.sqnr_db, round(db, 1)) for o, db in zip(found, lowered, strict=True))


def own_precision(
    model: Model, scheme: Scheme, inputs: Sequence[np.ndarray], reference: list[Outputs]
) -> list[float] | None:
    """SQNR that PyTorch itself has in a precision, for each output: no converter involved. None: it can't run so.

    float32 is compared with float64, 16-bit floats with the model as it is.
    """
    import torch

    from edge_lab.runtime import flat_arrays

    kind = {"fp32": torch.float64, "fp16": torch.float16, "bf16": torch.bfloat16}[scheme]
    try:
        module = copy.deepcopy(model.module).to(kind)
        with torch.no_grad():
            cast = [
                flat_arrays(torch.utils._pytree.tree_map_only(torch.Tensor, _wide, module(_as(x, kind))))
                for x in inputs
            ]
    except Exception:  # whatever a module does with a dtype that it was not written for
        return None
    sides = (cast, reference) if scheme == "fp32" else (reference, cast)
    return [nearness(exact, other) for exact, other in zip(*(zip(*s, strict=True) for s in sides), strict=True)]


def _as(x: np.ndarray, kind: Any) -> Any:
    import torch

    tensor = torch.from_numpy(x.copy())
    return tensor.to(kind) if tensor.is_floating_point() else tensor


def _wide(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor


def refusal(
    name: str, target: str, scheme: Scheme, outputs: tuple[OutputParity, ...], inputs: str, starts_at: str
) -> DivergenceError:
    """The error for a program below its limit: which output, by how much, where it starts, and what to do."""
    worst = min(outputs, key=lambda output: output.sqnr_db - output.limit_db)
    which = f"output {worst.name!r} " if len(outputs) > 1 else ""
    fix = _FIXES.get(scheme, "use a target of higher precision")
    return DivergenceError(
        f"{name} for {target} answers differently from PyTorch: {which}{worst.sqnr_db:.1f} dB, "
        f"and {scheme} asks for {worst.limit_db:g}.",
        f"on {inputs} {starts_at or 'no layer could be looked at'}.",
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
    from edge_lab.measure.divergence import first_divergence
    from edge_lab.measure.divergence_match import compare as by_layer

    def first() -> str:
        if graph is None:
            layers = first_divergence(model, bundle, x, threshold_db=limit_db).layers
        else:
            from edge_lab.measure.divergence_pt2 import graph_values

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
