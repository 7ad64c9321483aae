"""Make a model smaller: config objects in, a new model out."""

from edge_lab.compress.auto import AutoResult, Step, auto
from edge_lab.compress.auto_score import CompressionBudget, Quality
from edge_lab.compress.backends import quantize_inductor
from edge_lab.compress.distill import Distill, distill, keep_labels
from edge_lab.compress.dynamic import DynamicInt8, Half, quantize_dynamic, to_half
from edge_lab.compress.equalize import Equalizable, equalizable, equalize
from edge_lab.compress.layers import Layer, LayerReport, quantized_layers
from edge_lab.compress.norm import refresh_norm
from edge_lab.compress.prune import Structured, Unstructured, finetune, prune, sparsity
from edge_lab.compress.prune_report import LayerChange, PruneReport, prune_report
from edge_lab.compress.qat_training import QAT, QATResult, post_training, qat
from edge_lab.compress.quantize import StaticInt8, quantize, quantize_onnx
from edge_lab.compress.quantized import scheme_of
from edge_lab.compress.ranges import Histogram, MinMax, MovingAverage, Percentile
from edge_lab.compress.rounding import Nearest, SecondOrder
from edge_lab.compress.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from edge_lab.compress.teacher import TeacherCache, teacher_cache
from edge_lab.compress.weight_only import (
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
