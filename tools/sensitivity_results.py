"""The numbers of docs/results/sensitivity.md. Each part takes some minutes on one core.

    EDGE_LAB_DATA=FOLDER python tools/sensitivity_results.py layers|mixed|auto
    python tools/sensitivity_results.py equalize|auto-small

`layers`, `mixed` and `auto` run EfficientNet-Lite0 on the ImageNet sample and need EDGE_LAB_DATA.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import edge_lab
from edge_lab import data, zoo
from edge_lab.compress import (
    CompressionBudget,
    StaticInt8,
    auto,
    equalizable,
    equalize,
    quantize,
    sensitivity,
)
from edge_lab.compress.search.auto import STOCK
from edge_lab.compress.search.score import Judge
from edge_lab.compress.static.inputs import arrays
from edge_lab.compress.static.rounding import Nearest
from edge_lab.export import target, to
from edge_lab.measure import parity, prepare, score
from edge_lab.quality.agreement import outputs_of

CHECKPOINTS = Path(__file__).parents[1] / "labs/checkpoints"
OURS = StaticInt8()


def layers() -> None:
    """The sensitivity report of two recipes, on four of the photos."""
    model, photos = edge_lab.create("efficientnet_lite0"), data.load("imagenet-sample")
    for name, config in (("stock", STOCK), ("StaticInt8()", OURS)):
        start = time.process_time()
        report = sensitivity(model, photos, config)
        print(f"\n{name}, {time.process_time() - start:.0f} s of CPU time\n{report.markdown(8)}")


def mixed() -> None:
    """Programs with 0, 1, 2, 4 and 8 layers in float, both recipes, run by ExecuTorch on all photos."""
    model = edge_lab.create("efficientnet_lite0")
    calibration = data.load("calibration", limit=32)
    inputs = prepare(data.load("imagenet-sample"), model.spec)
    reference = outputs_of(edge_lab.eager(model), inputs)
    print(f"{len(inputs)} photos, fp32 Top-1 {score(reference, inputs.targets).top1:.1f} %")
    for name, config, counts in (("stock", STOCK, (0, 2, 4)), ("StaticInt8()", OURS, (0, 2, 4, 8))):
        worst = sensitivity(model, calibration, config).worst(8)
        print(f"{name}: {', '.join(worst)}")
        for n in counts:
            goal = replace(target("android-xnnpack-int8"), quantize=replace(config, keep_float=worst[:n]))
            bundle = to(model, goal, calibration=calibration, out=f"artifacts/mixed/{name[:5]}-{n}")
            outputs = outputs_of(edge_lab.load(bundle), inputs)
            close, accuracy = parity(reference, outputs), score(outputs, inputs.targets)
            print(
                f"| {name} | {n} | {bundle.program_bytes / 1e6:.3f} | {close.agreement:.1f} | {close.sqnr_db:.1f} | "
                f"{accuracy.top1:.1f} | {100 * (bundle.runtime.delegated or 0):.0f} % |",
                flush=True,
            )


def equalised() -> None:
    """Cross-layer equalisation: per-tensor and per-channel int8 of three networks, as PyTorch simulates it."""
    digits, learnt = data.load("digits", "test").take(300), data.load("digits", "train").take(32)
    tiny = zoo.create("tinynet", weights=str(CHECKPOINTS / "tinynet-digits.safetensors"))
    lite = edge_lab.create("efficientnet_lite0")
    cases = ((tiny, digits, learnt), (lite, data.load("crops", limit=60), data.load("calibration", limit=32)))
    for model, images, calibration in cases:
        print(f"\n{model.spec.name}: {equalizable(model)}")
        rows, pictures = arrays(images, model, "evaluation"), arrays(calibration, model, "calibration")
        judge = Judge(model, rows, images.targets)
        for per_channel in (False, True):
            for name, net in (("as it is", model), ("equalised", equalize(model))):
                config = StaticInt8(per_channel=per_channel, correct_bias=False, rounding=Nearest(), float_scores=False)
                found = judge.score(quantize(net.module, pictures[0], pictures, config))
                scales = "per channel" if per_channel else "per tensor"
                print(
                    f"| {model.spec.name} | {scales} | {name} | {found.agreement:.1f} | {found.sqnr_db:.1f} |",
                    flush=True,
                )


def search() -> None:
    """`auto` on EfficientNet-Lite0 and 200 photos: an easy and a hard budget; and the chosen program itself."""
    model, photos = edge_lab.create("efficientnet_lite0"), data.load("imagenet-sample", limit=200)
    calibration = data.load("calibration", limit=32)
    for budget in (
        CompressionBudget(min_agreement=98, max_top1_loss=1, max_size_mb=5),
        CompressionBudget(min_sqnr_db=26, max_size_mb=5.2),
    ):
        result = auto(model, photos, budget, calibration=calibration, log=lambda line: print(line, file=sys.stderr))
        print(f"\n{budget}\n{result.markdown()}")
        bundle = to(result.model, "android-xnnpack-int8", out="artifacts/auto")
        inputs = prepare(photos, model.spec)
        outputs = outputs_of(edge_lab.load(bundle), inputs)
        close = parity(outputs_of(edge_lab.eager(model), inputs), outputs)
        print(
            f"the program: {close.agreement:.1f} %, {close.sqnr_db:.2f} dB, {bundle.program_bytes / 1e6:.3f} MB",
            flush=True,
        )


def search_small() -> None:
    """`auto` on a small network, with images to train on as the last resort."""
    model = zoo.create("tinynet", weights=str(CHECKPOINTS / "tinynet-digits.safetensors"))
    images = data.load("digits", "test").take(400)
    for budget in (
        CompressionBudget(min_agreement=99, max_top1_loss=0.5),
        CompressionBudget(min_sqnr_db=38, max_size_mb=0.7),
    ):
        result = auto(model, images, budget, log=lambda line: print(line, file=sys.stderr))
        print(f"\n{budget}\n{result.markdown()}", flush=True)


PARTS = {"layers": layers, "mixed": mixed, "equalize": equalised, "auto": search, "auto-small": search_small}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        raise SystemExit(f"usage: python tools/sensitivity_results.py {'|'.join(PARTS)}")
    PARTS[sys.argv[1]]()
