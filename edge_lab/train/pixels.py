"""Images as uint8 tensors, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edge_lab.bundle.spec import ModelSpec, preprocess
from edge_lab.core.errors import InputError
from edge_lab.train.records import FitConfig

if TYPE_CHECKING:
    from torch import Tensor

    from edge_lab.data import ImageSet


@dataclass(frozen=True, eq=False)
class Pixels:
    """All images of a set as uint8 (N, C, H, W), first label of each (-1: unknown), and how to normalise a batch."""

    x: Tensor
    y: Tensor
    spec: ModelSpec

    def normalised(self, x: Tensor) -> Tensor:
        """The network's input, float32 channels-last, from a batch of the uint8 images."""
        import torch

        recipe = self.spec.preprocess
        assert recipe is not None  # load_pixels checked
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (recipe.mean, recipe.std))
        return ((x.float() * recipe.scale - mean) / std).contiguous(memory_format=torch.channels_last)


def load_pixels(images: ImageSet, spec: ModelSpec) -> Pixels:
    """Read all images of a set, resized and cropped as the spec says; InputError if it has no such spec."""
    import torch

    recipe = spec.preprocess
    if recipe is None or spec.task != "classify":
        raise InputError(
            f"{spec.name} can't be trained or scored on images.",
            f"its task is {spec.task!r}" + ("." if recipe else " and it has no image preprocessing."),
            "use a classifier made with from_module(..., preprocess=Preprocess(...)).",
        )
    array = images.array
    square = recipe.crop == (recipe.resize,) * 2
    if array is not None and recipe.color == "RGB" and square and array.shape[1:3] == recipe.crop:
        x = torch.from_numpy(array.transpose(0, 3, 1, 2).copy())
    else:
        neutral = (0.0,) * len(recipe.mean), (1.0,) * len(recipe.std)
        raw = spec.with_(preprocess=replace(recipe, mean=neutral[0], std=neutral[1], scale=1.0))
        x = torch.empty((len(images), len(recipe.mean), *recipe.crop), dtype=torch.uint8)
        for i in range(len(images)):
            x[i] = torch.from_numpy(preprocess(images[i], raw)[0])
    return Pixels(x, torch.from_numpy(np.asarray(images.y, dtype=np.int64)), spec)


def batches(images: Pixels, config: FitConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented, normalised batches; random numbers come from torch's global generator."""
    import torch

    for index in torch.randperm(len(images.y)).split(config.batch_size):  # type: ignore[no-untyped-call]
        yield images.normalised(move(images.x[index], draw_moves(len(index), config))), images.y[index]


@dataclass(frozen=True, eq=False)
class Moves:
    """What augmentation does to each of n images: int64 (n,) pixels `down` and `right`, bool (n,) `mirrored`."""

    down: Tensor
    right: Tensor
    mirrored: Tensor


def draw_moves(n: int, config: FitConfig) -> Moves:
    """Random moves for n images, from torch's global generator."""
    import torch

    shifts = torch.zeros((2, n), dtype=torch.int64)
    if config.shift:
        shifts = torch.randint(-config.shift, config.shift + 1, (2, n))
    mirrored = torch.rand(n) < 0.5 if config.flip else torch.zeros(n, dtype=torch.bool)
    return Moves(shifts[0], shifts[1], mirrored)


def move(x: Tensor, moves: Moves) -> Tensor:
    """Move each uint8 image (N, C, H, W) by its own shift, edges repeated, then mirror those that are to be."""
    import torch

    n, _, height, width = x.shape
    if moves.down.any() or moves.right.any():
        rows = (torch.arange(height) + moves.down[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + moves.right[:, None]).clamp(0, width - 1)
        image = torch.arange(n)[:, None, None]
        x = x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if moves.mirrored.any():
        x = torch.where(moves.mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    return x
