"""What a large network, which only heard the words of a bank, would answer: targets for a small one to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

_HIDDEN, _STEPS, _BATCH, _RATE, _DECAY = 64, 2500, 256, 3e-3, 1e-3


@dataclass(frozen=True, eq=False)
class Teacher:
    """A classifier of embeddings.

    Attributes:
        mean: of the embeddings it learnt from, (width,).
        spread: standard deviation of these, (width,).
        head: normalised embeddings (N, width) to logits.
    """

    mean: Tensor
    spread: Tensor
    head: nn.Module

    def hints(self, embeddings: np.ndarray) -> Tensor:
        """Normalised embeddings, (N, width), float32."""
        import torch

        return ((torch.from_numpy(np.asarray(embeddings, np.float32)) - self.mean) / self.spread).clamp(-5, 5)

    def answers(self, embeddings: np.ndarray) -> Tensor:
        """Logits, (N, classes)."""
        import torch

        with torch.inference_mode():
            found: Tensor = self.head(self.hints(embeddings))
        return found.clone()


def fit_teacher(
    embeddings: np.ndarray, targets: np.ndarray, pools: Sequence[np.ndarray], shares: Sequence[float], seed: int
) -> Teacher:
    """Train a small classifier on embeddings.

    Args:
        embeddings: of all windows, (N, width).
        targets: of all windows.
        pools: indices of the windows that may be looked at, by kind.
        shares: how much of each kind.
        seed: of drawing, dropout and the first weights.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    weights = np.concatenate(
        [np.full(len(p), share / len(p)) for p, share in zip(pools, shares, strict=True) if len(p)]
    )
    known, rng = np.concatenate(pools), np.random.default_rng(seed)
    drawn = rng.choice(len(known), (_STEPS, _BATCH), p=weights / weights.sum())
    heard = torch.from_numpy(np.asarray(embeddings[np.sort(known)], np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(heard.shape[1], _HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(_HIDDEN, int(targets.max()) + 1),
        )
        teacher = Teacher(heard.mean(0), heard.std(0) + 1e-3, head)
        optimizer = torch.optim.Adam(head.parameters(), _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for some in drawn:
            logits = head(teacher.hints(embeddings[known[some]]))
            size = sum(p.square().sum() for p in head.parameters())
            loss = functional.cross_entropy(logits, torch.from_numpy(targets[known[some]])) + _DECAY * size
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    head.eval()
    return teacher
