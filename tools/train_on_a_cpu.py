"""Trains a plain small ResNet and MobileNetV3-Small for the same CPU time, and says which one got further.

    EDGE_LAB_DATA=<folder with cifar10.zip> python tools/train_on_a_cpu.py --dataset cifar10 --seconds 240
    python tools/train_on_a_cpu.py --dataset digits --seconds 60

One thread, one recipe for both, tuned for neither. The number of images follows from the speeds measured first, so that
both take about the given CPU seconds; what they took is printed. `--out FOLDER` keeps MobileNetV3's weights as
mobilenet_DATASET.safetensors, which tools/prune_results.py prunes.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import make_mobilenet_digits as mobilenet

from edge_lab import measure, train, zoo
from edge_lab.data import ImageSet
from edge_lab.data.images import ArrayReader
from edge_lab.export import to
from edge_lab.formats.runtime import load
from edge_lab.train import FitConfig
from edge_lab.train.pixels import batches, load_pixels
from edge_lab.zoo import Model


def networks(labels: tuple[str, ...]) -> dict[str, Model]:
    """Both with random weights, for 32x32 pictures."""
    file = Path(mobilenet.__file__)
    return {
        "tinynet": zoo.create("tinynet", labels=labels),
        "mobilenet": zoo.create(f"{file}:build", labels=labels),
    }


def decoded(images: ImageSet) -> ImageSet:
    """The same set with its pictures in memory, so that decoding JPEGs is no part of the training time."""
    return replace(images, read=ArrayReader(images.pixels), array=images.pixels)


def one_step(model: Model, images: ImageSet, config: FitConfig) -> Callable[[], None]:
    """A function that does one training step on one batch, as `train.fit` does it; the model stays as it is."""
    import copy

    import torch

    x, y = next(batches(load_pixels(images.take(config.batch_size), model.spec), config))
    module = copy.deepcopy(model.module).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    return step


def macs(model: Model) -> int:
    """Multiply-adds of one picture, in convolutions and linear layers."""
    return measure.flops(model.module, model.spec.input.shape) // 2


def learn(model: Model, images: ImageSet, watch: ImageSet, count: float, config: FitConfig) -> tuple[Model, str]:
    """Train on `count` images, in as many passes as that takes over the set or most of it."""
    passes = math.ceil(count / len(images))
    part = images.take(round(count / passes))
    config = replace(config, epochs=passes)
    begun = time.process_time()
    result = train.fit(model, part, watch, config, progress=False)
    return result.model, f"{passes} passes over {len(part)} images, {time.process_time() - begun:.0f} CPU s"


def faster(calls: Mapping[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], measure.Ratio]:
    """Median seconds of each call, and how many times as long mobilenet's takes as tinynet's."""
    times = measure.interleaved(calls, rounds=rounds, threads=1)
    return {name: t.p50 for name, t in times.items()}, measure.ratio(times["mobilenet"], times["tinynet"])


def slower_program(nets: Mapping[str, Model], images: ImageSet) -> measure.Ratio:
    """How many times as long mobilenet's ExecuTorch program takes as tinynet's, for one picture on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for name, net in nets.items():
            program = load(to(net, "linux-xnnpack-fp32", golden=images.take(5), out=folder))
            calls[name] = partial(program.run, measure.prepare(images.take(1), net.spec)[0])
        return faster(calls, 300)[1]


def main() -> None:
    """Print what each network costs, how fast it trains, how far it comes, and how fast its program runs."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("cifar10", "digits"), default="cifar10")
    parser.add_argument("--seconds", type=float, default=240, help="CPU seconds for each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for mobilenet_DATASET.safetensors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, watch, test = (decoded(s) for s in mobilenet.sets(options.dataset))
    config = FitConfig(batch_size=64, lr=0.15, flip=options.dataset != "digits", seed=options.seed)
    nets = networks(images.labels)
    seconds, slower = faster({n: one_step(net, images, config) for n, net in nets.items()}, 15)
    print(f"a training step of {config.batch_size} images: mobilenet takes {slower} the time of tinynet", flush=True)
    finished = {}
    for name, net in nets.items():
        count = options.seconds * config.batch_size / seconds[name]
        trained, how = learn(net, images, watch.take(1000), count, config)
        score = train.evaluate_module(trained, test)
        size = sum(p.numel() for p in net.module.parameters()) / 1e6
        speed = config.batch_size / seconds[name]
        print(f"{name:10} {macs(net) / 1e6:5.2f} M multiply-adds, {size:.2f} M parameters, {speed:.0f} images/CPU s")
        print(f"{'':10} {how}: {score.top1:.2f} % of {score.n} test images", flush=True)
        if name == "mobilenet" and options.out:
            mobilenet.write(trained, mobilenet.path_of(options.out, options.dataset))
        finished[name] = trained
    print(f"one picture through the .pte: mobilenet takes {slower_program(finished, test)} the time of tinynet")


if __name__ == "__main__":
    main()
