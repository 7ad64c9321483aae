"""The table of docs/results/dynamic_and_weight_only.md: weight-only and 16-bit EfficientNet-Lite0 on ImageNet photos.

EDGE_LAB_DATA=<folder with imagenet_sample_even.zip> python tools/weight_only_results.py [IMAGES]
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import edge_lab
from edge_lab import compress, data, measure
from edge_lab.compress import Half, WeightOnly

BATCH = 25  # images at once: results do not depend on it, speed and memory do


def outputs(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        parts = [module(torch.from_numpy(np.array(x[i : i + BATCH]))).numpy() for i in range(0, len(x), BATCH)]
    return np.concatenate(parts)


def main(count: int) -> None:
    model = edge_lab.create("efficientnet_lite0")
    inputs = measure.prepare(data.load("imagenet-sample", limit=count), model.spec)
    reference = outputs(model.module, inputs.x)
    recipes = [WeightOnly(8), WeightOnly(8, "tensor"), WeightOnly(8, 32), WeightOnly(4), WeightOnly(4, 32)]
    made = [compress.quantize_weights(model, recipe) for recipe in recipes]
    made.append(compress.to_half(model, Half("bfloat16")))
    print(f"{len(inputs)} images\n")
    print(
        "| model | weights MB | Top-1 % | Top-5 % | agreement % | SQNR dB |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for each in [model, *made]:
        got = outputs(each.module, inputs.x)
        score, parity = measure.score(got, inputs.targets), measure.parity(reference, got)
        megabytes = compress.quantized_layers(each.module).after / 1e6
        row = f"{score.top1:.1f} | {score.top5:.1f} | {parity.agreement:.1f} | {parity.sqnr_db:.1f}"
        print(f"| {each.spec.name} | {megabytes:.2f} | {row} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
