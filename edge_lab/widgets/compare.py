"""Two bundles side by side: their answers to a picture, how often they agree, how long each takes. No widgets here."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import ModelSpec, Prediction, postprocess, preprocess
from edge_lab.core.errors import DataError
from edge_lab.core.numbers import finite_db
from edge_lab.data import ImageSet
from edge_lab.formats.runtime import Session, load
from edge_lab.measure.host import machine, versions
from edge_lab.measure.measured import measurement_of
from edge_lab.measure.record import Measurement, Measurements, Quality, now
from edge_lab.measure.timing import Latency, interleaved
from edge_lab.quality.accuracy import Accuracy, Targets, prepare, score
from edge_lab.quality.agreement import Parity, outputs_of, parity
from edge_lab.results.readiness import gate
from edge_lab.signals.image import read_image
from edge_lab.widgets.catalog import Choice

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS, CROPS = 200, 24  # pictures that quality is counted on: seconds, not minutes
THUMBNAIL = 480  # pixels of the longer side, in the page
Step = Callable[[int, str], None]  # percent done, what is done now


@dataclass(frozen=True)
class Pair:
    """What was measured of two bundles in one sitting: `measured` holds the left one, then the right one.

    `close` compares the right one's raw outputs with the left one's, input by input.
    """

    measured: Measurements
    close: Parity
    answers: int | None

    @property
    def left(self) -> Measurement:
        """The reference."""
        return self.measured.items[0]

    @property
    def right(self) -> Measurement:
        """The chosen one; the same as `left` if a bundle is compared with itself."""
        return self.measured.items[-1]


def pictures_for(spec: ModelSpec, given: ImageSet | None = None) -> ImageSet | None:
    """Pictures to show a model: the given ones, else digits if it knows digits, else the shipped photos.

    None for models that take ready tensors.
    """
    from edge_lab import data

    if spec.preprocess is None or spec.task != "classify":
        return None
    if given is not None:
        return given
    digits = data.load("digits", "test")
    return digits.take(DIGITS) if spec.labels == digits.labels else data.load("photos")


def judged_on(spec: ModelSpec, shown: ImageSet | None) -> ImageSet | None:
    """Pictures that quality is counted on: those shown, and more crops where they are the twelve photos."""
    from edge_lab import data

    if shown is None or shown.name != "photos":
        return shown
    return data.concat("photos and crops", shown, data.load("crops", limit=CROPS))


def top5(session: Session, image: Image) -> tuple[Prediction, ...]:
    """The five best answers of a classifier, best first."""
    return tuple(postprocess(session(preprocess(image, session.spec)), session.spec)[:5])


def measure(
    left: Choice,
    right: Choice,
    sessions: dict[Path, Session],
    pictures: ImageSet | None,
    *,
    rounds: int = 30,
    step: Step = lambda percent, what: None,
) -> Pair:
    """Latency of both, in turn, on one thread, and their quality on the same inputs.

    Args:
        left: the reference.
        right: the chosen one.
        sessions: of both, by the bundle's path.
        pictures: what quality is counted on; None: the golden inputs of `right`.
        rounds: timed calls of each.
        step: called with percent and a word before each part.
    """
    both = {c.bundle.path: c for c in (left, right)}
    step(5, "looking at the machine")
    state, date = gate(0.3), now()
    first = next(iter(both.values())).bundle
    x = preprocess(pictures[0], first.spec) if pictures else next(x for _, x, _ in right.bundle.golden_cases())
    step(15, "timing")
    calls = {str(path): partial(sessions[path].run, x) for path in both}
    times = interleaved(calls, rounds=rounds, threads=1)
    step(55, f"running {len(pictures)} pictures" if pictures else "running the golden inputs")
    outputs = {}
    inputs = list(prepare(pictures, first.spec)) if pictures else [x for _, x, _ in right.bundle.golden_cases()]
    for done, path in enumerate(both):
        step(60 + 20 * done, f"running {both[path].label}")
        outputs[path] = outputs_of(sessions[path], inputs)
    targets: Targets = pictures.targets if pictures and pictures.labels == first.spec.labels else ()
    close = parity(outputs[left.bundle.path], outputs[right.bundle.path], task=right.bundle.spec.task)
    items = tuple(
        _item(
            choice,
            times[str(path)],
            pictures,
            score(outputs[path], targets) if any(targets) else None,
            close if path == right.bundle.path and path != left.bundle.path else None,
        )
        for path, choice in both.items()
    )
    found = Measurements("edge-lab", "edge_lab.widgets.dashboard", date, machine(), state, versions(), items)
    return Pair(found, close, close.answers(right.bundle.spec.task))


def _item(
    choice: Choice, times: Latency, pictures: ImageSet | None, accuracy: Accuracy | None, close: Parity | None
) -> Measurement:
    bundle, name = choice.bundle, pictures.name if pictures else "golden inputs"
    count = len(pictures) if pictures else len(bundle.golden)
    enough = accuracy is not None and accuracy.labelled >= 20  # a percentage of four photos says nothing
    quality = Quality(
        name,
        count,
        accuracy.top1 if accuracy and enough else None,
        accuracy.top5 if accuracy and enough else None,
        close.agreement if close else None,
        finite_db(close.sqnr_db) if close else None,
    )
    return measurement_of(bundle, times, quality=quality)


def open_session(choice: Choice) -> Session:
    """Verify the bundle and load it on one thread.

    Raises:
        BundleError, MissingTool: it is damaged, or can't run on this machine.
    """
    return load(Bundle.load(choice.bundle.path), threads=1)


def picture(content: bytes, name: str) -> Image:
    """An uploaded file as an upright RGB picture.

    Raises:
        DataError: it is none; one sentence, and what to do.
    """
    fix = "choose a JPEG or PNG file."
    if not content:
        raise DataError(f"{name} is empty.", "the file has 0 bytes.", fix)
    try:
        return read_image(io.BytesIO(content))  # type: ignore[arg-type]  # what can be opened can be read
    except DataError as error:
        raise DataError(f"{name} could not be read as a picture.", "it is cut off, or not a picture.", fix) from error


def thumbnail(image: Image) -> str:
    """A picture for the page: JPEG as base64; tiny ones stay as they are, so that their pixels can be seen."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    tiny = max(small.size) <= 64
    small.save(buffer, "PNG" if tiny else "JPEG", **({} if tiny else {"quality": 85}))
    return base64.b64encode(buffer.getvalue()).decode("ascii")
