"""The network of `digitnet`."""

from __future__ import annotations

from torch import Tensor, nn


class DigitNet(nn.Module):
    """Grey digits (N, 1, 28, 28) to logits (N, classes).

    One strided convolution, then three separable layers; channels double at the second one.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(1, width, 3, 2),
            *_separable(width, 2 * width, 1),
            *_separable(2 * width, 4 * width, 2),
            *_separable(4 * width, 4 * width, 1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def _conv(inputs: int, outputs: int, size: int, stride: int, groups: int = 1) -> tuple[nn.Module, ...]:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return layer, nn.BatchNorm2d(outputs), nn.ReLU()


def _separable(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return *_conv(inputs, inputs, 3, stride, inputs), *_conv(inputs, outputs, 1, 1)
