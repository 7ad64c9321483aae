"""A Ray cluster as the place where trials run: the driver holds the study, workers only evaluate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_lab.core.errors import EdgeLabError, MissingTool
from edge_lab.sweep.study import Show, ask, count, lost, open_study, tell, tell_failed
from edge_lab.sweep.trial import Evaluate, Scores, SweepConfig

_NOWHERE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost"}


def run_ray(config: SweepConfig, evaluate: Evaluate, show: Show, *, address: str = "local") -> Any:
    """Evaluate `config.workers` trials at a time on a cluster; returns Optuna's study.

    Args:
        config: the study may be in memory: only this process touches it.
        evaluate: goes to the workers by cloudpickle; what it imports must be installed there.
        show: takes lines of progress.
        address: "local" starts a cluster on this machine and stops it again; otherwise an address that ray.init takes,
            such as "auto" or "ray://head:10001".

    Raises:
        MissingTool: Ray is not installed.
    """
    ray = _ray(address)
    started = not ray.is_initialized()
    if started:
        _connect(ray, config, address)
    try:
        return _drive(ray, config, evaluate, show)
    finally:
        if started:
            ray.shutdown()


def _ray(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    if (
        address == "local"
    ):  # read on import: off, Ray takes 127.0.0.1 instead of connecting to a server to learn its own
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingTool("this sweep needs Ray.", "it is not installed.", "pip install 'edge-lab[sweep]'") from error
    return ray


def _connect(ray: Any, config: SweepConfig, address: str) -> None:
    quiet = {"logging_level": "error", "log_to_driver": False}
    if address == "local":
        memory = 100 * 2**20  # scores are small; the default takes a third of the machine
        with _shut_in(ray):
            ray.init(num_cpus=config.workers, include_dashboard=False, object_store_memory=memory, **quiet)
    else:
        ray.init(address=address, **quiet)


@contextmanager
def _shut_in(ray: Any) -> Iterator[None]:
    """Ray's server for reports, which starts without a dashboard too, gets a proxy that leads nowhere.

    It asks the services of three clouds where it runs before it looks whether reports are switched off.
    """
    services = ray._private.services
    start = services.start_api_server

    def started(*arguments: Any, **options: Any) -> Any:
        before = {name: os.environ.get(name) for name in _NOWHERE}
        os.environ.update(_NOWHERE)
        try:
            return start(*arguments, **options)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    services.start_api_server = started
    try:
        yield
    finally:
        services.start_api_server = start


def _drive(ray: Any, config: SweepConfig, evaluate: Evaluate, show: Show) -> Any:
    study = open_study(config)
    remote = ray.remote(num_cpus=1, max_retries=0)(_evaluate)
    shared = ray.put(evaluate)
    running: dict[Any, Any] = {}  # Ray's promise: the trial
    while True:
        while len(running) < config.workers and (asked := ask(study, config, worker="ray")) is not None:
            trial, settings = asked
            running[remote.remote(shared, settings)] = trial
        if not running:
            return study
        done, _ = ray.wait(list(running), num_returns=1)
        _settle(ray, study, done[0], running.pop(done[0]), show)
        show(f"{count(study)}/{config.wanted} trials")


def _evaluate(evaluate: Evaluate, settings: dict[str, Any]) -> Scores | str:
    """In a worker: scores, or why these settings do not work."""
    try:
        return evaluate(settings)
    except EdgeLabError as error:
        return error.why


def _settle(ray: Any, study: Any, promise: Any, trial: Any, show: Show) -> None:
    try:
        found = ray.get(promise)
    except ray.exceptions.RayTaskError:  # a fault of our own: the same everywhere
        lost(study, trial.number)
        raise
    except ray.exceptions.RayError as error:  # killed, out of memory, node gone
        lost(study, trial.number)
        show(f"a worker was lost ({type(error).__name__}); its trial is tried again")
        return
    if isinstance(found, str):
        tell_failed(study, trial, found)
    else:
        tell(study, trial, found)
