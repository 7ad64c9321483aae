"""Post-training quantization against quantization-aware training, on digits in the wild or CIFAR-10.

    python tools/measure_qat.py --after                        # only rounded after training: 8, 4, 3, 2 bits
    python tools/measure_qat.py --bits 2                       # per channel, three seeds; a minute of one core
    python tools/measure_qat.py --bits 2 --per-tensor
    python tools/measure_qat.py --dataset cifar10 --images 10000 --bits 2    # needs $EDGE_LAB_DATA; minutes

Starts from the trained `tinynet` that comes with the repository, or from another checkpoint (--weights). Prints test
accuracy of the float32 net, of the same after post-training quantization, and for each seed: of the float32 net trained
on for as long and then quantized (one control), of quantization-aware training with a learning rate of nearly zero,
where only ranges and batch norm statistics adapt (the other), and of quantization-aware training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from edge_lab import data, train, zoo
from edge_lab.compress.qat.training import QAT, post_training, qat
from edge_lab.data import ImageSet
from edge_lab.train import FitConfig

CHECKPOINTS = Path(__file__).resolve().parent.parent / "labs" / "checkpoints"
TRAINED = {"digits": "tinynet-digits.safetensors", "cifar10": "teacher_cifar10.safetensors"}
Show = Callable[[str, zoo.Model], float]


def main() -> None:
    """Run what the command line asks for and print one line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--after", action="store_true", help="only rounding after training, at 8, 4, 3 and 2 bits")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--per-tensor", action="store_true")
    parser.add_argument("--dataset", choices=tuple(TRAINED), default="digits")
    parser.add_argument("--weights", type=Path, help="checkpoint of tinynet trained on that set")
    parser.add_argument("--images", type=int, default=2000, help="of the training set")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    learn, test = data.load(args.dataset, "train"), data.load(args.dataset, "test")

    def show(name: str, scored: zoo.Model) -> float:
        top1 = train.evaluate_module(scored, test).top1
        print(f"{name:44} {top1:6.2f} %", flush=True)
        return top1

    weights = args.weights or CHECKPOINTS / TRAINED[args.dataset]
    model = zoo.create("tinynet", weights=str(weights), labels=learn.labels)
    base = show("float32", model)
    if args.after:
        _after(model, learn.take(args.images).take(64), show)
    else:
        _compare(model, learn.take(args.images), test.take(200), base, args, show)


def _after(model: zoo.Model, calibration: ImageSet, show: Show) -> None:
    for bits in (8, 4, 3, 2):
        for per_channel in (True, False):
            rounded = post_training(model, calibration, QAT(weight_bits=bits, per_channel=per_channel))
            show(f"{bits} bits per {'channel' if per_channel else 'tensor'}, after training", rounded)


def _compare(
    model: zoo.Model, learn: ImageSet, held_out: ImageSet, base: float, args: argparse.Namespace, show: Show
) -> None:
    """`held_out` only draws the curve: nothing is chosen by it."""
    calibration, per_channel = learn.take(64), not args.per_tensor
    ptq = show(f"{args.bits} bits after training", post_training(model, calibration, QAT(args.bits, per_channel)))
    results: dict[str, list[float]] = {"trained on in float32, then rounded": [], "statistics only": [], "QAT": []}
    for seed in range(args.seeds):
        flip = args.dataset != "digits"
        fit = FitConfig(epochs=args.epochs, batch_size=64, lr=args.lr, flip=flip, seed=seed)
        longer = train.fit(model, learn, held_out, fit, progress=False).model
        runs = [post_training(longer, calibration, QAT(args.bits, per_channel))]
        for lr in (1e-7, args.lr):
            config = QAT(args.bits, per_channel, fit=replace(fit, lr=lr))
            runs.append(qat(model, learn, held_out, config, progress=False).model)
        for (name, values), run in zip(results.items(), runs, strict=True):
            values.append(show(f"seed {seed}: {name}", run))
    for name, values in results.items():
        spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
        lost = base - ptq
        back = f", {100 * (mean(values) - ptq) / lost:.0f} % of the {lost:.2f} points recovered" if lost > 0 else ""
        print(f"{name}: {mean(values):.2f}{spread}{back}")


if __name__ == "__main__":
    main()
