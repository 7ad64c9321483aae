"""EfficientNet-Lite0 as XNNPACK int8: what each part of the recipe brings, against ExecuTorch's stock quantizer.

    EDGE_LAB_DATA=FOLDER python tools/compare_int8_recipes.py

Agreement and SQNR against eager fp32 on the ImageNet sample; latency as the median ratio of interleaved rounds, in CPU
time on one thread.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import edge_lab
from edge_lab import data
from edge_lab.compress import StaticInt8
from edge_lab.compress.static.rounding import Nearest
from edge_lab.export import target, to
from edge_lab.measure import interleaved, parity, prepare, ratio, score
from edge_lab.quality.agreement import outputs_of

FUSED = StaticInt8(fuse_pad=False, correct_bias=False, float_scores=False, rounding=Nearest())
RECIPES = {
    "stock": replace(FUSED, fuse_relu6=False),
    "+ conv and ReLU6 as one": FUSED,
    "+ pads in int8": replace(FUSED, fuse_pad=True),
    "+ bias correction": StaticInt8(float_scores=False, rounding=Nearest()),
    "+ second-order rounding": StaticInt8(float_scores=False),
    "+ float scores": StaticInt8(),
}


def main() -> None:
    """Print one row per recipe."""
    model = edge_lab.create("efficientnet_lite0")
    inputs = prepare(data.load("imagenet-sample"), model.spec)
    reference = outputs_of(edge_lab.eager(model), inputs)
    base = target("android-xnnpack-int8")
    bundles = {
        name: to(model, replace(base, quantize=recipe), out=f"artifacts/recipes/{i}")
        for i, (name, recipe) in enumerate(RECIPES.items())
    }
    sessions = {name: edge_lab.load(bundle) for name, bundle in bundles.items()}
    times = interleaved({name: partial(s.run, inputs[0]) for name, s in sessions.items()}, rounds=60, threads=1)
    print(f"{len(inputs)} photos, fp32 Top-1 {score(reference, inputs.targets).top1:.1f} %")
    for name, session in sessions.items():
        outputs = outputs_of(session, inputs)
        close, accuracy = parity(reference, outputs), score(outputs, inputs.targets)
        faster = ratio(times["stock"], times[name])
        print(
            f"{name:24} Top-1 {accuracy.top1:5.1f} %  agreement {close.agreement:5.1f} %  {close.sqnr_db:5.1f} dB  "
            f"{bundles[name].program_bytes / 1e6:.2f} MB  {faster.value:.2f}x as fast as stock"
        )


if __name__ == "__main__":
    main()
