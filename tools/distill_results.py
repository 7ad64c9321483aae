"""Measures what distillation adds, for docs/results/distillation.md: students alone and taught, several seeds.

    python tools/distill_results.py [--kinds alone same all hard T1 T2 T4 live features both classic hints]
        [--seeds 3 4 5] [--dataset digits] [--teacher tinynet] [--student tiny] [--width 16]
        [--pictures 6000] [--labels 300] [--steps 480] [--batch 50] [--lr 0.2] [--views 2] [--weight 0.1]

Every kind starts from the same weights for the same seed and takes the same number of steps:

    alone     the labels of a few pictures, no teacher
    same      the same few pictures, and the teacher's answers to them
    all       the labels of all pictures, no teacher
    hard      the teacher's answer to every picture as its label, without any doubt
    T1 T2 T4  the labels of a few and the teacher's soft answers to all, at that temperature, alpha = 0.9
    live      as T2, but the teacher runs in every step instead of answering once for `--views` views
    features  the labels of a few and the teacher's features of all, no answers (alpha = 0)
    both      T2 and the features
    classic   the labels and the soft answers (T = 2) of all pictures
    hints     the labels and the features of all pictures, no answers

Teachers: "tinynet", from labs/checkpoints/teacher_DATASET.safetensors, or "lite0": EfficientNet-Lite0 with its ImageNet
weights, frozen, at 96 pixels, under a linear layer that learns from the same few labels and no others. Students:
"tiny", three stride-2 convolutions of width, 2 and 4 times width channels, or "mobilenet", MobileNetV3-Small. "cifar10"
is read from $EDGE_LAB_DATA.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edge_lab import data, train, zoo
from edge_lab.compress.distillation.distill import Distill, distill, keep_labels
from edge_lab.compress.distillation.teacher import TeacherCache, teacher_cache
from edge_lab.data import ImageSet
from edge_lab.train import FitConfig
from edge_lab.zoo import Model

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "artifacts" / "distill"  # what teachers said
KINDS = ("alone", "same", "all", "hard", "T1", "T2", "T4", "live", "features", "both", "classic", "hints")


def student(name: str, labels: tuple[str, ...], width: int, seed: int) -> Model:
    """An untrained student; the same seed gives the same weights."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    if name == "mobilenet":
        model = zoo.create(f"{ROOT / 'tools' / 'make_mobilenet_digits.py'}:build", labels=labels)
        for layer in model.module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.1  # torchvision's 0.01 remembers the first steps for longer than a short run lasts
        return model
    body: list[nn.Module] = []
    for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        body += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, len(labels)))
    recipe = zoo.create("tinynet").spec.preprocess
    return zoo.from_module(network, (1, 3, 32, 32), name="student", preprocess=recipe, labels=labels)


def probe(images: ImageSet, fit: FitConfig, views: int) -> Model:
    """EfficientNet-Lite0 at 96 pixels, its ImageNet classes replaced by a linear layer that learns the images' labels.

    Multinomial logistic regression on the frozen features of `views` augmented views, by L-BFGS.
    """
    import torch
    from torch import nn

    backbone = zoo.create("efficientnet_lite0", input_shape=(1, 3, 96, 96))
    pixels = student("tiny", images.labels, 8, 0)  # says that a picture has 32 pixels before it is augmented
    features = teacher_cache(backbone, pixels, images, fit, views=views, features=True).features
    assert features is not None
    x = torch.from_numpy(features.reshape(-1, features.shape[-1]))
    y = torch.from_numpy(np.tile(images.y, views))
    torch.manual_seed(0)
    head = nn.Linear(x.shape[1], len(images.labels))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(head(x), y) + 1e-3 * head.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    module = backbone.module
    module.classifier = head.eval()
    spec = backbone.spec.with_(name="efficientnet_lite0_probe", labels=images.labels)
    return Model(module, spec, None)


class Lessons:
    """The pictures, the teacher, its cached answers, and every way to train a student on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pool = data.load(options.dataset, "train").take(options.pictures)
        self.mixed = keep_labels(self.pool, options.labels)
        self.few = self.mixed.subset([i for i, target in enumerate(self.mixed.targets) if target])
        self.watch = self.pool.take(100)  # fit wants some; nothing is chosen by them
        self.fit = FitConfig(batch_size=options.batch, lr=options.lr, flip=options.dataset != "digits")
        if options.teacher == "lite0":
            self.teacher = probe(self.few, self.fit, 2)
        else:
            path = ROOT / "labs" / "checkpoints" / f"teacher_{options.dataset}.safetensors"
            self.teacher = zoo.create("tinynet", weights=str(path), labels=self.pool.labels)

    def answers(self, images: ImageSet) -> TeacherCache:
        """What the teacher says about some images; kept in a file, for the next kind and the next run."""
        views = self.options.views
        return teacher_cache(self.teacher, self.begin(0), images, self.fit, views=views, features=True, folder=CACHE)

    def begin(self, seed: int) -> Model:
        return student(self.options.student, self.pool.labels, self.options.width, seed)

    def train(self, kind: str, seed: int) -> Model:
        """One student."""
        if kind in ("alone", "all", "hard"):
            images = {"alone": self.few, "all": self.pool}.get(kind) or self.bare
            return train.fit(self.begin(seed), images, self.watch, self.during(images, seed), progress=False).model
        images = {"same": self.few, "classic": self.pool, "hints": self.pool}.get(kind, self.mixed)
        config = Distill(
            temperature=float(kind[1:]) if kind[0] == "T" else 2.0,
            alpha=0.0 if kind in ("features", "hints") else 0.9,
            features=self.options.weight if kind in ("features", "both", "hints") else None,
            fit=self.during(images, seed),
        )
        source = self.teacher if kind == "live" else self.answers(images)
        return distill(self.begin(seed), source, images, self.watch, config, progress=False).model

    @cached_property
    def bare(self) -> ImageSet:
        """All pictures, each with the teacher's answer as its label."""
        chosen = train.scores(self.teacher, self.pool).argmax(1)
        print(f"(the teacher is right about {100 * (chosen == self.pool.y).mean():.1f} % of these pictures)")
        targets = tuple((int(k),) for k in chosen)
        return replace(self.pool, targets=targets, fingerprint=f"{self.pool.fingerprint}-answers")

    def during(self, images: ImageSet, seed: int) -> FitConfig:
        epochs = self.options.steps * self.options.batch / len(images)
        return replace(self.fit, epochs=max(1, round(epochs)), seed=seed)


def main(arguments: list[str]) -> int:
    """Train every kind with every seed; print one row of a table for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--teacher", choices=("tinynet", "lite0"), default="tinynet")
    parser.add_argument("--student", choices=("tiny", "mobilenet"), default="tiny")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--width", type=int, default=16, help="channels of a tiny student's first layer")
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--test", type=int, default=2000, help="pictures of the exam, at most")
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--steps", type=int, default=480, help="of --batch pictures each")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--views", type=int, default=2, help="fixed views of each picture in the teacher's cache")
    parser.add_argument("--weight", type=float, default=0.1, help="of the feature loss")
    parser.add_argument("--lr", type=float, default=0.2)
    options = parser.parse_args(arguments)
    lessons, test = Lessons(options), data.load(options.dataset, "test").take(options.test)
    print(f"teacher: {train.evaluate_module(lessons.teacher, test).top1:.2f} % of {len(test)} test pictures")
    print(f"student: {sum(p.numel() for p in lessons.begin(0).module.parameters()):,} weights")
    print(f"{'kind':10} {'mean':>6} {'spread':>7} {'CPU s':>6}   seeds {options.seeds}")
    for kind in options.kinds:
        begun = time.process_time()
        models = [lessons.train(kind, seed) for seed in options.seeds]
        seconds = (time.process_time() - begun) / len(models)
        scores = np.array([train.evaluate_module(model, test).top1 for model in models])
        spread = scores.std(ddof=1) if len(scores) > 1 else float("nan")
        listed = ", ".join(f"{s:.2f}" for s in scores)
        print(f"{kind:10} {scores.mean():6.2f} {spread:7.2f} {seconds:6.1f}   {listed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
