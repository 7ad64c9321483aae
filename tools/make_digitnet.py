"""Train digitnet and digitnet_tiny on real handwriting, write their checkpoints, and say what int8 in C makes of them.

python tools/make_digitnet.py train     writes edge_lab/assets/digitnet*.safetensors (minutes on one core)
python tools/make_digitnet.py score     fp32, and int8 as C on this machine, on all test digits
"""

from __future__ import annotations

import argparse
import tempfile

import edge_lab
from edge_lab import data, train, zoo
from edge_lab.core.files import writing_file
from edge_lab.quality.accuracy import evaluate, prepare
from edge_lab.zoo.digitnet import ASSETS

NAMES = ("digitnet", "digitnet_tiny")
CONFIG = train.FitConfig(epochs=20, batch_size=64, lr=0.1, shift=2, label_smoothing=0.05)
CALIBRATION = 128


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("train", "score"))
    if p.parse_args().what == "train":
        for name in NAMES:
            fit(name)
    score()


def fit(name: str) -> None:
    from safetensors.torch import save_file

    model = zoo.create(name, weights="random")
    done = train.fit(model, data.load("handwriting", "train"), data.load("handwriting", "val"), CONFIG)
    with writing_file(ASSETS / f"{name}.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in done.model.module.state_dict().items()}, temporary)
    print(f"{name}: validation {done.history[-1].val_top1:.2f} %")


def score() -> None:
    test = data.load("handwriting", "test")
    calibration = data.load("handwriting", "train", limit=CALIBRATION)
    for name in NAMES:
        model = zoo.create(name)
        inputs = prepare(test, model.spec)
        with tempfile.TemporaryDirectory() as folder:
            bundle = edge_lab.to(model, "mcu-cortex-m4-int8", calibration=calibration, golden=test, out=folder)
            inside = evaluate(edge_lab.load(bundle), inputs)
        floats = evaluate(edge_lab.eager(model), inputs)
        print(f"{name}: {len(test)} test digits, fp32 {floats.top1:.2f} %, int8 in C {inside.top1:.2f} %")


if __name__ == "__main__":
    main()
