"""How to train, and what came of it: value objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_lab.core.errors import InputError
from edge_lab.zoo import Model, save


@dataclass(frozen=True)
class FitConfig:
    """How to train: SGD with Nesterov momentum, one-cycle learning rate (Smith & Topin 2017), label smoothing.

    Args:
        epochs: passes over the training set; the learning rate falls to zero at the end of the last one.
        batch_size: images a step.
        lr: highest learning rate, reached after a quarter of the run.
        momentum: of SGD.
        weight_decay: not applied to biases and normalisation.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2015).
        shift: each training image is moved by up to this many pixels, edges repeated.
        flip: mirror half of the training images. Right for photos, wrong for digits and letters.
        seed: of shuffling, augmentation and dropout.
        max_seconds: a time budget; the learning rate then falls to zero when either the epochs or the seconds
            run out. None: no budget, and the run can be repeated exactly.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    shift: int = 2
    flip: bool = False
    seed: int = 0
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.lr <= 0 or self.shift < 0:
            raise InputError(
                f"FitConfig(epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, shift={self.shift}) "
                "can't be used.",
                "epochs and batch_size count from 1, lr is positive, shift is not negative.",
                "start from FitConfig() and change one value at a time.",
            )

    @property
    def key(self) -> str:
        """Eight hex digits that change with any value: a good part of a checkpoint's name."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set.

    Attributes:
        number: from 1.
        loss: mean of `losses`.
        val_top1: validation accuracy after it, in percent.
        seconds: of training, validation not counted.
        images: how many were trained on.
        losses: training loss of every step.
    """

    number: int
    loss: float
    val_top1: float
    seconds: float
    images: int
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """Share of right answers in percent among the best one and the best five, over `n` images with a known label."""

    top1: float
    top5: float
    n: int


@dataclass(frozen=True, eq=False)
class FitResult:
    """A trained model (weights of the last epoch), its learning curve, and how long it took.

    `start` is the origin of the model that was trained.
    """

    model: Model
    history: tuple[Epoch, ...]
    start: str | None = None

    @property
    def best_val_top1(self) -> float:
        """Best validation accuracy of any epoch, in percent."""
        return max(epoch.val_top1 for epoch in self.history)

    @property
    def seconds(self) -> float:
        """Training time without validation."""
        return sum(epoch.seconds for epoch in self.history)

    @property
    def images_per_second(self) -> float:
        """Training throughput."""
        return sum(epoch.images for epoch in self.history) / self.seconds

    def save(self, path: Path | str) -> Model:
        """Write the trained weights; the model returned can be built again by its origin."""
        return save(replace(self.model, origin=self.start), path)
