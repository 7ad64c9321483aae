"""Measure honestly: latency, cold start, memory, accuracy, parity, roofline, energy, budgets.

The verbs are functions of this package (`measure.latency(session, x)`); no module has the name of one. Nothing heavy is
imported.
"""

from edge_lab.formats.coreml.mil.run import MilProgram, interpret, load_mil, run_or_interpret
from edge_lab.formats.coreml.mil.weights import StoredWeight, compare_weights
from edge_lab.formats.pte.file import PteReport, inspect_pte
from edge_lab.measure.cold import ColdStart, Fresh, Memory, cold_start, fresh, memory
from edge_lab.measure.host import machine, provenance, versions
from edge_lab.measure.joules import Energy, batterystats_energy, energy, pmic_watts
from edge_lab.measure.operators import OpTime, profile, profile_plot
from edge_lab.measure.peaks import Roofline, bytes_moved, flops, roofline
from edge_lab.measure.pin import pinned
from edge_lab.measure.pte import profile_pte, verify_bundled, write_bundled
from edge_lab.measure.pte_plot import memory_plot
from edge_lab.measure.record import Engine, Measurement, Measurements, Quality, Recorded
from edge_lab.measure.timing import Latency, Ratio, interleaved, latency, ratio
from edge_lab.quality.accuracy import Accuracy, Inputs, evaluate, prepare, score
from edge_lab.quality.agreement import Parity, outputs_of, parity
from edge_lab.quality.layers.find import first_divergence
from edge_lab.quality.layers.report import Divergence, LayerGap
from edge_lab.quality.matrix import ParityMatrix, parity_matrix
from edge_lab.results.budget import Budget, Budgets, check, load_budget, passed
from edge_lab.results.readiness import Gate, fit, gate
from edge_lab.results.result import Example, Failure, RunResult, TargetResult, Verdict

__all__ = [
    "Accuracy",
    "Budget",
    "Budgets",
    "ColdStart",
    "Divergence",
    "Energy",
    "Engine",
    "Example",
    "Failure",
    "Fresh",
    "Gate",
    "Inputs",
    "Latency",
    "LayerGap",
    "Measurement",
    "Measurements",
    "Memory",
    "MilProgram",
    "OpTime",
    "Parity",
    "ParityMatrix",
    "PteReport",
    "Quality",
    "Ratio",
    "Recorded",
    "Roofline",
    "RunResult",
    "StoredWeight",
    "TargetResult",
    "Verdict",
    "batterystats_energy",
    "bytes_moved",
    "check",
    "cold_start",
    "compare_weights",
    "energy",
    "evaluate",
    "first_divergence",
    "fit",
    "flops",
    "fresh",
    "gate",
    "inspect_pte",
    "interleaved",
    "interpret",
    "latency",
    "load_budget",
    "load_mil",
    "machine",
    "memory",
    "memory_plot",
    "outputs_of",
    "parity",
    "parity_matrix",
    "passed",
    "pinned",
    "pmic_watts",
    "prepare",
    "profile",
    "profile_plot",
    "profile_pte",
    "provenance",
    "ratio",
    "roofline",
    "run_or_interpret",
    "score",
    "verify_bundled",
    "versions",
    "write_bundled",
]
