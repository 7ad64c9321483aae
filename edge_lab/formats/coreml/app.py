"""A Core ML package for an app: pictures in, a label out, preprocessing inside the program."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_lab.capture.diagnose import diagnose
from edge_lab.core.errors import InputError
from edge_lab.core.quiet import quiet
from edge_lab.formats.coreml.graph import core_ml_graph, pipeline

if TYPE_CHECKING:
    from edge_lab.zoo import Model


@dataclass(frozen=True)
class AppInterface:
    """How an app sees the program.

    Attributes:
        labels: a classifier: Core ML returns the best label and a dictionary of all scores. False: the scores as a
            tensor.
        sizes: picture sizes (height, width) that it takes besides the model's own. The network must work at any of
            them, so it must not have a fixed size built in.
        precision: of the arithmetic.
    """

    labels: bool = True
    sizes: tuple[tuple[int, int], ...] = ()
    precision: Literal["fp16", "fp32"] = "fp16"


def app_package(model: Model, path: Path | str, interface: AppInterface | None = None) -> Path:
    """Write an .mlpackage whose input is a picture and whose output is a label; iOS 16 and later, any platform.

    Core ML's own image input has one scale for all channels. Networks want a mean and a standard deviation for each, so
    they become the first operators of the program. Resizing and cropping stay the app's: Core ML (or Vision) hands over
    pictures of one of the program's sizes.

    Args:
        model: a classifier of pictures, with labels.
        path: of the package; replaced if it is there.
        interface: default: the model's own size, labels, fp16.

    Returns:
        The path.

    Raises:
        InputError: the model takes no pictures or has no labels.
        ExportError: it can't be converted, or not for these sizes.
    """
    interface, path = interface or AppInterface(), Path(path)
    _check(model, interface, path)
    try:
        with quiet():
            converted = _convert(model, interface)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            converted.save(str(part))
            if path.exists():
                shutil.rmtree(path)
            part.replace(path)
    except Exception as error:  # the converter raises whatever it likes
        raise diagnose(error, model.spec.name, "a Core ML package") from error
    return path


def _check(model: Model, interface: AppInterface, path: Path) -> None:
    spec = model.spec
    if spec.preprocess is None or spec.preprocess.color == "BGR" or spec.task not in ("classify", "keyword"):
        raise InputError(
            f"{spec.name} can't take pictures in Core ML.",
            f"its task is {spec.task!r}, and its preprocessing is {spec.preprocess}.",
            'use a classifier of RGB or gray pictures, or edge_lab.to(model, "ios-coreml-fp16") for a tensor input.',
        )
    if interface.labels and not spec.labels:
        raise InputError(
            f"{spec.name} has no labels.",
            "a Core ML classifier returns one by its name.",
            "give the model labels, or pass AppInterface(labels=False).",
        )
    if path.suffix != ".mlpackage" or not path.parent.is_dir():
        raise InputError(
            f"{path} can't be written.", "its folder must exist and its name end in .mlpackage.", "choose another path."
        )


def unique_labels(labels: tuple[str, ...]) -> list[str]:
    """Labels as keys of a dictionary: one that occurs twice (ImageNet: crane, maillot) gets its class number.

    Core ML returns the scores by name; of two classes with one name it would keep one.
    """
    count = Counter(labels)
    return [label if count[label] == 1 else f"{label} ({i})" for i, label in enumerate(labels)]


def _convert(model: Model, interface: AppInterface) -> Any:
    import coremltools as ct
    import torch

    from edge_lab.capture.wrap import Pictures

    spec = model.spec
    assert spec.preprocess is not None
    own = (int(spec.input.shape[2]), int(spec.input.shape[3]))
    sizes = sorted({own, *interface.sizes})
    channels = int(spec.input.shape[1])
    shapes = [(1, channels, *size) for size in sizes]
    dynamic = None
    if len(sizes) > 1:
        low, high = (min(min(size) for size in sizes), max(max(size) for size in sizes))
        free = {2: torch.export.Dim("height", min=low, max=high), 3: torch.export.Dim("width", min=low, max=high)}
        dynamic = (free,)
    module = Pictures(model.module, spec.preprocess, softmax=interface.labels and spec.postprocess.softmax).eval()
    example = (torch.zeros(1, channels, *own),)
    with torch.no_grad():
        for shape in shapes:
            module(torch.zeros(shape))  # a network with a size built in fails here, with its own words
    program = core_ml_graph(torch.export.export(module, example, dynamic_shapes=dynamic))
    converted = ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[
            ct.ImageType(
                name=spec.input.name,
                shape=shapes[0] if len(shapes) == 1 else ct.EnumeratedShapes(shapes, default=(1, channels, *own)),
                color_layout=ct.colorlayout.GRAYSCALE if spec.preprocess.color == "L" else ct.colorlayout.RGB,
            )
        ],
        classifier_config=ct.ClassifierConfig(unique_labels(spec.labels)) if interface.labels else None,
        compute_precision=ct.precision.FLOAT16 if interface.precision == "fp16" else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
        pass_pipeline=pipeline(program),
    )
    converted.short_description = f"{spec.name}, made by edge-lab"
    return converted
