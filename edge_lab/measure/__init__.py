"""Measure honestly: latency, cold start, memory, accuracy, parity, roofline, energy, budgets.

The verbs are functions of this package (`measure.latency(session, x)`); several share their name with the module that
holds them, so import classes from here too, not by `import edge_lab.measure.latency`. Nothing heavy is imported.
"""

from edge_lab.measure.accuracy import Accuracy, Inputs, evaluate, prepare, score
from edge_lab.measure.cold import ColdStart, Fresh, Memory, cold_start, fresh, memory
from edge_lab.measure.latency import Latency, Ratio, interleaved, latency, ratio
from edge_lab.measure.parity import Parity, outputs_of, parity

__all__ = [
    "Accuracy",
    "ColdStart",
    "Fresh",
    "Inputs",
    "Latency",
    "Memory",
    "Parity",
    "Ratio",
    "cold_start",
    "evaluate",
    "fresh",
    "interleaved",
    "latency",
    "memory",
    "outputs_of",
    "parity",
    "prepare",
    "ratio",
    "score",
]
