"""What a sweep tries, what a trial finds, and the result as a value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, Literal

from edge_lab.core.errors import InputError
from edge_lab.core.files import writing_file
from edge_lab.decide import Candidate, Front, Recommendation, pareto, recommend
from edge_lab.results.budget import Budget, Budgets

Value = str | float | int | bool
Settings = Mapping[str, Value]


@dataclass(frozen=True)
class Scores:
    """What one setting costs and gives.

    `size_mb`: of the program, in MB. `times`: median latency over that of the reference program, both timed in turn, so
    that machines of unlike speed can share a study. `accuracy` in percent on `images` inputs. `p50_ms`: its own median.
    """

    size_mb: float
    times: float
    accuracy: float
    images: int
    p50_ms: float | None = None
    bundle: str | None = None


Evaluate = Callable[[Settings], Scores]


@dataclass(frozen=True)
class Trial:
    """One setting that was tried. `scores` is None if it failed: `why` then says how."""

    number: int
    settings: dict[str, Value]
    scores: Scores | None = None
    why: str = ""
    worker: str = ""

    @property
    def name(self) -> str:
        """The settings in one line, such as `target=linux-onnx-int8 pruned=0.5`."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


@dataclass(frozen=True)
class SweepConfig:
    """How to search.

    Attributes:
        choices: the values of each setting, by name.
        trials: how many settings to try, those of earlier runs of the same study included; none is tried twice, so a
            small space is tried whole.
        sampler: "tpe" (J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011) or "random".
        seed: of the sampler; worker n uses seed + n.
        storage: where the study lives: None (in memory, lost at the end), a file (.journal), which several processes
            and machines on one file system share, or a database URL that Optuna knows (sqlite:///..., postgresql://...).
        study: its name in the storage.
        workers: processes on this machine; more than one needs a storage.
        stale_s: seconds after which a trial that nobody finished counts as lost, and its settings are tried again.
    """

    choices: Mapping[str, Sequence[Value]]
    trials: int = 20
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0
    storage: str | None = None
    study: str = "edge-lab"
    workers: int = 1
    stale_s: float = 1800.0

    def __post_init__(self) -> None:
        empty = [name for name, values in self.choices.items() if not values]
        if empty or not self.choices or self.trials < 1 or self.workers < 1:
            raise InputError(
                "this sweep has nothing to try.",
                f"setting {empty[0]!r} has no values." if empty else "it needs settings, trials and a worker.",
                "SweepConfig({'target': ('linux-xnnpack-int8', 'linux-onnx-int8')}, trials=20)",
            )

    @property
    def size(self) -> int:
        """How many settings there are at all."""
        return prod(len(set(values)) for values in self.choices.values())

    @property
    def wanted(self) -> int:
        """Settings that will be tried."""
        return min(self.trials, self.size)


@dataclass(frozen=True)
class SweepResult:
    """Every trial of a study, in order."""

    trials: tuple[Trial, ...]
    config: SweepConfig

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """One candidate for each distinct setting that worked. `p50_ms` is in units of the reference's."""
        first: dict[str, Trial] = {}
        for trial in self.trials:
            if trial.scores is not None:
                first.setdefault(trial.name, trial)
        return tuple(_candidate(trial) for trial in first.values())

    @property
    def front(self) -> Front:
        """By size, latency and accuracy."""
        return pareto(self.candidates)

    def best(
        self, budget: Budgets | Budget | None = None, *, objective: Literal["latency", "size"] = "latency"
    ) -> Recommendation:
        """What to ship of all that was tried; see `edge_lab.decide.recommend`.

        Latencies are ratios times the reference's median over all trials, so that limits in ms are kept or broken in ms
        and the order is that of the ratios, whichever machine a trial ran on.
        """
        unit = [t.scores.p50_ms / t.scores.times for t in self.trials if t.scores and t.scores.p50_ms]
        reference_ms = median(unit) if unit else 1.0
        scaled = [replace(c, p50_ms=(c.p50_ms or 0.0) * reference_ms) for c in self.candidates]
        found = recommend(scaled, budget, objective=objective)
        own = {c.name: c for c in self.candidates}  # as they are in the front, for plots
        return replace(
            found,
            choice=own[found.choice.name] if found.choice else None,
            equals=tuple(own[c.name] for c in found.equals),
            slower=tuple(own[c.name] for c in found.slower),
            rejected=tuple(replace(r, candidate=own[r.candidate.name]) for r in found.rejected),
        )

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Trials without scores."""
        return tuple(trial for trial in self.trials if trial.scores is None)

    def save(self, path: Path | str) -> None:
        """Write as JSON; the file is whole or absent."""
        document = {"config": asdict(self.config), "trials": [asdict(trial) for trial in self.trials]}
        with writing_file(Path(path)) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path | str) -> SweepResult:
        """Read what `save` wrote.

        Raises:
            InputError: unreadable, or not a sweep.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            trials = tuple(_trial(entry) for entry in document["trials"])
            config = document["config"]
            choices = {name: tuple(values) for name, values in config["choices"].items()}
            return SweepResult(trials, SweepConfig(**{**config, "choices": choices}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no sweep.",
                f"{type(error).__name__}: {error}.",
                "make one with `edge-lab sweep --json FILE`.",
            ) from error

    def __str__(self) -> str:
        inside = {c.name for c in self.front.front}
        lines = ["front  size MB  times ref  accuracy  settings"]
        for one in sorted(self.candidates, key=lambda c: c.p50_ms or 0.0):
            star = "*" if one.name in inside else " "
            lines.append(f"{star:5}  {one.size_mb:7.2f}  {one.p50_ms:9.2f}  {one.top1:6.1f} %  {one.name}")
        lines += [f"failed: {trial.name}: {trial.why}" for trial in self.failed]
        return "\n".join(lines)


def _trial(entry: Mapping[str, Any]) -> Trial:
    scores = entry["scores"]
    return Trial(**{**entry, "scores": None if scores is None else Scores(**scores)})


def _candidate(trial: Trial) -> Candidate:
    scores = trial.scores
    assert scores is not None
    target = trial.settings.get("target")
    parts = str(target).split("-") if target else []
    precision = {"int8": "int8-static"}.get(parts[-1], parts[-1]) if parts else ""
    pruned = trial.settings.get("pruned", 0.0)
    return Candidate(
        trial.name,
        parts[1] if len(parts) > 1 else "",
        precision,
        float(pruned) if isinstance(pruned, (int, float)) else 0.0,
        size_mb=scores.size_mb,
        p50_ms=scores.times,
        top1=scores.accuracy,
        images=scores.images,
        target=str(target) if target else None,
    )
