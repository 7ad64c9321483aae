"""Where the range of an activation comes from: observers as config objects, for both int8 routes.

What torchao (PT2E) and ONNX Runtime offer differs; each class says what it is on either side, and a recipe that a route
doesn't know is refused, never replaced by another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_lab.core.errors import InputError

SMALLEST_SCALE = 2.0**-60  # so that input step x weight step, the unit of a bias, is a normal float32
ANY_SCALE = 1e-30  # ONNX Runtime's quantizer has no such limit; above zero, since a channel may hold nothing else


@dataclass(frozen=True)
class MinMax:
    """The smallest and the largest value of all calibration inputs. Both routes.

    Clips nothing that was seen; one outlier makes every step coarser, and more inputs only widen the range.
    """


@dataclass(frozen=True)
class MovingAverage:
    """Follows smallest and largest value of each input a little: one outlier counts for little. Both routes.

    torchao's MovingAverageMinMaxObserver; in ONNX Runtime the option CalibMovingAverage.

    Attributes:
        share: of the way that the range moves towards each new input, above 0 and at most 1.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(
                f"MovingAverage(share={self.share}) can't be used.",
                "it is the share of the way that a range moves towards each input's.",
                "pass a number above 0 and at most 1; 0.1 fits some tens of inputs.",
            )


@dataclass(frozen=True)
class Histogram:
    """The range with the least expected squared rounding error of a histogram. PT2E only: torchao's HistogramObserver.

    What ExecuTorch's quantizer takes if nobody chooses. Minutes slower on a CPU than MinMax.

    Attributes:
        bins: of the histogram.
    """

    bins: int = 2048

    def __post_init__(self) -> None:
        if self.bins < 256:
            raise InputError(
                f"Histogram(bins={self.bins}) can't be used.",
                "fewer bins than the 256 steps of int8 can't tell good ranges from bad ones.",
                "pass at least 256; 2048 is usual.",
            )


@dataclass(frozen=True)
class Percentile:
    """Cuts off the rarest values at both ends. ONNX Runtime only: its CalibrationMethod.Percentile.

    Attributes:
        percent: of the values that lie inside the range, above 50 and at most 100.
    """

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise InputError(
                f"Percentile(percent={self.percent}) can't be used.",
                "it is the percentage of values that a range keeps.",
                "pass a number above 50 and at most 100; 99.99 cuts one value in ten thousand.",
            )


Observer = MinMax | MovingAverage | Histogram | Percentile


def torchao_observer(observer: Observer, smallest_scale: float = SMALLEST_SCALE) -> Any:
    """The constructor of torchao's observer for activations, with the smallest step that it may choose.

    Raises:
        InputError: torchao has none like it.
    """
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver

    if isinstance(observer, MinMax):
        return MinMaxObserver.with_args(eps=smallest_scale)
    if isinstance(observer, MovingAverage):
        return MovingAverageMinMaxObserver.with_args(eps=smallest_scale, averaging_constant=observer.share)
    if isinstance(observer, Histogram):
        return HistogramObserver.with_args(eps=smallest_scale, bins=observer.bins)
    raise InputError(
        f"PT2E, the route to .pte programs, has no {observer}.",
        "torchao offers min/max, moving-average and histogram observers.",
        "use MinMax(), MovingAverage() or Histogram(), or an ONNX target.",
    )


def onnx_calibration(observer: Observer) -> tuple[Any, dict[str, Any]]:
    """ONNX Runtime's calibration method, and the extra options that go with it.

    Raises:
        InputError: ONNX Runtime has none like it.
    """
    from onnxruntime.quantization import CalibrationMethod

    if isinstance(observer, MinMax):
        return CalibrationMethod.MinMax, {}
    if isinstance(observer, MovingAverage):
        options = {"CalibMovingAverage": True, "CalibMovingAverageConstant": observer.share}
        return CalibrationMethod.MinMax, options
    if isinstance(observer, Percentile):
        return CalibrationMethod.Percentile, {"CalibPercentile": observer.percent}
    raise InputError(
        f"ONNX Runtime has no {observer}.",
        "its histogram methods choose ranges by entropy or percentile, not by squared error.",
        "use MinMax(), MovingAverage() or Percentile(), or an XNNPACK target.",
    )


def check_ranges(prepared: Any) -> None:
    """Raise InputError if an observer of a calibrated PT2E graph has met NaN or infinity."""
    import torch

    seen = {name: module for name, module in prepared.named_modules() if hasattr(module, "min_val")}
    for node in prepared.graph.nodes:
        observer = seen.get(str(node.target))
        if observer is None or bool((observer.min_val > observer.max_val).any()):  # has not seen anything
            continue
        if not (torch.isfinite(observer.min_val).all() and torch.isfinite(observer.max_val).all()):
            raise InputError(
                f"NaN or infinity came out of {node.args[0]} on the calibration inputs.",
                "an int8 range can't be computed from it.",
                "run the float model on the same inputs and look for the first layer whose output is not finite.",
            )
