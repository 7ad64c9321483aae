"""Task accuracy of a session, and inputs that are preprocessed once and shared by all sessions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge_lab.bundle.spec import ModelSpec, preprocess
from edge_lab.core.errors import InputError
from edge_lab.core.files import writing_file
from edge_lab.quality.agreement import Runs, outputs_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from edge_lab.data import SoundSet

Targets = Sequence[tuple[int, ...]]


class Images(Protocol):
    """What `prepare` needs of an ImageSet."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def targets(self) -> tuple[tuple[int, ...], ...]: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image: ...


@dataclass(frozen=True)
class Inputs:
    """Preprocessed inputs: `x` is (N, C, H, W) float32 (perhaps mapped from a file), `targets` one tuple per input."""

    x: np.ndarray
    targets: tuple[tuple[int, ...], ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> np.ndarray:
        """Input number `index` with its batch axis: (1, C, H, W)."""
        return np.asarray(self.x[index])[None]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and Top-5 in percent of the `labelled` inputs among `n`; None where there is nothing to count.

    Top-5 is None for models with five classes or fewer, where it would always be 100.
    """

    top1: float | None
    top5: float | None
    n: int
    labelled: int


def prepare(images: Images, spec: ModelSpec, *, cache: Path | None = None, progress: bool = False) -> Inputs:
    """Preprocess all images once, for any number of sessions.

    Args:
        images: an ImageSet.
        spec: its preprocessing is used.
        cache: a folder; the array is kept there under a name made from the images' fingerprint and the preprocessing,
            and mapped into memory instead of being read.
        progress: show a progress bar.
    """
    if len(images) == 0:
        raise InputError(
            f"image set {images.name!r} is empty.", "there is nothing to run.", "choose a set or folder with images."
        )
    file = cache / f"{_key(images, spec)}.npy" if cache else None
    if file and (x := _cached(file, len(images))) is not None:
        return Inputs(x, images.targets, images.name)
    x = np.empty((len(images), *spec.input.shape[1:]), np.float32)
    for i in _counted(len(images), progress):
        x[i] = preprocess(images[i], spec)[0]
    if file:
        with writing_file(file) as temporary, temporary.open("wb") as handle:
            np.save(handle, x)
    return Inputs(x, images.targets, images.name)


def prepare_sounds(sounds: SoundSet, spec: ModelSpec) -> Inputs:
    """Preprocess recordings for a model that hears; labelled where its first classes are their words."""
    x = np.concatenate([preprocess(sound, spec) for sound in sounds])
    known = spec.labels[: len(sounds.labels)] == sounds.labels
    return Inputs(x, tuple((t,) if known and t >= 0 else () for t in sounds.targets), sounds.name)


def refuse_pictures(spec: ModelSpec, flag: str) -> None:
    """Raise InputError: pictures were given for a model that takes something else; `flag` is what gave them."""
    if spec.audio is not None:
        what, why = "recordings", "it hears: its spec makes inputs from sound."
        fix = f"leave {flag} out: the shipped recordings are taken."
    else:
        what, why = "a ready tensor", f"its task is {spec.task!r}, with no preprocessing."
        fix = f"leave {flag} out, or give the model a Preprocess."
    raise InputError(f"{spec.name} takes {what}, so pictures are no use to it.", why, fix)


def evaluate(session: Runs, inputs: Inputs | Iterable[np.ndarray], targets: Targets | None = None) -> Accuracy:
    """Run a classifier on every input and score it; see `score`.

    Args:
        session: a Session.
        inputs: what `prepare` returned, or any preprocessed arrays with a batch axis.
        targets: accepted class indices per input; default: those of `inputs`.
    """
    if targets is None:
        targets = inputs.targets if isinstance(inputs, Inputs) else ()
    return score(outputs_of(session, inputs), targets)


def score(outputs: np.ndarray, targets: Targets) -> Accuracy:
    """Accuracy of stacked classifier outputs, shape (N, classes).

    An input counts as right if its best class (or one of its best five) is among its accepted indices. Inputs with no
    accepted index are not counted. Outputs with a NaN are counted as wrong.
    """
    if outputs.ndim != 2 or len(outputs) != len(targets):
        raise InputError(
            f"outputs of shape {outputs.shape} can't be scored against {len(targets)} targets.",
            "accuracy needs one row of class scores and one tuple of accepted classes per input.",
            "pass Inputs from prepare(), or targets of the same length; () marks an unlabelled input.",
        )
    best = np.argsort(-outputs.astype(np.float64), axis=1, kind="stable")[:, :5]
    rows = [(set(t), best[i].tolist(), not np.isnan(outputs[i]).any()) for i, t in enumerate(targets) if t]
    if not rows:
        return Accuracy(None, None, len(targets), 0)
    top1 = 100 * sum(fine and order[0] in accepted for accepted, order, fine in rows) / len(rows)
    top5 = 100 * sum(fine and not accepted.isdisjoint(order) for accepted, order, fine in rows) / len(rows)
    return Accuracy(top1, top5 if outputs.shape[1] > 5 else None, len(targets), len(rows))


def _key(images: Images, spec: ModelSpec) -> str:
    recipes = [asdict(recipe) if recipe else None for recipe in (spec.preprocess, spec.audio)]
    text = json.dumps([images.fingerprint, len(images), *recipes, spec.input.shape], sort_keys=True)
    return f"{images.name.replace(os.sep, '_')[-40:]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _cached(file: Path, count: int) -> np.ndarray | None:
    try:
        x: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return x if len(x) == count else None


def _counted(count: int, progress: bool) -> Iterable[int]:
    from tqdm.auto import tqdm

    return tqdm(range(count), desc="preprocess", unit="image", disable=not progress)
