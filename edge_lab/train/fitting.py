"""The training loop and its checkpoints."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lab.core.errors import DataError, EdgeLabError, InputError
from edge_lab.core.files import locked, writing_file
from edge_lab.train.objective import Objective
from edge_lab.train.pixels import Pixels, batches, load_pixels
from edge_lab.train.records import Epoch, FitConfig, FitResult
from edge_lab.train.scoring import outputs
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from torch import Tensor, nn
    from tqdm import tqdm

    from edge_lab.data import ImageSet


def fit(
    model: Model,
    train: ImageSet,
    val: ImageSet,
    config: FitConfig | None = None,
    *,
    checkpoint: Path | str | None = None,
    progress: bool = True,
    objective: Objective | None = None,
) -> FitResult:
    """Train a copy of a classifier; the model passed in stays as it is.

    Args:
        model: task "classify", with a preprocessing.
        train: images to learn from; those without a label are left out.
        val: images to watch progress on, never learnt from.
        config: default FitConfig().
        checkpoint: a file that is written after every epoch. If it exists, training goes on from there (or is
            already done).
        progress: show a bar on stderr.
        objective: what to minimise; default: cross-entropy with the labels.

    Raises:
        InputError: the model is no classifier, or labels don't fit it.
        DataError: the checkpoint belongs to another run, or is damaged.
        EdgeLabError: the loss is not a number any more.
    """
    config = config or FitConfig()
    path = Path(checkpoint) if checkpoint is not None else None
    spec = model.spec.with_(labels=tuple(train.labels), weights=train.name, source="", licence="")
    run = _Run(model, config, train, objective or _cross_entropy(config))
    images, held_out = load_pixels(train, model.spec), load_pixels(val, model.spec)
    _check_classes(model, train, val, run.objective.unlabelled)
    if path is None:
        _train(run, images, held_out, None, progress)
    else:
        with locked(path):  # a second process waits, and then finds the work done
            _train(run, images, held_out, path, progress)
    import torch

    plain = run.module.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return FitResult(Model(plain, spec), tuple(run.history), model.origin)  # exporters stumble over channels-last


def _cross_entropy(config: FitConfig) -> Objective:
    def loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        from torch.nn import functional

        return functional.cross_entropy(module(x), y, label_smoothing=config.label_smoothing)

    return Objective(lambda images, config, _: batches(images, config), loss)


def _check_classes(model: Model, train: ImageSet, val: ImageSet, unlabelled: bool) -> None:
    import torch

    with torch.no_grad():
        outputs = model.module(torch.zeros(model.spec.input.shape)).shape[-1]
    if outputs != len(train.labels):
        raise InputError(
            f"{model.spec.name} has {outputs} outputs, {train.name} has {len(train.labels)} classes.",
            "a classifier needs one output per class.",
            "build it for this set: zoo.create(name, weights='random', labels=train.labels).",
        )
    for images in (val,) if unlabelled else (train, val):
        if not any(images.targets):
            raise InputError(f"{images.name} has no labels.", "training needs them.", "use a labelled set.")


class _Run:
    """The state of one training run: what a checkpoint holds."""

    def __init__(self, model: Model, config: FitConfig, train: ImageSet, objective: Objective) -> None:
        import torch

        self.config, self.objective = config, objective
        start = hashlib.sha256()
        for name, value in model.module.state_dict().items():
            start.update(name.encode() + value.contiguous().numpy().tobytes())
        self.identity = asdict(config) | {"data": train.fingerprint, "start": start.hexdigest()[:16]}
        self.identity |= dict(objective.identity)
        self.module = copy.deepcopy(model.module).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        beside = [] if objective.beside is None else list(objective.beside.parameters())
        decayed = [p for p in [*self.module.parameters(), *beside] if p.ndim > 1]
        others = [p for p in [*self.module.parameters(), *beside] if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(
            [g for g in groups if g["params"]],
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self.history: list[Epoch] = []
        self.step = 0
        self.done = False

    def save(self, path: Path) -> None:
        import torch

        with writing_file(path) as temporary:
            torch.save(
                {
                    "state_dict": self.module.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "history": [asdict(epoch) for epoch in self.history],
                    "identity": self.identity,
                    "step": self.step,
                    "done": self.done,
                    "beside": None if self.objective.beside is None else self.objective.beside.state_dict(),
                },
                temporary,
            )

    def resume(self, path: Path) -> None:
        import torch

        again = f"delete {path} to start again, or pass another checkpoint path."
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            identity = saved["identity"]
        except Exception as error:
            raise DataError(f"checkpoint {path} can't be read.", f"{type(error).__name__}.", again) from error
        if changed := [k for k in self.identity | identity if identity.get(k) != self.identity.get(k)]:
            listed = ", ".join(f"{k} was {identity.get(k)!r}, now {self.identity.get(k)!r}" for k in changed[:3])
            raise DataError(f"checkpoint {path} belongs to another run.", f"{listed}.", again)
        self.module.load_state_dict(saved["state_dict"])
        if self.objective.beside is not None:
            self.objective.beside.load_state_dict(saved["beside"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history = [Epoch(**row | {"losses": tuple(row["losses"])}) for row in saved["history"]]
        self.step, self.done = saved["step"], saved["done"]


def _train(run: _Run, images: Pixels, held_out: Pixels, path: Path | None, progress: bool) -> None:
    import torch
    from tqdm import tqdm

    if path is not None and path.exists():
        run.resume(path)
    if not run.objective.unlabelled:
        labelled = images.y >= 0
        images = Pixels(images.x[labelled], images.y[labelled], images.spec)
    steps = run.config.epochs * math.ceil(len(images.y) / run.config.batch_size)
    with (
        torch.random.fork_rng(devices=[]),
        tqdm(total=steps, initial=run.step, disable=not progress, unit="step", leave=False) as bar,
    ):
        while not run.done:
            number = len(run.history) + 1
            torch.manual_seed(run.config.seed * 100_003 + number)
            losses, seconds, seen = _epoch(run, images, steps, bar)
            loss = sum(losses) / max(len(losses), 1)
            known = held_out.y >= 0
            right = outputs(run.module.eval(), held_out, 256).argmax(1)[known] == held_out.y[known]
            val_top1 = 100 * right.float().mean().item()
            run.history.append(Epoch(number, loss, val_top1, seconds, seen, losses))
            bar.set_postfix_str(f"epoch {number}/{run.config.epochs} loss {loss:.3f} val {val_top1:.1f} %")
            run.done = number >= run.config.epochs or _progress(run, steps, 0.0) >= 1
            if path is not None:
                run.save(path)


def _epoch(run: _Run, images: Pixels, steps: int, bar: tqdm[Any]) -> tuple[tuple[float, ...], float, int]:
    """One pass over the images: (loss of each step, seconds, images seen)."""
    run.module.train()
    losses: list[float] = []
    seen, begin = 0, time.perf_counter()
    for x, target in run.objective.batches(images, run.config, len(run.history) + 1):
        progress = _progress(run, steps, time.perf_counter() - begin)
        if progress >= 1:
            break
        for group in run.optimizer.param_groups:
            group["lr"] = run.config.lr * _one_cycle(progress)
        loss = run.objective.loss(run.module, x, target)
        value = loss.item()
        if not math.isfinite(value):
            raise EdgeLabError(
                f"training broke in epoch {len(run.history) + 1}: the loss is {value}.",
                f"the weights grew without bound; the learning rate {run.config.lr} is too high for this network.",
                f"try FitConfig(lr={run.config.lr / 10:g}).",
            )
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        run.step += 1
        losses.append(value)
        seen += len(x)
        bar.update()
    return tuple(losses), time.perf_counter() - begin, seen


def _progress(run: _Run, steps: int, elapsed: float) -> float:
    """Share of the run that is over, by steps or by time, whichever is further."""
    by_steps = run.step / steps
    if run.config.max_seconds is None:
        return by_steps
    return max(by_steps, (sum(e.seconds for e in run.history) + elapsed) / run.config.max_seconds)


def _one_cycle(progress: float) -> float:
    """Learning rate as a share of the highest: cosine up over the first quarter, cosine down to 0 after it."""
    if progress < 0.25:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.25)) / 2
    return (1 + math.cos(math.pi * (progress - 0.25) / 0.75)) / 2
