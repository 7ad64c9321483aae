"""How good a PyTorch module is on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.train.pixels import Pixels, load_pixels
from edge_lab.train.records import Score
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edge_lab.data import ImageSet


def evaluate_module(model: Model, images: ImageSet, batch_size: int = 256) -> Score:
    """Accuracy of the PyTorch module itself on labelled images."""
    known = [i for i, accepted in enumerate(images.targets) if accepted]
    if not known:
        raise InputError(
            f"{images.name} has no labels for this model.",
            "accuracy compares answers with known labels.",
            "use a labelled set, or compare two models with each other (agreement).",
        )
    order = np.argsort(-scores(model, images, batch_size), axis=1, kind="stable")[:, :5]
    ranks = [next((r for r, c in enumerate(order[i]) if c in images.targets[i]), 5) for i in known]
    hit = np.array(ranks)
    return Score(100 * float((hit == 0).mean()), 100 * float((hit < 5).mean()), len(known))


def scores(model: Model, images: ImageSet, batch_size: int = 256) -> np.ndarray:
    """The network's raw output for every image: float32 (N, classes)."""
    return outputs(model.module.eval(), load_pixels(images, model.spec), batch_size).numpy()  # type: ignore[no-any-return]


def outputs(module: nn.Module, pixels: Pixels, batch_size: int) -> Tensor:
    """Raw scores (N, classes) of a module that is already in eval mode."""
    import torch

    with torch.no_grad():
        return torch.cat([module(pixels.normalised(x)).float() for x in pixels.x.split(batch_size)])  # type: ignore[no-untyped-call]
