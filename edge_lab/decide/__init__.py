"""From measurements to a decision: what nobody beats, and what to ship within a budget.

found = Measurements.load("peers.json")
candidates = from_measurements(found)
print(pareto(candidates).front)
print(recommend(candidates, load_budget("budgets.toml")))
"""

from edge_lab.decide.candidate import Candidate, from_measurements, from_run, unique
from edge_lab.decide.choose import Objective, Recommendation, Rejected, accuracy_of, recommend
from edge_lab.decide.files import from_file, runs_on
from edge_lab.decide.pareto import OBJECTIVES, Front, pareto
from edge_lab.decide.plot import pareto_plot

__all__ = [
    "OBJECTIVES",
    "Candidate",
    "Front",
    "Objective",
    "Recommendation",
    "Rejected",
    "accuracy_of",
    "from_file",
    "from_measurements",
    "from_run",
    "pareto",
    "pareto_plot",
    "recommend",
    "runs_on",
    "unique",
]
