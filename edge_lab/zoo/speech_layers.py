"""The network of `speechnet`: a log-mel front end and a small separable CNN behind it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_lab.signals.audio import LogMel, hann, mel_filters

WIDTHS = (32, 64, 64, 96, 96, 128, 128)
# Of the blocks, in time and frequency: a word's sounds follow fast on each other.
STRIDES: tuple[int | tuple[int, int], ...] = (2, 1, 1, (1, 2), 1, 1)


class FrontEnd(nn.Module):
    """Waveform (N, samples) to log-mel features (N, 1, frames, mels), with the arithmetic of `signals.audio.log_mel`.

    It has no weights that are learnt, so it is not part of a checkpoint.
    """

    hann: Tensor
    filters: Tensor

    def __init__(self, rate: int, recipe: LogMel) -> None:
        super().__init__()
        self.window, self.hop, self.fft, self.floor = recipe.window, recipe.hop, recipe.fft, recipe.floor
        self.recipe = recipe
        self.register_buffer("hann", torch.from_numpy(hann(recipe.window)), persistent=False)
        filters = torch.from_numpy(mel_filters(rate, recipe).copy())
        self.register_buffer("filters", filters, persistent=False)

    def extra_repr(self) -> str:
        """The recipe, where the module is printed."""
        return repr(self.recipe)

    def forward(self, waveform: Tensor) -> Tensor:
        """Features of a batch of waveforms."""
        frames = waveform.unfold(-1, self.window, self.hop) * self.hann
        spectrum = torch.view_as_real(torch.fft.rfft(frames, self.fft))
        power = spectrum.square().sum(-1)
        return torch.log(functional.linear(power, self.filters) + self.floor).unsqueeze(1)


class Separable(nn.Module):
    """Depthwise 3x3, pointwise, each with batch norm; the input is added where the sizes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Same height and width with stride 1, half of them with stride 2."""
        y = functional.relu(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        return functional.relu(y + x if self.adds else y)


class SpeechBody(nn.Module):
    """Log-mel features (N, 1, frames, mels) to logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        sizes = zip(pairwise(WIDTHS), STRIDES, strict=True)
        self.blocks = nn.Sequential(*[Separable(a, b, stride) for (a, b), stride in sizes])
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(WIDTHS[-1], classes)

    def pooled(self, features: Tensor) -> Tensor:
        """Mean of the last feature map, (N, channels)."""
        x = self.blocks(functional.relu(self.norm(self.stem(features))))
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def answers(self, pooled: Tensor) -> Tensor:
        """Logits of what `pooled` gave."""
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        return self.answers(self.pooled(features))


class SpeechNet(nn.Module):
    """Logits (N, classes) of waveforms (N, samples), or, without a front end, of features (N, 1, frames, mels)."""

    def __init__(self, classes: int, front: FrontEnd | None = None) -> None:
        super().__init__()
        self.front = front
        self.body = SpeechBody(classes)

    def forward(self, heard: Tensor) -> Tensor:
        """Logits."""
        features = heard if self.front is None else self.front(heard)
        logits: Tensor = self.body(features)
        return logits
