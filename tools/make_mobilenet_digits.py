"""Trains the MobileNetV3-Small that lab 06 prunes, and the half of it, and writes their checkpoints.

    python tools/make_mobilenet_digits.py           from random weights: labs/checkpoints/mobilenet_digits.safetensors
    python tools/make_mobilenet_digits.py --half    that one pruned and trained on: mobilenet_digits_half.safetensors

With `--dataset cifar10 --out FOLDER` the same is done with CIFAR-10. A stopped run goes on where it was. The files hold
float16 numbers, which halves them; the accuracy printed is that of the file as written, read back into float32.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from edge_lab import data, train, zoo
from edge_lab.bundle.spec import Preprocess
from edge_lab.compress import Structured, finetune, prune
from edge_lab.core.files import sha256, size_of, writing_file
from edge_lab.data import ImageSet
from edge_lab.train import FitConfig, FitResult
from edge_lab.zoo import Model

FOLDER = Path(__file__).resolve().parent.parent / "labs" / "checkpoints"


def build() -> Model:
    """MobileNetV3-Small (Howard et al. 2019) for ten classes of 32x32 pictures, with random weights.

    The first layer's stride is 1: made for 224 pixels, the net would otherwise end on one pixel.
    """
    from torchvision.models import mobilenet_v3_small

    module = mobilenet_v3_small(weights=None, num_classes=10)
    module.features[0][0].stride = (1, 1)
    preprocess = Preprocess(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    return zoo.from_module(module, (1, 3, 32, 32), name="mobilenet_digits", preprocess=preprocess)


def half() -> Model:
    """The same with half of its channels. Which weights they had does not matter: a checkpoint replaces them."""
    return prune(build(), Structured(0.5))


def sets(dataset: str) -> tuple[ImageSet, ImageSet, ImageSet]:
    """The images to learn from, to watch and to report; sets without a validation split keep back every tenth image."""
    learn, test = data.load(dataset, "train"), data.load(dataset, "test")
    if dataset == "digits":
        return learn, data.load(dataset, "val"), test
    held_out = learn.subset(range(0, len(learn), 10))
    return learn.subset([i for i in range(len(learn)) if i % 10]), held_out, test


def write(model: Model, path: Path) -> None:
    """Store the weights as float16 safetensors (counters of batch norm stay whole numbers)."""
    from safetensors.torch import save_file

    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.module.state_dict().items()}
    with writing_file(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)


def fit(args: argparse.Namespace, learn: ImageSet, held_out: ImageSet) -> FitResult:
    """Train the whole net, or prune it and train it on; the state is kept in the temporary folder until it is done."""
    config = FitConfig(epochs=args.epochs or 10, batch_size=64, lr=0.15, flip=args.dataset != "digits")
    start = zoo.create(f"{__file__}:build")
    if args.half:
        whole = zoo.create(f"{__file__}:build", weights=str(path_of(args.out, args.dataset)), labels=learn.labels)
        start, config = prune(whole, Structured(0.5)), replace(config, epochs=args.epochs or 3, lr=0.05)
    key = f"{args.dataset}{'-half' if args.half else ''}-{learn.fingerprint[:8]}-{config.key}"
    return finetune(start, learn, held_out, config, checkpoint=Path(tempfile.gettempdir()) / f"mobilenet-{key}.pt")


def path_of(folder: Path, dataset: str, half: bool = False) -> Path:
    return folder / f"mobilenet_{dataset}{'_half' if half else ''}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", action="store_true", help="prune the trained net and train it on")
    parser.add_argument("--dataset", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--epochs", type=int, help="default 10, with --half 3")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    learn, held_out, test = sets(args.dataset)
    result = fit(args, learn, held_out)
    for epoch in result.history:
        print(f"epoch {epoch.number:2}   loss {epoch.loss:.3f}   validation {epoch.val_top1:.2f} %")
    out = path_of(args.out, args.dataset, args.half)
    write(result.model, out)
    stored = zoo.create(f"{__file__}:{'half' if args.half else 'build'}", weights=str(out), labels=learn.labels)
    score = train.evaluate_module(stored, test)
    print(f"test {score.top1:.2f} % of {score.n}; {result.seconds:.0f} s of training")
    print(f"{out.name}: {size_of(out) / 1e6:.2f} MB, sha256 {sha256(out)}")


if __name__ == "__main__":
    main()
