"""Every runtime beside every other, on 100 real images. For docs/results/parity.md.

    EDGE_LAB_DATA=<folder with imagenet_sample_even.zip> python tools/parity_matrix.py [lite0|mobilenet]

EfficientNet-Lite0 with its ImageNet weights on photos; MobileNetV3-Small with the weights of labs/checkpoints on test
digits.
Core ML programs are interpreted where Core ML does not exist: that checks the file, it is no device's answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import make_mobilenet_digits as mobilenet

from edge_lab import data, measure, zoo
from edge_lab.core.errors import EdgeLabError
from edge_lab.data import ImageSet
from edge_lab.export import to
from edge_lab.formats.coreml.mil.run import ENGINE
from edge_lab.formats.runtime import Session, eager
from edge_lab.zoo import Model

IMAGES = 100
FULL = (
    "linux-torchscript-fp32",
    "linux-lite-fp32",
    "linux-pt2-fp32",
    "linux-inductor-fp32",
    "linux-onnx-fp32",
    "android-ort-fp32",
    "linux-xnnpack-fp32",
    "ios-coreml-fp32",
    "ios-coreml-pte-fp32",
)
HALF = (
    "linux-torchscript-fp16",
    "linux-pt2-fp16",
    "linux-onnx-fp16",
    "linux-xnnpack-fp16",
    "ios-coreml-fp16",
    "ios-coreml-pte-fp16",
)


def case(name: str) -> tuple[Model, ImageSet]:
    """The network and the images of one table."""
    if name == "lite0":
        return zoo.create("efficientnet_lite0"), data.load("imagenet-sample").take(IMAGES)
    test = data.load("digits", "test")
    weights = mobilenet.path_of(mobilenet.FOLDER, "digits")
    model = zoo.create(f"{mobilenet.__file__}:build", weights=str(weights), labels=test.labels)
    return model, test.take(IMAGES)


def sessions(model: Model, targets: tuple[str, ...], golden: ImageSet, out: Path) -> dict[str, Session]:
    """A session of each target that exports and answers here; the others are printed with their reason."""
    found = {"eager": eager(model)}
    for target in targets:
        try:
            session = measure.run_or_interpret(to(model, target, golden=golden, out=out))
        except EdgeLabError as error:
            print(f"{target}: {error.what} {error.why}")
            continue
        name = target.split("-", 1)[1]
        found[f"{name} (interpreted)" if session.engine == ENGINE else name] = session
    return found


def main() -> None:
    """Print the tables; draw each matrix beside the bundles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=["lite0", "mobilenet"], help="default: both")
    parser.add_argument("--out", type=Path, default=Path("artifacts"))
    options = parser.parse_args()
    for name in [options.case] if options.case else ["lite0", "mobilenet"]:
        model, images = case(name)
        inputs = measure.prepare(images, model.spec)
        print(f"{model.spec.name}, {len(images)} images of {images.name}")
        for targets in (FULL, HALF):
            matrix = measure.parity_matrix(sessions(model, targets, images.take(5), options.out), inputs)
            print(matrix, "\n", flush=True)
            kind = targets[0].rsplit("-", 1)[1]
            matrix.plot().figure.savefig(options.out / f"parity_{name}_{kind}.png", dpi=110)
            matrix.worst_inputs(images).savefig(options.out / f"worst_{name}_{kind}.png", dpi=110)


if __name__ == "__main__":
    main()
