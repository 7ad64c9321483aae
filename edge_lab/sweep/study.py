"""The search itself, by Optuna: ask for settings, evaluate them, tell what came of it.

A trial that its worker did not live to finish is told as failed and its settings are tried once more. So a killed
worker costs one trial, whether it was a process or a machine.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import random
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edge_lab.core.errors import EdgeLabError, InputError, MissingTool
from edge_lab.sweep.trial import Evaluate, Scores, SweepConfig, Trial, Value

Show = Callable[[str], None]
_DIRECTIONS = ("minimize", "minimize", "maximize")  # size, latency, accuracy
_AGAIN = "tried again"  # mark of settings that were enqueued after their worker was lost
_TWIN = "known settings"  # mark of proposals that were not worth a trial


def optuna() -> Any:
    """The library, with its own messages off.

    Raises:
        MissingTool: it is not installed.
    """
    try:
        import optuna as library
    except ImportError as error:
        raise MissingTool("a sweep needs Optuna.", "it is not installed.", "pip install 'edge-lab[sweep]'") from error
    library.logging.set_verbosity(library.logging.ERROR)
    return library


def open_study(config: SweepConfig, *, worker: int = 0) -> Any:
    """Join the study that `config` names, or begin it.

    Raises:
        InputError: the storage can't be used, or holds a study of other settings under that name.
    """
    library = optuna()
    seed = config.seed + worker
    samplers = {"tpe": library.samplers.TPESampler, "random": library.samplers.RandomSampler}
    try:
        study = library.create_study(
            study_name=config.study,
            storage=_storage(library, config.storage),
            sampler=samplers[config.sampler](seed=seed),
            directions=_DIRECTIONS,
            load_if_exists=True,
        )
    except Exception as error:  # each kind of storage has its own
        raise InputError(
            f"the study {config.study!r} can't be opened in {config.storage}.",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}.",
            "name a file such as sweep.journal, or a URL such as sqlite:///sweep.db.",
        ) from error
    choices = {name: list(values) for name, values in config.choices.items()}
    known = study.user_attrs.get("choices")
    if known is None:
        study.set_user_attr("choices", choices)
    elif known != choices:
        raise InputError(
            f"the study {config.study!r} in {config.storage} is of other settings.",
            f"it tries {', '.join(known)}; this sweep tries {', '.join(choices)}, or other values of them.",
            "give this one a name of its own (study=...), or another storage.",
        )
    return study


def work(
    config: SweepConfig, evaluate: Evaluate, *, study: Any = None, worker: int = 0, show: Show = lambda _: None
) -> None:
    """Take part in a study until it has its trials; several workers may do so at once, here or elsewhere."""
    study = open_study(config, worker=worker) if study is None else study
    while (asked := ask(study, config, worker=f"{socket.gethostname()}:{os.getpid()}")) is not None:
        trial, settings = asked
        try:
            scores = evaluate(settings)
        except EdgeLabError as error:
            tell_failed(study, trial, error.why)
            show(f"{count(study)}/{config.wanted} {_name(settings)}: {error.what}")
            continue
        except BaseException:  # Ctrl-C, or a fault of our own: the trial is lost, the study is not
            with contextlib.suppress(Exception):
                lost(study, trial.number)
            raise
        tell(study, trial, scores)
        show(f"{count(study)}/{config.wanted} {_name(settings)}: {_told(scores)}")


def ask(study: Any, config: SweepConfig, *, worker: str = "") -> tuple[Any, dict[str, Value]] | None:
    """The next trial and its settings; None when the study has enough, those that are being worked on included.

    No settings are tried twice: where the sampler proposes known ones, others are drawn at random.
    """
    expire(study, config.stale_s)
    while True:
        known = _known(study)
        if len(known) >= config.wanted:
            return None
        trial = study.ask()
        trial.set_user_attr("worker", worker)
        settings = {name: trial.suggest_categorical(name, list(values)) for name, values in config.choices.items()}
        if tuple(settings.values()) not in known:
            return trial, settings
        trial.set_user_attr(_TWIN, True)
        study.tell(trial, state=optuna().trial.TrialState.FAIL)
        names = list(config.choices)
        free = [c for c in itertools.product(*config.choices.values()) if c not in known]
        chosen = random.Random(f"{config.seed}/{trial.number}").choice(free)
        study.enqueue_trial(dict(zip(names, chosen, strict=True)))


def _known(study: Any) -> set[tuple[Value, ...]]:
    """Settings that were tried or are being tried; those that cost two workers too, since they may be the cause."""
    states = optuna().trial.TrialState
    names = list(study.user_attrs["choices"])
    known, fatal = set(), set()
    for trial in study.get_trials(deepcopy=False, states=(states.COMPLETE, states.FAIL, states.RUNNING)):
        if len(trial.params) < len(names) or trial.user_attrs.get(_TWIN):
            continue
        settings = tuple(trial.params[name] for name in names)
        if trial.state != states.FAIL or "why" in trial.user_attrs or settings in fatal:
            known.add(settings)
        else:
            fatal.add(settings)
    return known


def tell(study: Any, trial: Any, scores: Scores) -> None:
    """Record what a trial found; too late, if another worker took this one for lost."""
    with contextlib.suppress(optuna().exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("scores", asdict(scores))
        study.tell(trial, [scores.size_mb, scores.times, scores.accuracy], skip_if_finished=True)


def tell_failed(study: Any, trial: Any, why: str) -> None:
    """Record that settings do not work: they will not be tried again on purpose."""
    with contextlib.suppress(optuna().exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("why", why)
        study.tell(trial, state=optuna().trial.TrialState.FAIL, skip_if_finished=True)


def lost(study: Any, number: int) -> None:
    """Record that a worker was lost with this trial, and have its settings tried once more."""
    trial = study.get_trials(deepcopy=False)[number]
    study.tell(number, state=optuna().trial.TrialState.FAIL)
    if len(trial.params) == len(study.user_attrs["choices"]) and not trial.user_attrs.get(_AGAIN):
        study.enqueue_trial(trial.params, user_attrs={_AGAIN: True})


def expire(study: Any, stale_s: float) -> None:
    """Tell trials that nobody finished for too long: their worker, perhaps on another machine, is gone."""
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(optuna().trial.TrialState.RUNNING,)):
        if trial.datetime_start and (now - trial.datetime_start).total_seconds() > stale_s:
            with contextlib.suppress(Exception):  # another worker was quicker
                lost(study, trial.number)


def lost_by(study: Any, worker: str) -> None:
    """Tell the trials that this worker (host:pid) left unfinished when it died."""
    for trial in study.get_trials(deepcopy=False, states=(optuna().trial.TrialState.RUNNING,)):
        if trial.user_attrs.get("worker") == worker:
            lost(study, trial.number)


def count(study: Any) -> int:
    """Finished trials that gave scores."""
    return len(study.get_trials(deepcopy=False, states=(optuna().trial.TrialState.COMPLETE,)))


def trials_of(study: Any) -> tuple[Trial, ...]:
    """All finished trials as values."""
    states = optuna().trial.TrialState
    return tuple(
        Trial(
            trial.number,
            dict(trial.params),
            Scores(**trial.user_attrs["scores"]) if trial.state == states.COMPLETE else None,
            trial.user_attrs.get("why", "" if trial.state == states.COMPLETE else "its worker was lost"),
            trial.user_attrs.get("worker", ""),
        )
        for trial in study.get_trials(deepcopy=False, states=(states.COMPLETE, states.FAIL))
        if not trial.user_attrs.get(_TWIN)
    )


def _storage(library: Any, storage: str | None) -> Any:
    if storage is None or "://" in storage:
        return storage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    return library.storages.JournalStorage(JournalFileBackend(storage, lock_obj=JournalFileOpenLock(storage)))


def _name(settings: dict[str, Value]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _told(scores: Scores) -> str:
    return f"{scores.size_mb:.2f} MB, {scores.times:.2f} x the reference, {scores.accuracy:.1f} %"
