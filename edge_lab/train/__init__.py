"""Train a classifier on a CPU, and survive being killed.

`fit` holds all pixels in memory as uint8 and normalises per batch with the arithmetic of the model's own
preprocessing, so that what it learns is what `edge_lab.preprocess` will feed it. Weights are float32 in channels-last
layout: on CPUs bfloat16 training is slower. Every epoch draws its random numbers from (seed, epoch) alone; a run that
was killed and resumed therefore ends with the same weights as one that was not (same machine, same thread count).
"""

from edge_lab.train.fitting import fit
from edge_lab.train.objective import Objective
from edge_lab.train.records import Epoch, FitConfig, FitResult, Score
from edge_lab.train.scoring import evaluate_module, scores

__all__ = ["Epoch", "FitConfig", "FitResult", "Objective", "Score", "evaluate_module", "fit", "scores"]
