"""Measures what distillation adds, for docs/results/distillation.md: students alone and taught, several seeds.

    python tools/distill_results.py [--seeds 3 4 5] [--steps 420] [--labels 1000] [--pictures 6000] [--views 3]

Needs labs/checkpoints/teacher_digits.safetensors. Every kind starts from the same weights for the same seed and takes
the same number of steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_lab import data, train, zoo
from edge_lab.compress.distill import Distill, distill, keep_labels
from edge_lab.compress.teacher import teacher_cache
from edge_lab.zoo import Model

TEACHER = Path(__file__).resolve().parent.parent / "labs" / "checkpoints" / "teacher_digits.safetensors"
BATCH = 100


def student(teacher: Model, seed: int) -> Model:
    """Three stride-2 convolutions of 8, 16 and 32 channels: the student of lab 07."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    body: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 32)):
        body += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    recipe = teacher.spec.preprocess
    return zoo.from_module(network, (1, 3, 32, 32), name="student", preprocess=recipe, labels=teacher.spec.labels)


def kinds(teacher: Model, options: argparse.Namespace) -> dict[str, Callable[[int], Model]]:
    """Name of each way to train, and a function from the seed to the trained student."""
    pool = data.load("digits", "train").take(options.pictures)
    few, mixed = pool.take(options.labels), keep_labels(pool, options.labels)
    watch = data.load("digits", "val").take(100)
    fit = train.FitConfig(batch_size=BATCH, lr=0.1)
    caches = {
        id(s): teacher_cache(teacher, student(teacher, 0), s, fit, views=options.views, features=True)
        for s in (few, mixed)
    }

    def plain(images: data.ImageSet) -> Callable[[int], Model]:
        return lambda seed: train.fit(student(teacher, seed), images, watch, during(images, seed), progress=False).model

    def taught(images: data.ImageSet, config: Distill, live: bool = False) -> Callable[[int], Model]:
        source = teacher if live else caches[id(images)]
        return lambda seed: (
            distill(
                student(teacher, seed),
                source,
                images,
                watch,
                replace(config, fit=during(images, seed)),
                progress=False,
            ).model
        )

    def during(images: data.ImageSet, seed: int) -> train.FitConfig:
        return replace(fit, epochs=options.steps * BATCH // len(images), seed=seed)

    half = Distill(temperature=2, alpha=0.9)
    return {
        f"alone, {len(few)} labels": plain(few),
        f"taught, the same {len(few)}, T=2": taught(few, half),
        f"alone, {len(pool)} labels": plain(pool),
        **{
            f"taught, {len(few)} labels of {len(pool)}, T={t}": taught(mixed, replace(half, temperature=t))
            for t in (1, 2, 4)
        },
        f"taught, {len(few)} labels of {len(pool)}, T=2, teacher live": taught(mixed, half, live=True),
        f"taught, {len(few)} labels of {len(pool)}, T=2, features 0.1": taught(mixed, replace(half, features=0.1)),
    }


def main(arguments: list[str]) -> int:
    """Train every kind with every seed; print one row of a table for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--steps", type=int, default=420)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--views", type=int, default=3, help="fixed views of each picture in the teacher's cache")
    options = parser.parse_args(arguments)
    teacher, test = zoo.create("tinynet", weights=str(TEACHER)), data.load("digits", "test")
    print(f"teacher: {train.evaluate_module(teacher, test).top1:.2f} %")
    print(f"{'kind':50} {'mean':>6} {'spread':>7} {'CPU s':>6}   seeds {options.seeds}")
    for name, run in kinds(teacher, options).items():
        begun = time.process_time()
        models = [run(seed) for seed in options.seeds]
        seconds = (time.process_time() - begun) / len(models)
        scores = np.array([train.evaluate_module(model, test).top1 for model in models])
        spread = scores.std(ddof=1) if len(scores) > 1 else float("nan")
        listed = ", ".join(f"{s:.2f}" for s in scores)
        print(f"{name:50} {scores.mean():6.2f} {spread:7.2f} {seconds:6.1f}   {listed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
