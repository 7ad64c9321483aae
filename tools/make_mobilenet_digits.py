"""Trains the MobileNetV3-Small that lab 06 prunes, and writes its checkpoint.

    python tools/make_mobilenet_digits.py                      labs/checkpoints/mobilenet_digits.safetensors
    python tools/make_mobilenet_digits.py --dataset cifar10 --out FOLDER/NAME.safetensors

A stopped run goes on where it was. The file holds float16 numbers, which halves it. The accuracy printed at the end is
that of the file as written, read back into float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from edge_lab import data, train, zoo
from edge_lab.data import ImageSet
from edge_lab.files import sha256, size_of, writing_file
from edge_lab.spec import Preprocess
from edge_lab.zoo import Model

CHECKPOINT = Path(__file__).resolve().parent.parent / "labs" / "checkpoints" / "mobilenet_digits.safetensors"


def build() -> Model:
    """MobileNetV3-Small (Howard et al. 2019) for ten classes of 32x32 pictures, with random weights.

    The first layer's stride is 1: made for 224 pixels, the net would otherwise end on one pixel.
    """
    from torchvision.models import mobilenet_v3_small

    module = mobilenet_v3_small(weights=None, num_classes=10)
    module.features[0][0].stride = (1, 1)
    preprocess = Preprocess(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    return zoo.from_module(module, (1, 3, 32, 32), name="mobilenet_digits", preprocess=preprocess)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    args = parser.parse_args()
    learn, held_out, test = sets(args.dataset)
    config = train.FitConfig(epochs=args.epochs, batch_size=64, lr=0.15, flip=args.dataset != "digits")
    state = Path(tempfile.gettempdir()) / f"edge-lab-mobilenet-{args.dataset}-{learn.fingerprint[:8]}-{config.key}.pt"
    start = zoo.create(f"{__file__}:build")
    result = train.fit(start, learn, held_out, config, checkpoint=state)
    for epoch in result.history:
        print(f"epoch {epoch.number:2}   loss {epoch.loss:.3f}   validation {epoch.val_top1:.2f} %")
    write(result.model, args.out)
    stored = zoo.create(f"{__file__}:build", weights=str(args.out), labels=learn.labels)
    score = train.evaluate_module(stored, test)
    print(f"test {score.top1:.2f} % of {score.n}; {result.seconds:.0f} s of training")
    print(f"{args.out.name}: {size_of(args.out) / 1e6:.2f} MB, sha256 {sha256(args.out)}")


if __name__ == "__main__":
    main()
