"""Make a model smaller: config objects in, a new model out."""

from edge_lab.compress.quantize import StaticInt8, quantize, quantize_onnx

__all__ = ["StaticInt8", "quantize", "quantize_onnx"]
