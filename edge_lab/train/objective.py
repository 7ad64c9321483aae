"""What training minimises, where that is not the cross-entropy with the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_lab.train.pixels import Pixels
from edge_lab.train.records import FitConfig

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Objective:
    """Batches, and the loss of one batch.

    Attributes:
        batches: (images, config, epoch from 1) to pairs of network input and target; a target is what `loss` reads.
            Random numbers come from torch's global generator, which `fit` seeds for each epoch.
        loss: (network, input, target) to a scalar.
        identity: plain values that say which objective this is; a checkpoint of another one is refused.
        beside: a module that is trained with the network, kept in checkpoints, and not part of the result.
        unlabelled: images without a label are trained on too (their y is -1).
    """

    batches: Callable[[Pixels, FitConfig, int], Iterator[tuple[Tensor, Any]]]
    loss: Callable[[nn.Module, Tensor, Any], Tensor]
    identity: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    beside: nn.Module | None = None
    unlabelled: bool = False
