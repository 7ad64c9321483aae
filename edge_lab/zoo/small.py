"""Networks that a CPU can train, and the mobile classics of torchvision."""

from __future__ import annotations

from pathlib import Path

from edge_lab.bundle.spec import Preprocess
from edge_lab.core.errors import InputError
from edge_lab.core.files import writing_file
from edge_lab.zoo.hubs import from_torchvision
from edge_lab.zoo.model import Model, Shape, from_module, join_origin, split_origin
from edge_lab.zoo.registry import register
from edge_lab.zoo.weights import fill, read_checkpoint


@register
def tinynet(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """A plain residual network for 32x32 RGB images: 12 M multiply-adds, 0.31 M parameters, 10 classes.

    Plain 3x3 convolutions, because they train fastest on a CPU. It has no pretrained weights: "default" means
    random until `edge_lab.train.fit` has trained it; weights=PATH loads a trained one with its labels.
    """
    if weights == "imagenet":
        raise InputError(
            "tinynet has no ImageNet weights.",
            "it is trained in lab 01, on small pictures.",
            'leave weights out (random), or pass weights="PATH" of a checkpoint that zoo.save wrote.',
        )
    weights = "random" if weights == "default" else weights
    if labels is None and weights != "random":
        labels = read_checkpoint(Path(weights).expanduser()).labels or None
    labels = labels or tuple("0123456789")

    def build() -> object:
        from edge_lab.zoo.small_resnet import SmallResNet

        return SmallResNet(len(labels))

    shape = input_shape or (1, 3, 32, 32)
    crop = (shape[2], shape[3])
    module, trained_on = fill(build, weights)  # type: ignore[arg-type]
    preprocess = Preprocess(resize=max(crop), crop=crop, mean=(0.5,) * 3, std=(0.25,) * 3)
    return from_module(
        module, shape, name="tinynet", preprocess=preprocess, labels=labels, task="classify", weights=trained_on
    )


@register
def mobilenet_v3_small(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """MobileNetV3-Small (Howard et al. 2019), 2.5 M parameters, 57 M multiply-adds at 224x224."""
    return from_torchvision("mobilenet_v3_small", weights=weights, labels=labels, input_shape=input_shape)


@register
def mobilenet_v3_large(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """MobileNetV3-Large (Howard et al. 2019), 5.5 M parameters, 217 M multiply-adds at 224x224."""
    return from_torchvision("mobilenet_v3_large", weights=weights, labels=labels, input_shape=input_shape)


@register
def resnet18(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """ResNet-18 (He et al. 2015), 11.7 M parameters, 1814 M multiply-adds at 224x224."""
    return from_torchvision("resnet18", weights=weights, labels=labels, input_shape=input_shape)


def save(model: Model, path: Path | str) -> Model:
    """Write weights, labels and what they were trained on to a .pt file that `create(..., weights=PATH)` reads.

    Returns:
        The same model; its origin, if it had one, now names the file.
    """
    import torch

    path = Path(path).resolve()
    with writing_file(path) as temporary:
        torch.save(
            {
                "state_dict": model.module.state_dict(),
                "weights": model.spec.weights,
                "labels": list(model.spec.labels),
                "name": model.spec.name,
            },
            temporary,
        )
    if model.origin is None:
        return model
    base, options = split_origin(model.origin)
    return Model(model.module, model.spec, join_origin(base, **{**options, "weights": str(path)}))
