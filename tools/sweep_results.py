"""Does TPE beat random search on a sweep of a small network? Equal budgets, several seeds: docs/decide.md.

    python tools/sweep_results.py --json sweep_table.json

Every setting is evaluated once for real (the table). The searches are then played against the table: a trial is the
same whoever asks for it, so this costs nothing and is exact. Run again with the same file, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from edge_lab import data, zoo
from edge_lab.core.files import writing_file
from edge_lab.decide import pareto
from edge_lab.sweep import Evaluator, Scores, Settings, SweepConfig, SweepResult, sweep
from edge_lab.sweep.trial import Trial, Value
from edge_lab.train import FitConfig

CHOICES: dict[str, Sequence[Value]] = {
    "target": ("linux-onnx-fp32", "linux-onnx-int8", "linux-xnnpack-fp32", "linux-xnnpack-int8"),
    "pruned": (0.0, 0.25, 0.5),
    "rounding": ("nearest", "second-order"),
    "per_channel": (True, False),
}
WEIGHTS = "labs/checkpoints/tinynet-digits.safetensors"
INT8_ONLY = ("rounding", "per_channel")  # what only XNNPACK's int8 recipe asks for
Table = dict[str, Scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, default=Path("artifacts/sweep_table.json"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/sweep"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    table = measured(a.json, a.out, a.images, a.train)
    everything = SweepResult(
        tuple(Trial(i, json.loads(key), scores) for i, (key, scores) in enumerate(sorted(table.items()))),
        SweepConfig(CHOICES),
    )
    print(everything)
    print(f"\n{everything.best()}\n")
    print("share of the whole front's hypervolume, one number for each seed:")
    for trials in (6, 12, 18, 24):
        for sampler in ("random", "tpe"):
            shares = [share(table, sampler, trials, seed) for seed in range(a.seeds)]
            print(f"{trials:3} trials {sampler:7} {'  '.join(f'{s:.3f}' for s in shares)}  mean {np.mean(shares):.3f}")


def measured(path: Path, out: Path, images: int, train: int) -> Table:
    """Every distinct setting, evaluated; those that the file knows are read."""
    table = {k: Scores(**v) for k, v in json.loads(path.read_text()).items()} if path.exists() else {}
    learn = data.load("digits", "train").take(train)
    evaluate = Evaluator(
        zoo.create("tinynet", weights=WEIGHTS),
        data.load("digits", "test").take(images),
        train=learn,
        fit=FitConfig(epochs=1, lr=0.05),
        calibration=learn.take(64),
        out=out,
    )
    wanted = {key(dict(zip(CHOICES, values, strict=True))): None for values in product(*CHOICES.values())}
    for number, text in enumerate(wanted):
        if text not in table:
            table[text] = evaluate(json.loads(text))
            with writing_file(path) as temporary:
                temporary.write_text(json.dumps({k: asdict(v) for k, v in table.items()}, indent=1) + "\n")
        print(f"{number + 1}/{len(wanted)} {text}", file=sys.stderr)
    return {text: table[text] for text in wanted}


def key(settings: Settings) -> str:
    """The settings that have an effect, as JSON."""
    int8 = settings["target"] == "linux-xnnpack-int8"
    return json.dumps({name: value for name, value in settings.items() if int8 or name not in INT8_ONLY})


def share(table: Table, sampler: Literal["tpe", "random"], trials: int, seed: int) -> float:
    """Hypervolume of what a search found, over that of the whole table."""
    found = sweep(lambda s: table[key(s)], SweepConfig(CHOICES, trials=trials, sampler=sampler, seed=seed))
    scores = [t.scores for t in found.trials if t.scores]
    assert pareto(found.candidates).front
    worst, best = (f(np.array([point(s) for s in table.values()]), axis=0) for f in (np.max, np.min))
    return volume(scores, worst, best) / volume(list(table.values()), worst, best)


def point(s: Scores) -> tuple[float, float, float]:
    """Size and latency as logarithms, errors in percent: less is better."""
    return float(np.log(s.size_mb)), float(np.log(s.times)), 100 - s.accuracy


def volume(scores: Sequence[Scores], worst: np.ndarray, best: np.ndarray) -> float:
    """Share of the box between the best and the worst of each objective that is dominated, exact."""
    points = (np.array([point(s) for s in scores]) - best) / (worst - best)
    edges = [np.unique(np.append(points[:, i], 1.0)) for i in range(3)]
    total = 0.0
    for cell in product(*(range(len(e) - 1) for e in edges)):
        low = np.array([edges[i][cell[i]] for i in range(3)])
        if (points <= low + 1e-12).all(axis=1).any():
            total += float(np.prod([edges[i][cell[i] + 1] - edges[i][cell[i]] for i in range(3)]))
    return total


if __name__ == "__main__":
    main()
