"""What a teacher says about a set of images, computed once and kept in a file."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.spec import ModelSpec
from edge_lab.core.errors import DataError, EdgeLabError, InputError
from edge_lab.core.files import locked, writing_file
from edge_lab.data.splitmix import Stream
from edge_lab.train.pixels import Moves, Pixels, load_pixels, move
from edge_lab.train.records import FitConfig
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edge_lab.data import ImageSet

_BATCH = 256


@dataclass(frozen=True, eq=False)
class TeacherCache:
    """A teacher's answers to k fixed views of every image; a student learns from exactly these views.

    A view is one augmentation of the whole set: an own shift (and mirroring) for each image. Epoch e of the student
    shows view (e - 1) modulo k, so that student and teacher always look at the same pixels.

    Attributes:
        logits: float32 (k, N, classes).
        features: float32 (k, N, channels), the last feature map averaged over its pixels; None if not kept.
        down, right: int8 (k, N), pixels by which a view moves each image.
        mirrored: bool (k, N).
        identity: what the answers belong to: data, teacher, preprocessing and augmentation, each as text.
    """

    logits: np.ndarray
    features: np.ndarray | None
    down: np.ndarray
    right: np.ndarray
    mirrored: np.ndarray
    identity: dict[str, str]

    @property
    def views(self) -> int:
        """How many views of each image."""
        return len(self.logits)

    def moves(self, view: int, index: Any = slice(None)) -> Moves:
        """The moves of one view, of all images or those at `index`."""
        import torch

        down, right = (torch.from_numpy(a[view][index].astype(np.int64)) for a in (self.down, self.right))
        return Moves(down, right, torch.from_numpy(self.mirrored[view][index]))


def teacher_cache(
    teacher: Model,
    student: Model,
    images: ImageSet,
    fit: FitConfig,
    *,
    views: int = 4,
    features: bool = False,
    folder: Path | str | None = None,
) -> TeacherCache:
    """Ask a teacher about k augmented views of every image, or read what it said before.

    Args:
        teacher: a classifier with image preprocessing; not changed.
        student: the model that will learn; its preprocessing says what a view looks like.
        images: the training set, labelled or not.
        fit: its `shift` and `flip` make the views. Nothing else of it matters, so seeds can share a cache.
        views: k. Each costs one pass of the teacher over the set.
        features: keep the pooled last feature map too, for Distill(features=...).
        folder: where teacher-KEY.npz is kept; None: nowhere. The key changes with the data, the teacher's weights, the
            preprocessing and the augmentation. The file holds plain arrays and a checksum, and is whole or absent.

    Raises:
        InputError: not two image classifiers, or views < 1. DataError: the file is damaged.
        EdgeLabError: the teacher answers NaN or infinity.
    """
    if views < 1:
        raise InputError(f"views={views} can't be used.", "a cache holds at least one view.", "pass views=4.")
    identity = identify(teacher, student.spec, images, fit) | {"views": str(views), "features": str(features)}
    if folder is None:
        return _ask(teacher, student, images, fit, views, features, identity)
    key = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16]
    path = Path(folder) / f"teacher-{key}.npz"
    with locked(path):
        if path.exists():
            return _read(path, identity)
        cache = _ask(teacher, student, images, fit, views, features, identity)
        _write(path, cache)
    return cache


def identify(teacher: Model, student: ModelSpec, images: ImageSet, fit: FitConfig) -> dict[str, str]:
    """What a teacher's answers depend on, as text."""
    digest = hashlib.sha256()
    for name, value in teacher.module.state_dict().items():
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return {
        "data": images.fingerprint,
        "teacher": f"{teacher.spec.name} {digest.hexdigest()[:16]} {teacher.spec.preprocess}",
        "student sees": str(student.preprocess),
        "augmentation": f"shift={fit.shift}, flip={fit.flip}",
    }


def answers(teacher: Model, x: Tensor, layer: str | None) -> tuple[Tensor, Tensor | None]:
    """The teacher's logits, and the feature map of a layer, for a uint8 batch (N, C, H, W) as the student sees it.

    If the teacher takes another size, the batch is resized for it (bilinear).

    Raises:
        EdgeLabError: NaN or infinity among the answers.
    """
    import torch

    size = teacher.spec.input.shape[-2:]
    with torch.no_grad():
        pixels = x.float()
        if pixels.shape[-2:] != size:
            pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        ready = Pixels(x, x, teacher.spec).normalised(pixels)
        logits, features = watched(teacher.module.eval(), ready, layer)
    finite = torch.isfinite(logits).all() and (features is None or torch.isfinite(features).all())
    if not finite:
        raise EdgeLabError(
            f"the teacher {teacher.spec.name} answers NaN or infinity.",
            "its weights are damaged, or it overflows on these images.",
            "check it alone first: train.evaluate_module(teacher, images).",
        )
    return logits, features


def watched(module: nn.Module, x: Tensor, layer: str | None) -> tuple[Tensor, Tensor | None]:
    """Output of a network, and of one of its layers by name (None: not watched)."""
    if layer is None:
        return module(x), None
    seen: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    try:
        return module(x), seen[-1]
    finally:
        handle.remove()


def last_map(model: Model) -> tuple[str, int]:
    """Name and channels of the last feature map: the last layer to finish whose output is (N, C, H, W), H * W > 1.

    Raises:
        InputError: the network has none.
    """
    import torch

    found: list[tuple[str, int]] = []

    def note(name: str) -> Any:
        def hook(_m: object, _i: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
                found.append((name, output.shape[1]))

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in model.module.named_modules() if name]
    training = model.module.training
    try:
        with torch.no_grad():
            model.module.eval()(torch.zeros(model.spec.input.shape))
    finally:
        model.module.train(training)
        for handle in handles:
            handle.remove()
    if not found:
        raise InputError(
            f"{model.spec.name} has no feature map to match.",
            "no layer of it gives a (N, channels, height, width) tensor.",
            "distill the logits only: leave Distill(features=None).",
        )
    return found[-1]


def _ask(
    teacher: Model,
    student: Model,
    images: ImageSet,
    fit: FitConfig,
    views: int,
    features: bool,
    identity: dict[str, str],
) -> TeacherCache:
    import torch

    pixels, n = load_pixels(images, student.spec), len(images)
    stream = Stream(f"teacher views {identity['augmentation']}")
    down, right = (stream.array(views * n, -fit.shift, fit.shift).reshape(views, n).astype(np.int8) for _ in range(2))
    mirrored = stream.array(views * n, 0, int(fit.flip)).reshape(views, n).astype(bool)
    empty = np.empty((views, 0, 0), np.float32)
    cache = TeacherCache(empty, None, down, right, mirrored, identity)
    layer = last_map(teacher)[0] if features else None
    logits, maps = [], []
    for view in range(views):
        for part in torch.arange(n).split(_BATCH):  # type: ignore[no-untyped-call]
            x = move(pixels.x[part], cache.moves(view, part.numpy()))
            answer, feature = answers(teacher, x, layer)
            logits.append(answer.float().numpy())
            if feature is not None:
                maps.append(feature.float().mean((2, 3)).numpy())
    pooled = np.concatenate(maps).reshape(views, n, -1) if maps else None
    return TeacherCache(np.concatenate(logits).reshape(views, n, -1), pooled, down, right, mirrored, identity)


def _arrays(cache: TeacherCache) -> dict[str, np.ndarray]:
    arrays = {"logits": cache.logits, "down": cache.down, "right": cache.right, "mirrored": cache.mirrored}
    return arrays if cache.features is None else arrays | {"features": cache.features}


def _checksum(arrays: dict[str, np.ndarray], identity: dict[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(identity.items())).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _write(path: Path, cache: TeacherCache) -> None:
    arrays = _arrays(cache)
    with writing_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, checksum=np.array(_checksum(arrays, cache.identity)), **arrays)  # type: ignore[arg-type]


def _read(path: Path, identity: dict[str, str]) -> TeacherCache:
    arrays: dict[str, np.ndarray] = {}
    checksum = ""
    with suppress(Exception), np.load(path, allow_pickle=False) as saved:  # whatever is wrong, it is the wrong file
        arrays = {name: saved[name] for name in saved.files}
        checksum = str(arrays.pop("checksum"))
    if not arrays or checksum != _checksum(arrays, identity):
        raise DataError(
            f"the teacher cache {path} can't be used.",
            "it is cut off, changed, or not what its name says.",
            "delete it; it will be made again.",
        )
    return TeacherCache(identity=identity, features=arrays.pop("features", None), **arrays)
