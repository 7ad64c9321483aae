"""Names of classes that come with a library."""

from __future__ import annotations


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet class names in index order, as torchvision ships them (no network)."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
