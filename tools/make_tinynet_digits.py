"""Trains the network that labs 05 and later start from, and stores it in half precision.

    python tools/make_tinynet_digits.py     # two minutes of one core

Writes labs/checkpoints/tinynet-digits.safetensors and prints its test accuracy before and after rounding to fp16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_lab import data, train, zoo
from edge_lab.core.files import writing_file

OUT = Path(__file__).resolve().parent.parent / "labs" / "checkpoints" / "tinynet-digits.safetensors"
CONFIG = train.FitConfig(epochs=3, batch_size=64, lr=0.15)


def main() -> None:
    """Train, store, load again, compare."""
    from safetensors.torch import save_file

    net = zoo.create("tinynet")
    result = train.fit(net, data.load("digits", "train"), data.load("digits", "val"), CONFIG)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in result.model.module.state_dict().items()}
    with writing_file(OUT) as temporary:
        save_file({k: v.contiguous() for k, v in halves.items()}, temporary)
    again = zoo.create("tinynet", weights=str(OUT))
    test = data.load("digits", "test")
    for name, model in {"trained": replace(result.model, spec=again.spec), "stored as fp16": again}.items():
        print(f"{name:16} {train.evaluate_module(model, test).top1:.2f} % of {len(test)} test images")
    print(f"{OUT.name}: {OUT.stat().st_size / 1e6:.2f} MB, {result.seconds:.0f} s of training")


if __name__ == "__main__":
    main()
