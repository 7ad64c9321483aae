"""Knowledge distillation: a small network learns from what a large one answers, not from labels alone.

Logits: the student matches the teacher's class probabilities, softened by a temperature T (G. Hinton, O. Vinyals,
J. Dean, "Distilling the Knowledge in a Neural Network", 2015). Features: it also matches the teacher's last feature
map through a learned 1x1 projection that is thrown away afterwards (A. Romero et al., "FitNets: Hints for Thin Deep
Nets", ICLR 2015). Teacher and student always see the same augmented pixels (L. Beyer et al., "Knowledge distillation:
A good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.compress.distillation.teacher import TeacherCache, answers, identify, last_map, watched
from edge_lab.core.errors import DataError, InputError
from edge_lab.data.images import ImageSet, hash_of
from edge_lab.train import FitConfig, FitResult, Objective
from edge_lab.train import fit as train_fit
from edge_lab.train.pixels import Pixels, draw_moves, move
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Distill:
    """How a student learns from a teacher.

    The loss of an image is `alpha * T^2 * KL(teacher || student, both at temperature T)` plus `(1 - alpha)` times the
    cross-entropy with its label; an image without a label has the first part only. T^2 keeps the gradients of the
    first part at the same size for every T.

    Args:
        temperature: T > 0. 1: the teacher's probabilities as they are; higher: its doubts count for more.
        alpha: 0 (labels only) to 1 (teacher only).
        features: weight of the feature loss, the mean squared difference in units of the teacher's mean square;
            None: logits only.
        fit: the training itself: epochs, batch size, learning rate, augmentation, seed.
    """

    temperature: float = 4.0
    alpha: float = 0.7
    features: float | None = None
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(
                f"Distill(temperature={self.temperature}) can't be used.",
                "logits are divided by it, so it must be a positive number.",
                "start from temperature=4.",
            )
        if not 0 <= self.alpha <= 1:
            raise InputError(
                f"Distill(alpha={self.alpha}) can't be used.",
                "it is the teacher's share of the loss.",
                "take a number from 0 (labels only) to 1 (teacher only); 0.7 is a good start.",
            )
        if self.features is not None and not (math.isfinite(self.features) and self.features > 0):
            raise InputError(
                f"Distill(features={self.features}) can't be used.",
                "it is a weight, so it must be a positive number.",
                "pass features=1.0, or None for logits only.",
            )


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What the loss reads for a batch: labels (-1 unknown), the teacher's logits and its feature map."""

    y: Tensor
    logits: Tensor
    features: Tensor | None


def distill(
    student: Model,
    teacher: Model | TeacherCache,
    train_set: ImageSet,
    val_set: ImageSet,
    config: Distill | None = None,
    *,
    checkpoint: Path | str | None = None,
    progress: bool = True,
) -> FitResult:
    """Train a copy of a student on what a teacher answers; neither model is changed.

    With a Model as teacher it runs live on every augmented batch. With a `teacher_cache` it does not run at all: the
    student sees the cache's fixed views, one view an epoch. Live costs the teacher's time in each epoch and never
    repeats a view; a cache pays once, also for many seeds and students.

    Args:
        student: a classifier with image preprocessing, one output per class of train_set.
        teacher: a classifier for the same classes in the same order, or what one said.
        train_set: images without a label are used too; the teacher answers for them.
        val_set: labelled, never learnt from.
        config: default Distill().
        checkpoint: as in `train.fit`: written after every epoch; a killed run goes on from it.
        progress: show a bar on stderr.

    Raises:
        InputError: class counts differ, unusable models or sets, or the cache lacks features that are asked for.
        DataError: the cache was made for other data, preprocessing or augmentation; or a foreign checkpoint.
        EdgeLabError: the teacher answers NaN, or training diverges.
    """
    config = config or Distill()
    _check_pair(student, teacher, train_set)
    if isinstance(teacher, TeacherCache):
        _check_cache(teacher, student, train_set, config)
    objective = _objective(student, teacher, train_set, config)
    result = train_fit(
        student, train_set, val_set, config.fit, checkpoint=checkpoint, progress=progress, objective=objective
    )
    name = teacher.identity["teacher"].split()[0] if isinstance(teacher, TeacherCache) else teacher.spec.name
    spec = result.model.spec.with_(weights=f"{train_set.name}, distilled from {name}")
    return replace(result, model=replace(result.model, spec=spec))


def keep_labels(images: ImageSet, n: int) -> ImageSet:
    """The same images with only n labels, spread evenly; the others become unknown."""
    if n < 0:
        raise InputError(f"{n} labels can't be kept.", "a count starts at 0.", "pass 0 or more.")
    n = min(n, len(images))
    kept = {i * len(images) // n for i in range(n)}
    targets = tuple(t if i in kept else () for i, t in enumerate(images.targets))
    return replace(images, targets=targets, fingerprint=hash_of(images.fingerprint, f"{n} labels"))


def _check_pair(student: Model, teacher: Model | TeacherCache, images: ImageSet) -> None:
    import torch

    if isinstance(teacher, TeacherCache):
        classes, name = teacher.logits.shape[-1], "the cached teacher"
    else:
        name = teacher.spec.name
        if teacher.spec.preprocess is None or teacher.spec.task != "classify":
            raise InputError(
                f"{name} can't teach.",
                f"its task is {teacher.spec.task!r}" + ("." if teacher.spec.preprocess else ", without images."),
                "use a classifier made with from_module(..., preprocess=Preprocess(...)).",
            )
        with torch.no_grad():
            classes = teacher.module.eval()(torch.zeros(teacher.spec.input.shape)).shape[-1]
    with torch.no_grad():
        own = student.module.eval()(torch.zeros(student.spec.input.shape)).shape[-1]
    if classes != own or classes != len(images.labels):
        raise InputError(
            f"{name} has {classes} classes, {student.spec.name} has {own}, {images.name} has {len(images.labels)}.",
            "a student copies its teacher's probabilities class by class.",
            "give the teacher a head for these classes and train it first: zoo.create(name, labels=images.labels).",
        )


def _check_cache(cache: TeacherCache, student: Model, images: ImageSet, config: Distill) -> None:
    wanted = {
        "data": images.fingerprint,
        "student sees": str(student.spec.preprocess),
        "augmentation": f"shift={config.fit.shift}, flip={config.fit.flip}",
    }
    if changed := [k for k, v in wanted.items() if cache.identity.get(k) != v]:
        listed = "; ".join(f"{k}: {cache.identity.get(k)} in the cache, now {wanted[k]}" for k in changed)
        raise DataError(
            "the teacher cache belongs to another run.",
            f"{listed}.",
            "make one for this run: teacher_cache(teacher, student, train_set, config.fit).",
        )
    if config.features is not None and cache.features is None:
        raise InputError(
            "the teacher cache holds no features.",
            f"Distill(features={config.features}) matches them, and the cache was made without.",
            "make it with teacher_cache(..., features=True).",
        )


def _objective(student: Model, teacher: Model | TeacherCache, images: ImageSet, config: Distill) -> Objective:
    own = theirs = projection = None
    if config.features is not None:
        own, channels = last_map(student)
        if isinstance(teacher, TeacherCache):
            assert teacher.features is not None  # _check_cache looked
            outputs = teacher.features.shape[-1]
        else:
            theirs, outputs = last_map(teacher)
        projection = _projection(channels, outputs, config.fit.seed)

    def lessons(pixels: Pixels, fit: FitConfig, epoch: int) -> Iterator[tuple[Tensor, _Lesson]]:
        import torch

        for index in torch.randperm(len(pixels.y)).split(fit.batch_size):  # type: ignore[no-untyped-call]
            if isinstance(teacher, TeacherCache):
                view = (epoch - 1) % teacher.views
                x = move(pixels.x[index], teacher.moves(view, index.numpy()))
                logits = torch.from_numpy(teacher.logits[view, index.numpy()])
                cached = None if projection is None or teacher.features is None else teacher.features[view]
                maps = None if cached is None else torch.from_numpy(cached[index.numpy()])[:, :, None, None]
            else:
                x = move(pixels.x[index], draw_moves(len(index), fit))
                logits, maps = answers(teacher, x, theirs)
            yield pixels.normalised(x), _Lesson(pixels.y[index], logits, maps)

    def loss(module: nn.Module, x: Tensor, lesson: _Lesson) -> Tensor:
        logits, features = watched(module, x, own)
        total = distillation_loss(logits, lesson.logits, lesson.y, config)
        if projection is None or config.features is None or features is None or lesson.features is None:
            return total
        return total + config.features * feature_loss(features, lesson.features, projection)

    asked = (
        teacher.identity if isinstance(teacher, TeacherCache) else identify(teacher, student.spec, images, config.fit)
    )
    identity = {"teacher": asked["teacher"], "views": asked.get("views", "live")} | {
        name: getattr(config, name) for name in ("temperature", "alpha", "features")
    }
    return Objective(lessons, loss, identity, projection, unlabelled=True)


def _projection(inputs: int, outputs: int, seed: int) -> nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Conv2d(inputs, outputs, 1, bias=False)


def distillation_loss(logits: Tensor, teacher: Tensor, y: Tensor, config: Distill) -> Tensor:
    """The loss that Distill describes, as the mean over a batch.

    Args:
        logits: the student's, float32 (N, classes).
        teacher: the teacher's, float32 (N, classes).
        y: int64 (N,) labels, -1 where unknown.
        config: temperature, alpha, and the label smoothing of its fit.
    """
    from torch.nn import functional

    t = config.temperature
    soft = functional.kl_div(
        functional.log_softmax(logits / t, 1),
        functional.log_softmax(teacher / t, 1),
        reduction="batchmean",
        log_target=True,
    )
    hard = functional.cross_entropy(
        logits, y, ignore_index=-1, label_smoothing=config.fit.label_smoothing, reduction="sum"
    )
    return config.alpha * t * t * soft + (1 - config.alpha) * hard / len(y)


def feature_loss(student: Tensor, teacher: Tensor, projection: nn.Module) -> Tensor:
    """Mean squared difference of two feature maps, in units of the teacher's mean square.

    Args:
        student: float32 (N, C, H, W). teacher: float32 (N, C', H', W').
        projection: 1x1 convolution from C to C' channels. Both maps are averaged down to the smaller grid.
    """
    from torch.nn import functional

    grid = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    own, theirs = functional.adaptive_avg_pool2d(student, grid), functional.adaptive_avg_pool2d(teacher, grid)
    return functional.mse_loss(projection(own), theirs) / theirs.square().mean().clamp_min(1e-12)
