"""What a precision itself costs a network, and the limit that follows from it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import edge_lab
from edge_lab.export import gate
from edge_lab.export.gate import LIMITS
from edge_lab.zoo import from_module


class Cancels(nn.Module):
    """Large numbers that cancel: float32 itself keeps few digits of what is left."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.mean((2, 3)) * 1.1
        return ((y + self.size) * 0.7 - self.size * 0.7) * 3


def test_a_limit_is_lower_where_float32_itself_costs_more() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    for size, lowest, highest in ((1.0, 60, 60), (3e3, 20, 59.9), (3e5, 20, 20)):
        model = from_module(Cancels(size), x.shape, task="tensor")
        reference = [edge_lab.eager(model).run(x)]
        low = gate.compare(["y"], reference, [(reference[0][0] * 0,)], [LIMITS["fp32"].db])
        (found,) = gate.lowered(low, "fp32", gate.own_precision(model, "fp32", [x], reference))
        assert lowest <= found.limit_db <= highest
        assert not found.ok


def test_the_control_of_int8_tells_a_network_that_rounding_ruins_from_a_faulty_program() -> None:
    """Many layers without training lose as much by 8 bits in PyTorch as in any program; then the limit is lower."""
    torch.manual_seed(0)
    deep = nn.Sequential(*(m for _ in range(14) for m in (nn.Conv2d(8, 8, 3, 1, 1), nn.Hardswish())))
    for module, lowest, highest in ((nn.Conv2d(8, 8, 3), 30.0, 60.0), (deep, -5.0, 25.0)):
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.2)
                nn.init.normal_(part.bias)
        model = from_module(module, (1, 8, 16, 16), task="tensor")
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal((1, 8, 16, 16)).astype(np.float32) for _ in range(3)]
        reference = [edge_lab.eager(model).run(x) for x in inputs]
        (own,) = gate.own_precision(model, "int8-static", inputs, reference) or ()
        assert lowest < own < highest
        (weights,) = gate.own_precision(model, "int8-weights", inputs, reference) or ()
        (few,) = gate.own_precision(model, "int4-weights", inputs, reference) or ()
        assert own < weights
        assert few < weights
    assert gate.own_precision(model, "palette4", inputs, reference) is None
