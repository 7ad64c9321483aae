"""Prunes half the channels of a trained MobileNetV3-Small and trains it on, with several seeds; for pruning.md.

    python tools/prune_results.py --seeds 1 2 --whole
    python tools/prune_results.py --dataset cifar10 --weights FOLDER/mobilenet_cifar10.safetensors --whole

The second needs $EDGE_LAB_DATA with cifar10.zip, and the weights that `tools/train_on_a_cpu.py --out FOLDER` wrote.

A seed shuffles and shifts the images; the channels removed are the same. `--whole` also trains the whole net on for as
many epochs, which is what the half has to be compared with as long as the whole one still learns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import make_mobilenet_digits as mobilenet
import numpy as np
from train_on_a_cpu import decoded

from edge_lab import measure, train, zoo
from edge_lab.compress import Structured, finetune, prune, prune_report
from edge_lab.data import ImageSet
from edge_lab.export import to
from edge_lab.formats.runtime import load
from edge_lab.zoo import Model


def train_on(name: str, start: Model, sets: tuple[ImageSet, ...], options: argparse.Namespace) -> Model:
    """Train with every seed, print the accuracies, return the model of the first seed."""
    images, watch, test = sets
    config = train.FitConfig(epochs=options.epochs, batch_size=64, lr=0.05, flip=options.dataset != "digits")
    begun, models = time.process_time(), []
    for seed in options.seeds if name == "half" else options.seeds[:1]:
        result = finetune(start, images, watch.take(1000), replace(config, seed=seed), progress=False)
        models.append(result.model)
    seconds = (time.process_time() - begun) / len(models)
    top1 = np.array([train.evaluate_module(model, test).top1 for model in models])
    listed = ", ".join(f"{value:.2f}" for value in top1)
    print(
        f"{name}, {options.epochs} epochs more: {listed} %, mean {top1.mean():.2f}; {seconds:.0f} CPU s each",
        flush=True,
    )
    return models[0]


def programs(nets: Mapping[str, Model], images: ImageSet) -> None:
    """Print the size of each .pte, and how many times as fast it is as the first one; one thread, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for name, net in nets.items():
            named = replace(net, spec=net.spec.with_(name=name), origin=None)
            bundle = to(named, "linux-xnnpack-fp32", golden=images.take(5), out=folder)
            calls[name] = partial(load(bundle).run, measure.prepare(images.take(1), net.spec)[0])
            print(f"{name}: {bundle.program_bytes / 1e6:.2f} MB")
        times = measure.interleaved(calls, rounds=300, warmup=30, threads=1)
    first = next(iter(calls))
    for name in list(calls)[1:]:
        print(f"{name} is {measure.ratio(times[first], times[name])} as fast as {first}")


def main() -> None:
    """Print accuracies, sizes and speed of the whole net and of its half."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--weights", type=Path, default=mobilenet.path_of(mobilenet.FOLDER, "digits"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="none: only sizes and speed")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="also train the whole net on, with the first seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = tuple(decoded(s) for s in mobilenet.sets(options.dataset))
    images, test = sets[0], sets[2]
    whole = zoo.create(f"{mobilenet.__file__}:build", weights=str(options.weights), labels=images.labels)
    pruned = prune(whole, Structured(0.5))
    (p, q), (a, b) = prune_report(whole, pruned).params, prune_report(whole, pruned).macs
    score = train.evaluate_module(whole, test)
    print(
        f"whole: {score.top1:.2f} % of {score.n} test images, {a / 1e6:.2f} M multiply-adds, {p / 1e6:.2f} M parameters"
    )
    print(
        f"half: {train.evaluate_module(pruned, test).top1:.2f} %, {b / 1e6:.2f} M multiply-adds, {q / 1e6:.2f} M",
        flush=True,
    )
    programs({"whole": whole, "half": pruned}, test)
    if options.seeds:
        train_on("half", pruned, sets, options)
    if options.seeds and options.whole:
        train_on("whole", whole, sets, options)


if __name__ == "__main__":
    main()
