"""Prints the tables of docs/results/onnx.md: formats, optimisation levels, loading, float16 in two ways, layers.

python tools/onnx_results.py [--images 100] [--out artifacts]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

import edge_lab
from edge_lab import measure
from edge_lab.compress import Half, to_half
from edge_lab.formats.onnx import levels as onnx_levels
from edge_lab.formats.onnx.ort import LEVELS

TARGETS = ("linux-onnx-fp32", "android-ort-fp32", "linux-onnx-fp16", "linux-onnx-int8", "android-ort-int8")


def main() -> None:
    """Make the bundles, run them in turns, print markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", default="artifacts")
    args = parser.parse_args()
    model = edge_lab.create("efficientnet_lite0")
    crops = edge_lab.data.load("crops").take(args.images)
    inputs = [edge_lab.preprocess(crops[i], model.spec) for i in range(len(crops))]
    reference = measure.outputs_of(edge_lab.eager(model), inputs)
    bundles = {target: edge_lab.to(model, target, out=args.out) for target in TARGETS}
    formats(bundles, inputs, reference, args.rounds)
    cast_first(model, inputs, reference, args.out)
    levels(bundles, inputs, reference, args.rounds)
    print("\n| program | layers compared | lowest dB | at layer |\n| --- | ---: | ---: | --- |")
    for target in ("linux-onnx-fp32", "linux-onnx-fp16", "linux-onnx-int8"):
        layers = measure.first_divergence(model, bundles[target], inputs[0]).layers
        worst = min(layers, key=lambda layer: layer.sqnr_db)
        print(f"| {target} | {len(layers)} | {worst.sqnr_db:.1f} | {worst.name} |")


def formats(bundles: dict[str, edge_lab.Bundle], inputs: list[np.ndarray], reference: np.ndarray, rounds: int) -> None:
    """Size, time, loading and parity of each bundle."""
    runs = {target: edge_lab.load(bundle) for target, bundle in bundles.items()}
    run = measure.interleaved({t: partial(r, inputs[0]) for t, r in runs.items()}, rounds=rounds)
    loads = {t: partial(edge_lab.load, b) for t, b in bundles.items()}
    load = measure.interleaved(loads, rounds=max(3, rounds // 3), warmup=1)
    print("| program | MB | times as fast | load, CPU ms | SQNR dB | agreement % |\n| --- |" + " ---: |" * 5)
    first = run[TARGETS[0]]
    for target, bundle in bundles.items():
        p = measure.parity(reference, measure.outputs_of(runs[target], inputs))
        fast, ms = measure.ratio(first, run[target]).value, load[target].p50_ms
        print(f"| {target} | {bundle.program_bytes / 1e6:.2f} | {fast:.2f} | {ms:.0f} | ", end="")
        print(f"{p.sqnr_db:.1f} | {p.agreement:.1f} |")


def cast_first(model: edge_lab.Model, inputs: list[np.ndarray], reference: np.ndarray, out: str | Path) -> None:
    """The other way to float16: the module is cast, then exported."""
    half = to_half(model, Half("float16"))
    session = edge_lab.load(edge_lab.to(half, "linux-onnx-fp16", out=out))
    p = measure.parity(reference, measure.outputs_of(session, inputs))
    print(f"\nfloat16 by casting the module before the export: {p.sqnr_db:.1f} dB, {p.agreement:.1f} %")


def levels(bundles: dict[str, edge_lab.Bundle], inputs: list[np.ndarray], reference: np.ndarray, rounds: int) -> None:
    """What each optimisation level leaves of the graph, and what that brings."""
    print("\n| program | level | operators | Conv and kin | times as fast | SQNR dB |\n| --- | --- |" + " ---: |" * 4)
    for target in ("linux-onnx-fp32", "linux-onnx-fp16", "linux-onnx-int8"):
        runs = {level: edge_lab.load(bundles[target], level=level) for level in LEVELS}
        times = measure.interleaved({n: partial(r, inputs[0]) for n, r in runs.items()}, rounds=rounds)
        for level in LEVELS:
            counts = onnx_levels.optimized(bundles[target].program_path, level).operators
            kin = ", ".join(f"{n} {name.split('.')[-1]}" for name, n in counts.items() if "Conv" in name)
            fast = measure.ratio(times["disable"], times[level]).value
            db = measure.parity(reference, measure.outputs_of(runs[level], inputs)).sqnr_db
            print(f"| {target} | {level} | {sum(counts.values())} | {kin} | {fast:.2f} | {db:.1f} |")


if __name__ == "__main__":
    main()
