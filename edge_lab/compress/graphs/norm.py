"""Batch norms after a change of the network: measure again what arrives at them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_lab.core.errors import InputError
from edge_lab.train.pixels import load_pixels
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from edge_lab.data import ImageSet


def refresh_norm(model: Model, images: ImageSet, batch_size: int = 100) -> Model:
    """A copy whose batch norms hold the statistics of these images; no weight changes and no label is read.

    Pruning changes what arrives at a batch norm, which then still subtracts and divides by the old mean and variance.
    Measuring them anew costs one pass over some hundred images and often brings back most of the loss.

    Args:
        model: with batch norm; its spec has image preprocessing.
        images: at least `batch_size` of what the model will see; more are averaged.
        batch_size: images at a time.

    Raises:
        InputError: there is no batch norm with statistics in the model, or not one whole batch of images.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    pixels = load_pixels(images, model.spec)
    module = copy.deepcopy(model.module).eval()
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms or len(pixels.y) < batch_size:
        raise InputError(
            f"the batch norms of {model.spec.name} can't be refreshed.",
            f"it has {len(norms)} of them, and there are {len(pixels.y)} images for batches of {batch_size}.",
            "use it on a network with batch norm (before export folds it away), with a few hundred images.",
        )
    momentum = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average of all batches
        layer.train()
    with torch.no_grad():
        for x in pixels.x[: len(pixels.y) // batch_size * batch_size].split(batch_size):  # type: ignore[no-untyped-call]
            module(pixels.normalised(x))
    for layer, before in zip(norms, momentum, strict=True):
        layer.momentum = before
    return replace(model, module=module.eval(), origin=None)
