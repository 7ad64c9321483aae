"""bakenn's calibration with PyTorch's convolution in place of its loops: seconds instead of minutes.

bakenn 1.0 runs the float network in pure Python to see the range of every activation: five seconds for each input of a
network of 2 M multiply-adds. Only ranges are read, so another order of summation does no harm (they differ by less than
1e-5 of the largest value, see tests/test_mcu_export.py). The function that is replaced has a private name: bakenn is
pinned to one version, and a missing name is an error here, not a slow export.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edge_lab.core.errors import MissingTool

_PLACE = "_conv2d"


@contextmanager
def fast_calibration() -> Iterator[None]:
    """While this is open, bakenn's calibration uses PyTorch's convolution.

    Raises:
        MissingTool: this bakenn has no such function to replace.
    """
    from bakenn.quantization import ptq_graph

    own = getattr(ptq_graph, _PLACE, None)
    if own is None:
        raise MissingTool(
            "this version of bakenn is not the one that edge_lab knows.",
            f"its calibration has no function {_PLACE}, which edge_lab replaces because it is slow.",
            "install the version of requirements.lock: pip install bakenn==1.0.0",
        )
    setattr(ptq_graph, _PLACE, _conv2d)
    try:
        yield
    finally:
        setattr(ptq_graph, _PLACE, own)


def _conv2d(
    input_value: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    *,
    depthwise: bool,
    depth_multiplier: int = 1,
    groups: int = 1,
) -> np.ndarray:
    """NCHW convolution with bakenn's arguments; padding is (top, bottom, left, right)."""
    import torch
    from torch.nn import functional

    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array, np.float32))

    top, bottom, left, right = padding
    padded = functional.pad(tensor(input_value), (left, right, top, bottom))
    count = input_value.shape[1] if depthwise else groups
    weights = tensor(weight)
    if depthwise and weights.ndim == 4 and weights.shape[1] != 1:
        weights = weights.reshape(-1, 1, *weights.shape[2:])
    with torch.no_grad():
        out = functional.conv2d(padded, weights, None if bias is None else tensor(bias), stride, 0, dilation, count)
    result: np.ndarray = out.numpy()
    return result
