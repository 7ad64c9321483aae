"""A search over compression settings: one process, several, or a cluster, in one study that survives its workers.

config = SweepConfig({"target": ("linux-xnnpack-fp32", "linux-xnnpack-int8"), "pruned": (0.0, 0.25, 0.5)}, trials=6)
found = sweep(Evaluator(model, images, train=learn), config)
print(found, found.best())
"""

from __future__ import annotations

from collections.abc import Callable

from edge_lab.sweep.cluster import run_ray
from edge_lab.sweep.evaluate import Evaluator
from edge_lab.sweep.local import run_processes
from edge_lab.sweep.study import open_study, trials_of, work
from edge_lab.sweep.trial import Evaluate, Scores, Settings, SweepConfig, SweepResult, Trial

__all__ = ["Evaluate", "Evaluator", "Scores", "Settings", "SweepConfig", "SweepResult", "Trial", "read", "sweep"]


def sweep(
    evaluate: Evaluate,
    config: SweepConfig,
    *,
    ray: str | None = None,
    show: Callable[[str], None] = lambda _: None,
) -> SweepResult:
    """Search, and return every trial of the study, those of earlier runs included.

    Interrupted, a study in a storage goes on where it was when the same call is made again. To use several machines,
    run the same on each with one `storage`; the sweep ends everywhere when the study has its trials.

    Args:
        evaluate: from settings to scores; raises EdgeLabError for settings that give no program. `Evaluator` does it
            for a model.
        config: what to try, how often, where the study lives.
        ray: None: this machine. "local" or the address of a Ray cluster: trials run there, `config.workers` at a time.
        show: takes lines of progress.

    Raises:
        MissingTool: Optuna (or Ray) is not installed.
        InputError: the storage is unusable, or of another study.
    """
    if ray is None and config.workers == 1:
        study = open_study(config)
        work(config, evaluate, show=show, study=study)
        return SweepResult(trials_of(study), config)
    if ray is not None:
        return SweepResult(trials_of(run_ray(config, evaluate, show, address=ray)), config)
    run_processes(config, evaluate, show)
    return read(config)


def read(config: SweepConfig) -> SweepResult:
    """The trials of a stored study so far."""
    return SweepResult(trials_of(open_study(config)), config)
