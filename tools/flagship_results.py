"""fp32 against int8, as ExecuTorch programs: size, speed, accuracy, agreement. For docs/results/flagship.md.

    EDGE_LAB_DATA=<folder with imagenet_sample_even.zip> python tools/flagship_results.py

MobileNetV3-Small with the weights of labs/checkpoints on 2000 test digits, the same network for 224x224 with random
weights (size and speed only), EfficientNet-Lite0 with its ImageNet weights on the 500 photos. TorchScript stands beside
them for its size and speed. Speed is the median ratio of interleaved rounds, CPU time, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import make_mobilenet_digits as mobilenet

from edge_lab import data, measure, zoo
from edge_lab.data import ImageSet
from edge_lab.export import to
from edge_lab.formats.runtime import load
from edge_lab.quality.agreement import outputs_of
from edge_lab.zoo import Model

TARGETS = ("linux-xnnpack-fp32", "linux-xnnpack-int8", "linux-torchscript-fp32")


@dataclass(frozen=True)
class Case:
    """A network, the images to score it on (None: its weights are random), and those that calibrate int8."""

    model: Model
    images: ImageSet | None
    calibration: ImageSet | None = None
    rounds: int = 100


def cases() -> Iterator[Case]:
    """The rows of the table, one after the other."""
    test = data.load("digits", "test")
    weights = mobilenet.path_of(mobilenet.FOLDER, "digits")
    digits = zoo.create(f"{mobilenet.__file__}:build", weights=str(weights), labels=test.labels)
    yield Case(digits, test, data.load("digits", "val").take(32), rounds=300)
    large = zoo.create("mobilenet_v3_small", weights="random")
    yield Case(replace(large, spec=large.spec.with_(name="mobilenet_v3_small_random")), None)
    yield Case(zoo.create("efficientnet_lite0"), data.load("imagenet-sample"))


def show(case: Case, out: Path) -> None:
    """Export, time in turns, score; print a few lines."""
    golden = None if case.images is None else case.images.take(5)
    bundles = {t: to(case.model, t, calibration=case.calibration, golden=golden, out=out) for t in TARGETS}
    sessions = {t: load(bundle) for t, bundle in bundles.items()}
    _, x, _ = next(bundles[TARGETS[0]].golden_cases())
    times = measure.interleaved({t: partial(s.run, x) for t, s in sessions.items()}, rounds=case.rounds, threads=1)
    print(f"{case.model.spec.name}, input {case.model.spec.input.shape}")
    for name, bundle in bundles.items():
        speed = measure.ratio(times[TARGETS[0]], times[name])
        print(f"  {name:24} {bundle.program_bytes / 1e6:6.2f} MB  {speed} as fast", flush=True)
    if case.images is None:
        return
    inputs = measure.prepare(case.images, case.model.spec)
    reference, rounded = (outputs_of(sessions[t], inputs) for t in TARGETS[:2])
    close = measure.parity(reference, rounded)
    before, after = (measure.score(o, inputs.targets).top1 for o in (reference, rounded))
    assert before is not None
    assert after is not None  # both sets have labels
    print(f"  {len(inputs)} images: Top-1 {before:.2f} % in fp32, {after:.2f} % in int8, {before - after:+.2f} lost")
    print(f"  agreement {close.agreement:.2f} %, {close.sqnr_db:.1f} dB", flush=True)


def main() -> None:
    """Print every case."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("artifacts/flagship"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in cases():
        show(case, options.out)


if __name__ == "__main__":
    main()
