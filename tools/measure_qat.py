"""Post-training quantization against quantization-aware training, on digits in the wild or CIFAR-10.

    python tools/measure_qat.py --bits 2                  # per channel, three seeds; a minute of one core each
    python tools/measure_qat.py --bits 2 --per-tensor

Prints test accuracy of the float32 net, of the same after post-training quantization, and for each seed: of the float32
net trained on for as long and then quantized (the control), and of quantization-aware training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

from edge_lab import data, train, zoo
from edge_lab.compress.qat import QAT, post_training, qat
from edge_lab.train import FitConfig

CHECKPOINT = Path(__file__).resolve().parent.parent / "labs" / "checkpoints" / "tinynet-digits.safetensors"


def main() -> None:
    """Run what the command line asks for and print one line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--per-tensor", action="store_true")
    parser.add_argument("--dataset", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--weights", default=str(CHECKPOINT), help="checkpoint of tinynet trained on that set")
    parser.add_argument("--images", type=int, default=2000, help="of the training set")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    learn = data.load(args.dataset, "train").take(args.images)
    test = data.load(args.dataset, "test")
    held_out = test.take(200)  # only to draw the curve; nothing is chosen by it
    model = zoo.create("tinynet", weights=args.weights, labels=learn.labels)
    calibration = learn.take(64)

    def show(name: str, scored: zoo.Model) -> float:
        top1 = train.evaluate_module(scored, test).top1
        print(f"{name:44} {top1:6.2f} %", flush=True)
        return top1

    flip = args.dataset != "digits"
    base = show("float32", model)
    recipe = QAT(weight_bits=args.bits, per_channel=not args.per_tensor)
    ptq = show(f"{args.bits} bits after training", post_training(model, calibration, recipe))
    controls, trained = [], []
    for seed in range(args.seeds):
        fit = FitConfig(epochs=args.epochs, batch_size=64, lr=args.lr, flip=flip, seed=seed)
        config = QAT(weight_bits=args.bits, per_channel=not args.per_tensor, fit=fit)
        longer = train.fit(model, learn, held_out, fit, progress=False).model
        controls.append(
            show(f"seed {seed}: trained on in float32, then rounded", post_training(longer, calibration, config))
        )
        trained.append(show(f"seed {seed}: QAT", qat(model, learn, held_out, config, progress=False).model))
    for name, values in {"control": controls, "QAT": trained}.items():
        spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
        back = f", {100 * (mean(values) - ptq) / (base - ptq):.0f} % of the loss recovered" if base > ptq else ""
        print(f"{name}: {mean(values):.2f}{spread}{back}")


if __name__ == "__main__":
    main()
