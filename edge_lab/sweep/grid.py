"""Every target at every width, timed in one sitting: candidates whose latencies are pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.decide import Candidate
from edge_lab.sweep.evaluate import Evaluator
from edge_lab.sweep.trial import Scores


def grid(
    evaluator: Evaluator, targets: Sequence[str], pruned: Sequence[float] = (0.0,), *, rounds: int = 60
) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Build each target at each width, count their answers, time all of them in turn.

    A sweep can be shared by machines, so its latencies are ratios; here all programs are in one process on one machine,
    so they are milliseconds, and `edge_lab.decide` can pair them round by round.

    Args:
        evaluator: the model, the pictures, how pruned networks are trained.
        targets: names from `edge_lab.targets()` that run here.
        pruned: shares of channels to remove.
        rounds: timed calls of each program.

    Returns:
        The candidates, target by target; and why the others gave no program, by name.

    Raises:
        InputError: nothing to build.
    """
    if not targets or not pruned:
        raise InputError("the grid is empty.", "it needs targets and shares.", "grid(evaluator, ['linux-onnx-int8'])")
    made: dict[tuple[str, float], Scores] = {}
    failed: dict[str, str] = {}
    for target, share in product(targets, pruned):
        try:
            made[target, share] = evaluator({"target": target, "pruned": share})
        except EdgeLabError as error:
            failed[_name(target, share)] = f"{error.what} {error.why}"
    return _timed(evaluator, made, rounds), failed


def _timed(evaluator: Evaluator, made: Mapping[tuple[str, float], Scores], rounds: int) -> tuple[Candidate, ...]:
    from edge_lab.bundle.folder import Bundle
    from edge_lab.formats.runtime import load
    from edge_lab.measure import interleaved
    from edge_lab.quality.accuracy import prepare

    if not made:
        return ()
    bundles = {key: Bundle.load(scores.bundle or "") for key, scores in made.items()}
    x = prepare(evaluator.images.take(1), evaluator.model.spec).x
    calls = {_name(*key): partial(load(bundle).run, x) for key, bundle in bundles.items()}
    times = interleaved(calls, rounds=rounds, threads=1)
    labelled = evaluator.images.labels == evaluator.model.spec.labels
    sitting = f"grid {time.time_ns()}"
    return tuple(
        Candidate(
            _name(*key),
            bundles[key].runtime.backend,
            bundles[key].quantization.scheme,
            key[1],
            size_mb=scores.size_mb,
            p50_ms=times[_name(*key)].p50_ms,
            p90_ms=times[_name(*key)].p90_ms,
            delegated=bundles[key].runtime.delegated,
            top1=scores.accuracy if labelled else None,
            agreement=None if labelled else scores.accuracy,
            images=scores.images,
            target=key[0],
            sitting=sitting,
            latency=times[_name(*key)],
        )
        for key, scores in made.items()
    )


def _name(target: str, share: float) -> str:
    return f"{target} pruned {100 * share:.0f} %" if share else target
