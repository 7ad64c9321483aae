"""A job's module as its target wants it, by the verbs of `compress`: 16-bit floats, or layers in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_lab.capture.target import Job
from edge_lab.compress.graphs.layers import LayerReport, quantized_layers
from edge_lab.compress.graphs.quantized import scheme_of
from edge_lab.compress.weights.dynamic import DynamicInt8, Half, quantize_dynamic, to_half
from edge_lab.compress.weights.weight_only import WeightOnly, quantize_weights
from edge_lab.zoo import Model

if TYPE_CHECKING:
    import torch

_GROUP_OF_4_BITS = 32  # weights that share a scale; a whole channel is too coarse for 15 steps


def ready(job: Job, dynamic: DynamicInt8 | None = None) -> tuple[torch.nn.Module, LayerReport | None]:
    """A module of the target's precision, and which of its layers hold integers (None: floats, or a graph).

    A module that has the precision already is returned as it is. `dynamic` is the recipe for dynamic int8 that the
    exporter's engine wants. Static int8 is left to the exporter.
    """
    precision = job.target.precision
    model = Model(job.module, job.spec)
    if scheme_of(job.module) != job.target.scheme:
        if precision == "fp16":
            model = to_half(model, Half("float16"))
        elif precision == "bf16":
            model = to_half(model, Half("bfloat16"))
        elif precision == "int8-weights":
            model = quantize_weights(model, WeightOnly(8))
        elif precision == "int4-weights":
            model = quantize_weights(model, WeightOnly(4, _GROUP_OF_4_BITS))
        elif dynamic is not None:
            model = quantize_dynamic(model, dynamic)
    report = quantized_layers(model.module)
    return model.module, report if report.quantized else None
