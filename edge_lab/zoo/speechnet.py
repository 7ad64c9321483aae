"""Spoken digits: the same trained network with its front end inside, and without it for a microcontroller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.bundle.spec import ModelSpec, TensorSpec
from edge_lab.core.errors import InputError
from edge_lab.signals.audio import Audio, Listen, LogMel
from edge_lab.zoo.model import Model, Shape
from edge_lab.zoo.registry import register
from edge_lab.zoo.weights import fill, read_checkpoint

if TYPE_CHECKING:
    from torch import nn

ASSET = Path(__file__).resolve().parent.parent / "assets" / "speechnet.safetensors"
BACKGROUND = "background"
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", BACKGROUND)
RECIPE = LogMel()
_TRAINED_ON = "spoken-digits"
_LICENCE = "CC BY-SA 4.0 (trained on the Free Spoken Digit Dataset)"


@register
def speechnet(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """Spoken digits from one second of sound at 16 kHz: log-mel front end and a separable CNN in one graph.

    59 thousand parameters, 6 M multiply-adds without the front end, ten digits and a background. "default" loads the
    weights that tools/make_speechnet.py trained, with Google's speech embedding as a teacher; what they achieve is in
    docs/results/speech.md.
    """
    return _build("speechnet", weights, labels, input_shape, front=True)


@register
def speechnet_features(*, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """`speechnet` without its front end, for devices that compute the log-mel map themselves: input (1, 1, 61, 40)."""
    return _build("speechnet_features", weights, labels, input_shape, front=False)


def _build(name: str, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None, *, front: bool) -> Model:
    audio = Audio(features=None if front else RECIPE, listen=Listen(smooth=5, threshold=0.6, background=BACKGROUND))
    frames = RECIPE.frames(audio.samples)
    shape = (1, audio.samples) if front else (1, 1, frames, RECIPE.mels)
    if input_shape not in (None, shape):
        raise InputError(
            f"{name} takes inputs of shape {shape}, not {input_shape}.",
            "it hears one second at 16 kHz; its front end and weights are made for that.",
            "leave input_shape out.",
        )
    if weights == "imagenet":
        raise InputError(
            f"{name} has no ImageNet weights.", "it hears, it does not see.", 'leave weights out, or pass "random".'
        )
    source = str(ASSET) if weights == "default" else weights
    if labels is None:
        labels = LABELS if weights in ("default", "random") else read_checkpoint(Path(source).expanduser()).labels
    classes = labels or LABELS

    def build() -> nn.Module:
        from edge_lab.zoo.speech_layers import FrontEnd, SpeechNet

        return SpeechNet(len(classes), FrontEnd(audio.sample_rate, RECIPE) if front else None)

    module, trained_on = fill(build, source)
    spec = ModelSpec(
        name=name,
        task="keyword",
        input=TensorSpec("waveform" if front else "features", shape, layout="N..." if front else "NCHW"),
        labels=classes,
        weights=_TRAINED_ON if weights == "default" else trained_on,
        licence=_LICENCE if weights == "default" else "",
        audio=audio,
    )
    return Model(module.eval(), spec)
