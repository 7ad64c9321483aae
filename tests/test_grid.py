"""The grid: engines, precisions and widths as candidates of one sitting."""

from __future__ import annotations

from pathlib import Path

import pytest

import edge_lab
from edge_lab import data
from edge_lab.core.errors import InputError
from edge_lab.decide import pareto, recommend
from edge_lab.measure import ratio
from edge_lab.sweep import Evaluator
from edge_lab.sweep.grid import grid

TINYNET = Path(__file__).parents[1] / "labs/checkpoints/tinynet-digits.safetensors"


def test_targets_times_widths_in_one_sitting(tmp_path: Path) -> None:
    test, learn = data.load("digits", "test").take(60), data.load("digits", "train").take(64)
    model = edge_lab.create("tinynet", weights=str(TINYNET))
    evaluator = Evaluator(model, test, calibration=learn, out=tmp_path, rounds=6)
    with pytest.raises(InputError, match="grid is empty"):
        grid(evaluator, [])
    targets = ["linux-onnx-fp32", "linux-nonsense"]
    found, failed = grid(evaluator, targets, (0.0, 0.5), rounds=12)
    assert [(c.target, c.pruned) for c in found] == [(t, share) for t in targets[:1] for share in (0.0, 0.5)]
    assert list(failed) == ["linux-nonsense", "linux-nonsense pruned 50 %"]
    whole, half = found[0], found[1]
    assert half.size_mb < whole.size_mb  # type: ignore[operator]
    assert whole.top1 is not None
    assert whole.top1 > 90
    assert len({c.sitting for c in found}) == 1
    assert whole.latency is not None
    assert half.latency is not None
    assert ratio(half.latency, whole.latency).pairs == 12
    assert pareto(found).front
    assert recommend(found).choice in found
