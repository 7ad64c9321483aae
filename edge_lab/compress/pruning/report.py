"""What pruning took away, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from edge_lab.compress.pruning.prune import count_parameters, output_channels, weighted_layers
from edge_lab.core.errors import InputError
from edge_lab.zoo import Model


@dataclass(frozen=True)
class LayerChange:
    """A convolution or linear layer before and after: output channels, parameters, and multiply-adds of one input."""

    name: str
    outputs: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class PruneReport:
    """What pruning took from each layer. Totals count convolutions and linear layers, like the rows."""

    layers: tuple[LayerChange, ...]

    @property
    def params(self) -> tuple[int, int]:
        """Parameters before and after."""
        return sum(row.params[0] for row in self.layers), sum(row.params[1] for row in self.layers)

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of one input before and after."""
        return sum(row.macs[0] for row in self.layers), sum(row.macs[1] for row in self.layers)

    def __str__(self) -> str:
        head = f"{'layer':32} {'channels':>12} {'parameters':>18} {'multiply-adds':>20}"
        rows = [(row.name, *row.outputs, *row.params, *row.macs) for row in self.layers]
        lines = [f"{n:32} {o:5} > {p:4} {a:8} > {b:7} {c:9} > {d:8}" for n, o, p, a, b, c, d in rows]
        (a, b), (c, d) = self.params, self.macs
        return "\n".join([head, *lines, f"{'total':32} {'':12} {a:8} > {b:7} {c:9} > {d:8}"])


def prune_report(before: Model, after: Model) -> PruneReport:
    """Compare a model with its pruned self, layer by layer.

    Raises:
        InputError: the two don't have the same layers.
    """
    old, new = dict(weighted_layers(before.module)), dict(weighted_layers(after.module))
    if list(old) != list(new):
        raise InputError(
            f"{before.spec.name} and {after.spec.name} are not one network before and after pruning.",
            f"they have {len(old)} and {len(new)} layers with weights, or other names for them.",
            "pass the model that went into prune, and the one that came out.",
        )
    macs = _macs(before), _macs(after)
    return PruneReport(
        tuple(
            LayerChange(
                name,
                (output_channels(old[name]), output_channels(new[name])),
                (count_parameters(old[name]), count_parameters(new[name])),
                (macs[0].get(name, 0), macs[1].get(name, 0)),
            )
            for name in old
        )
    )


def _macs(model: Model) -> dict[str, int]:
    """Multiply-adds of every submodule for one input."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, depth=99)
    with torch.no_grad(), counter:
        model.module(torch.zeros(1, *model.spec.input.shape[1:]))
    top = type(model.module).__name__
    counts = counter.get_flop_counts().items()
    return {name.removeprefix(f"{top}."): sum(ops.values()) // 2 for name, ops in counts}
