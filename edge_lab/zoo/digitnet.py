"""A digit reader for microcontrollers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.bundle.spec import Preprocess
from edge_lab.core.errors import InputError
from edge_lab.zoo.model import Model, Shape, from_module
from edge_lab.zoo.registry import register
from edge_lab.zoo.weights import fill, read_checkpoint

if TYPE_CHECKING:
    from torch import nn

ASSETS = Path(__file__).resolve().parent.parent / "assets"
_DIGITS = tuple("0123456789")
_LICENCE = "CC BY-SA 3.0 (trained on MNIST digits)"


@register
def digitnet(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """Handwritten digits, 28x28 grey: a separable CNN of 31 thousand parameters and 1.8 M multiply-adds.

    Operators that microcontroller kernels have: convolutions, ReLU, average pooling, one linear layer. "default" loads
    the weights that tools/make_digitnet.py trained.
    """
    return _build("digitnet", 32, weights, labels, input_shape)


@register
def digitnet_tiny(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """`digitnet` with a quarter of the channels, for boards with 20 KB of RAM."""
    return _build("digitnet_tiny", 8, weights, labels, input_shape)


def _build(name: str, width: int, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    if weights == "imagenet" or input_shape not in (None, (1, 1, 28, 28)):
        raise InputError(
            f"{name} reads 28x28 grey digits only.",
            "it was made for a microcontroller, and has neither ImageNet weights nor another size.",
            'leave input_shape out, and pass weights="default", "random" or a checkpoint.',
        )
    source = str(ASSETS / f"{name}.safetensors") if weights == "default" else weights
    if labels is None and weights not in ("default", "random"):
        labels = read_checkpoint(Path(source).expanduser()).labels or None
    names = labels or _DIGITS

    def build() -> nn.Module:
        from edge_lab.zoo.digit_layers import DigitNet

        return DigitNet(width, len(names))

    module, trained_on = fill(build, source)
    model = from_module(
        module,
        (1, 1, 28, 28),
        name=name,
        preprocess=Preprocess(resize=28, crop=(28, 28), mean=(0.0,), std=(1.0,), color="L"),
        labels=names,
        task="classify",
        weights="handwriting" if weights == "default" else trained_on,
    )
    return Model(model.module, model.spec.with_(licence=_LICENCE if weights == "default" else ""))
