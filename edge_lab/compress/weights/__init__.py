"""Quantized weights and float activations."""
