"""Make a model smaller: config objects in, a new model out."""

from edge_lab.compress.distillation.distill import Distill, distill, keep_labels
from edge_lab.compress.distillation.teacher import TeacherCache, teacher_cache
from edge_lab.compress.graphs.layers import Layer, LayerReport, quantized_layers
from edge_lab.compress.graphs.norm import refresh_norm
from edge_lab.compress.graphs.quantized import scheme_of
from edge_lab.compress.pruning.prune import Structured, Unstructured, finetune, prune, sparsity
from edge_lab.compress.pruning.report import LayerChange, PruneReport, prune_report
from edge_lab.compress.qat.training import QAT, QATResult, post_training, qat
from edge_lab.compress.search.auto import AutoResult, Step, auto
from edge_lab.compress.search.score import CompressionBudget, Quality
from edge_lab.compress.sensitive.report import LayerSensitivity, Sensitivity
from edge_lab.compress.sensitive.sensitivity import sensitivity
from edge_lab.compress.static.backends import quantize_inductor
from edge_lab.compress.static.equalize import Equalizable, equalizable, equalize
from edge_lab.compress.static.quantize import StaticInt8, quantize, quantize_onnx
from edge_lab.compress.static.ranges import Histogram, MinMax, MovingAverage, Percentile
from edge_lab.compress.static.rounding import Nearest, SecondOrder
from edge_lab.compress.weights.dynamic import DynamicInt8, Half, quantize_dynamic, to_half
from edge_lab.compress.weights.weight_only import (
    WeightOnly,
    expand_weights,
    load_weights,
    quantize_weights,
    save_weights,
)

__all__ = [
    "QAT",
    "AutoResult",
    "CompressionBudget",
    "Distill",
    "DynamicInt8",
    "Equalizable",
    "Half",
    "Histogram",
    "Layer",
    "LayerChange",
    "LayerReport",
    "LayerSensitivity",
    "MinMax",
    "MovingAverage",
    "Nearest",
    "Percentile",
    "PruneReport",
    "QATResult",
    "Quality",
    "SecondOrder",
    "Sensitivity",
    "StaticInt8",
    "Step",
    "Structured",
    "TeacherCache",
    "Unstructured",
    "WeightOnly",
    "auto",
    "distill",
    "equalizable",
    "equalize",
    "expand_weights",
    "finetune",
    "keep_labels",
    "load_weights",
    "post_training",
    "prune",
    "prune_report",
    "qat",
    "quantize",
    "quantize_dynamic",
    "quantize_inductor",
    "quantize_onnx",
    "quantize_weights",
    "quantized_layers",
    "refresh_norm",
    "save_weights",
    "scheme_of",
    "sensitivity",
    "sparsity",
    "teacher_cache",
    "to_half",
]
