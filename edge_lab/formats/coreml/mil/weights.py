"""Are the weights in a Core ML file the model's? Each stored weight beside the one it was made from."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.core.errors import BundleError
from edge_lab.core.numbers import sqnr_between
from edge_lab.formats.coreml.mil.run import MilProgram

if TYPE_CHECKING:
    import torch

    from edge_lab.zoo import Model

_LAYERS = {
    "conv2d": "conv",
    "conv1d": "conv",
    "conv3d": "conv",
    "linear": "linear",
    "conv_transpose2d": "conv_transpose",
}
_LAYERS |= {"convolution": "conv"}


@dataclass(frozen=True)
class StoredWeight:
    """One layer of a Core ML program.

    Attributes:
        layer: the module's name in the model.
        name: the weight's name in the program.
        shape: of the weight.
        values: how many different values are stored: 2^4 = 16 or fewer for a palette of 4 bits.
        sqnr_db: of the stored weight against the model's (a batch norm that follows is folded in), in dB.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    values: int
    sqnr_db: float


def compare_weights(program: MilProgram, model: Model) -> tuple[StoredWeight, ...]:
    """Compare the weights of convolutions and linear layers with those of the model, worst first.

    Batch norms are folded here as the converter should fold them: w * gamma / sqrt(variance + eps).

    Raises:
        BundleError: the program does not have the model's layers.
    """
    stored: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for kind, name, _ in program.layers():
        if name in program.weights:
            stored[kind, program.weights[name].shape].append(name)
    rows = []
    for layer, kind, weight in _folded(model):
        if weight.size < 32:
            continue
        names = stored[kind, weight.shape]
        if not names:
            raise BundleError(
                f"{program.path} holds no {kind} of shape {weight.shape} for {layer}.",
                "it was made from another model, or the converter rewrote this layer.",
                "compare it with the model that it was exported from.",
            )
        name = names.pop(0)
        rows.append(_row(layer, name, weight, program.weights[name]))
    return tuple(sorted(rows, key=lambda row: row.sqnr_db))


def _row(layer: str, name: str, weight: np.ndarray, found: np.ndarray) -> StoredWeight:
    return StoredWeight(layer, name, weight.shape, len(np.unique(found)), sqnr_between(weight, found))


def _folded(model: Model) -> list[tuple[str, str, np.ndarray]]:
    """(module, kind, weight) of each layer in execution order, from the captured graph."""
    import torch

    from edge_lab.compress.graphs.graph import module_of, operator_of

    example = torch.zeros(model.spec.input.shape, dtype=getattr(torch, model.spec.input.dtype))
    program = torch.export.export(model.module, (example,), strict=False)
    state = {**program.state_dict, **program.constants}
    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}

    def value(node: Any) -> torch.Tensor:
        found: torch.Tensor = state[names[node.name]].detach()
        return found

    rows = []
    for node in program.graph.nodes:
        kind = _LAYERS.get(operator_of(node))
        if kind is None or node.args[1].name not in names:
            continue
        weight = value(node.args[1])
        readers = list(node.users)
        if len(readers) == 1 and operator_of(readers[0]) == "batch_norm":
            gamma, _, _, variance = readers[0].args[1:5]
            factor = (1 if gamma is None else value(gamma)) / torch.sqrt(value(variance) + readers[0].args[7])
            axis = 1 if kind == "conv_transpose" else 0
            weight = weight * factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        rows.append((module_of(node), kind, weight.numpy()))
    return rows
