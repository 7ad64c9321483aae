"""Trains the teacher of lab 07: tinynet on all labelled pictures of a set.

    python tools/make_teacher.py                      digits in the wild: labs/checkpoints/teacher_digits.safetensors
    python tools/make_teacher.py --dataset cifar10    CIFAR-10: labs/checkpoints/teacher_cifar10.safetensors

`--out FILE` writes elsewhere. Takes a few minutes on two cores; a run that was killed goes on where it was. The weights
are stored in half precision; the accuracy printed is that of the stored file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_lab import data, train, zoo
from edge_lab.core.files import sha256, writing_file
from edge_lab.data import ImageSet
from edge_lab.zoo import Model

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "labs" / "checkpoints"
CONFIGS = {
    "digits": train.FitConfig(epochs=6, batch_size=64, lr=0.15, seed=0),
    "cifar10": train.FitConfig(epochs=8, batch_size=64, lr=0.15, flip=True, seed=0),
}


def sets(dataset: str) -> tuple[ImageSet, ImageSet, ImageSet]:
    """To learn from, to watch, to report; a set without a validation split keeps back every tenth training image."""
    learn, test = data.load(dataset, "train"), data.load(dataset, "test")
    if dataset == "digits":
        return learn, data.load(dataset, "val"), test
    held_out = learn.subset(range(0, len(learn), 10))
    return learn.subset([i for i in range(len(learn)) if i % 10]), held_out, test


def store(model: Model, path: Path) -> None:
    """Write the weights of a model as float16; counters stay integers."""
    from safetensors.torch import save_file

    state = model.module.state_dict()
    with writing_file(path) as temporary:
        save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}, temporary)


def main(arguments: list[str]) -> int:
    """Train, store, and score what was stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=CONFIGS, default="digits")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    path = options.out or FOLDER / f"teacher_{options.dataset}.safetensors"
    config, (learn, watch, test) = CONFIGS[options.dataset], sets(options.dataset)
    checkpoint = ROOT / "artifacts" / "lab07" / f"teacher-{learn.fingerprint[:8]}-{config.key}.pt"
    start = zoo.create("tinynet", labels=learn.labels)
    result = train.fit(start, learn, watch, config, checkpoint=checkpoint)
    for epoch in result.history:
        print(f"epoch {epoch.number}   loss {epoch.loss:.3f}   validation {epoch.val_top1:.2f} %")
    store(result.model, path)
    stored = zoo.create("tinynet", weights=str(path), labels=learn.labels)
    for name, model in (("as trained", result.model), ("as stored", stored)):
        print(f"test accuracy {name}: {train.evaluate_module(model, test).top1:.2f} %")
    path.chmod(0o644)
    print(f"{path.stat().st_size / 1e3:.0f} kB, sha256 {sha256(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
