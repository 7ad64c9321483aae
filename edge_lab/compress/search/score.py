"""How good a compressed network is: its answers against the float network's, and the size of its program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.compress.graphs.graph import attribute
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.core.numbers import sqnr_between
from edge_lab.zoo import Model

if TYPE_CHECKING:
    import torch

_BYTES_PER_NODE = 240  # operators, shapes, quantization parameters in a .pte


@dataclass(frozen=True)
class Quality:
    """What a budget is held against.

    Attributes:
        agreement: percentage of inputs with the same answer as the float network; None if the task has no classes.
        sqnr_db: 10 log10(sum(float^2) / sum((float - it)^2)) over all outputs, in dB.
        top1_loss: Top-1 of the float network minus its own, in points; None without labels.
        size_mb: estimated size of the .pte program in MB (10^6 bytes); the weights are exact, the rest is not.
    """

    agreement: float | None
    sqnr_db: float
    top1_loss: float | None
    size_mb: float


@dataclass(frozen=True)
class CompressionBudget:
    """Limits that a compressed network has to keep; None: no limit. At least one must be set.

    Attributes:
        min_agreement: percent of the inputs that must get the float network's answer.
        min_sqnr_db: of the raw outputs, in dB.
        max_top1_loss: points of Top-1 accuracy; needs labelled images.
        max_size_mb: of the program, in MB.
    """

    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    max_top1_loss: float | None = None
    max_size_mb: float | None = None

    def __post_init__(self) -> None:
        given = [
            v for v in (self.min_agreement, self.min_sqnr_db, self.max_top1_loss, self.max_size_mb) if v is not None
        ]
        good = all(isfinite(v) for v in given) and (self.min_agreement is None or 0 <= self.min_agreement <= 100)
        if not given or not good or (self.max_size_mb is not None and self.max_size_mb <= 0):
            raise InputError(
                f"{self} is no budget.",
                "it needs at least one limit, in finite numbers; agreement is a percentage, a size is above 0.",
                "start from CompressionBudget(min_agreement=98).",
            )

    def misses(self, quality: Quality) -> tuple[Miss, ...]:
        """The limits that are not kept, with how close each is."""
        found = (
            Miss("agreement", "%", quality.agreement, self.min_agreement, least=True),
            Miss("SQNR", "dB", quality.sqnr_db, self.min_sqnr_db, least=True),
            Miss("Top-1 loss", "points", quality.top1_loss, self.max_top1_loss, least=False),
            Miss("size", "MB", quality.size_mb, self.max_size_mb, least=False),
        )
        return tuple(miss for miss in found if miss.short > 0)


@dataclass(frozen=True)
class Miss:
    """A limit and what was reached. `least`: the limit is a minimum."""

    name: str
    unit: str
    value: float | None
    limit: float | None
    least: bool

    @property
    def short(self) -> float:
        """How much is missing, in the limit's unit; 0 if it is kept or not set."""
        if self.limit is None or self.value is None:
            return 0.0
        return max(0.0, self.limit - self.value if self.least else self.value - self.limit)

    @property
    def share(self) -> float:
        """What is missing as a share of the limit, to compare limits of different units."""
        return self.short / max(abs(self.limit or 0.0), 1.0)

    def __str__(self) -> str:
        side = "below the minimum" if self.least else "above the maximum"
        return f"{self.name} is {self.value:.4g} {self.unit}, {self.short:.2g} {side} of {self.limit:g}"


class Judge:
    """Runs networks on the evaluation inputs, one at a time, and compares them with the float network."""

    def __init__(self, model: Model, rows: Sequence[np.ndarray], targets: Sequence[tuple[int, ...]]) -> None:
        self.rows, self.targets = rows, targets
        self.classes = model.spec.task in ("classify", "keyword")
        self.reference = self._outputs(model.module.eval())
        if not np.isfinite(self.reference).all():
            raise EdgeLabError(
                f"{model.spec.name} gives NaN or infinity on the evaluation inputs, before any compression.",
                "its weights are damaged, or it overflows.",
                "check the checkpoint, and that preprocess matches the one used in training.",
            )
        self.labelled = [i for i, accepted in enumerate(targets) if accepted] if self.classes else []
        self.top1 = self._top1(self.reference)

    def score(self, module: Any) -> Quality:
        """Quality of a graph module that convert_pt2e made."""
        outputs = self._outputs(module)
        agreement = None
        if self.classes:
            agreement = 100 * float((self.reference.argmax(-1) == outputs.argmax(-1)).mean())
        own = self._top1(outputs)
        loss = None if own is None or self.top1 is None else self.top1 - own
        return Quality(agreement, sqnr_between(self.reference, outputs), loss, program_bytes(module) / 1e6)

    def _top1(self, outputs: np.ndarray) -> float | None:
        best = outputs.argmax(-1) if self.labelled else outputs
        right = [best[i] in self.targets[i] for i in self.labelled]
        return 100 * sum(right) / len(right) if right else None

    def _outputs(self, module: Callable[[torch.Tensor], Any]) -> np.ndarray:
        import torch

        rows = []
        with torch.no_grad():
            for x in self.rows:
                leaves = torch.utils._pytree.tree_leaves(module(torch.from_numpy(x.copy())))
                rows.append(leaves[0].reshape(1, -1).float().numpy())
        return np.concatenate(rows)


def program_bytes(graph: torch.fx.GraphModule) -> int:
    """About the size of the .pte that a graph becomes: its tensors, and 240 bytes for each node.

    Scales of channels count twice, as XNNPACK stores them; zero points do not, since those of symmetric weights are not
    stored. Within 1 % for EfficientNet-Lite0 and tinynet.
    """
    import torch

    tensors: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = attribute(graph, node)
            if isinstance(value, torch.Tensor) and value.dtype is not torch.int64:
                scales = any(
                    "dequantize_per_channel" in str(user.target) and node is user.args[1] for user in node.users
                )
                tensors[str(node.target)] = value.numel() * value.element_size() * (2 if scales else 1)
    nodes: int = sum(node.op == "call_function" for node in graph.graph.nodes)
    return sum(tensors.values()) + _BYTES_PER_NODE * nodes
