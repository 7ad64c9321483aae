"""What a trial does with a real model: prune, train on, quantize, export, and measure beside the float program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.data import ImageSet
from edge_lab.sweep.trial import Scores, Settings
from edge_lab.train import FitConfig
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from edge_lab.bundle.folder import Bundle

REFERENCE = "linux-xnnpack-fp32"
_ENOUGH = 200  # pictures that statistics of batch norms can be taken from
_ROUNDING = ("nearest", "second-order")
_KNOWN = ("target", "pruned", "rounding", "per_channel", "keep_float")


@dataclass(frozen=True)
class Evaluator:
    """Calls as `evaluate(settings)`; settings that are not given have the defaults of `edge_lab.to`.

    Settings: `target` (a name from `edge_lab.targets()`), `pruned` (share of channels to remove), and for int8 programs
    of XNNPACK `rounding` ("nearest", "second-order"), `per_channel` (True, False), `keep_float` (a pattern of layers,
    "" for none).

    Attributes:
        model: float32 and trained; pickles.
        images: what accuracy is counted on: Top-1 if they are labelled as the model is, else agreement with the model.
        train: what a pruned network is trained on; None: it only gets new batch norm statistics, from `images` if there
            are enough.
        fit: how it is trained.
        calibration: for int8; default: crops of shipped photos.
        out: bundles go here, one folder for each width; what is there already is reused.
        rounds: timed calls of each program, in turn with the reference.
    """

    model: Model
    images: ImageSet
    train: ImageSet | None = None
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=1))
    calibration: ImageSet | None = None
    out: Path | str = "artifacts"
    rounds: int = 60

    def __call__(self, settings: Settings) -> Scores:
        """Scores of one setting.

        Raises:
            InputError: a setting that is not known.
            EdgeLabError: these settings give no program.
        """
        from edge_lab.export import to
        from edge_lab.formats.runtime import load
        from edge_lab.measure import interleaved, ratio

        _check(settings)
        target = str(settings.get("target", REFERENCE))
        bundle = self._bundle(settings, target)
        reference = to(self.model, REFERENCE, golden=self.images.take(5), out=self.out)
        session, base = load(bundle), load(reference)
        inputs, targets = self._inputs()
        x = inputs[:1]
        times = interleaved(
            {"it": partial(session.run, x), "reference": partial(base.run, x)}, rounds=self.rounds, threads=1
        )
        return Scores(
            size_mb=bundle.program_bytes / 1e6,
            times=ratio(times["it"], times["reference"]).value,
            accuracy=self._accuracy(session, inputs, targets),
            images=len(inputs),
            p50_ms=times["it"].p50_ms,
            bundle=str(bundle.path),
        )

    def _bundle(self, settings: Settings, target: str) -> Bundle:
        from edge_lab.compress import StaticInt8, quantize
        from edge_lab.compress.static.inputs import calibration_arrays
        from edge_lab.compress.static.rounding import Nearest, SecondOrder
        from edge_lab.export import to

        model, golden = self._width(float(settings.get("pruned", 0.0))), self.images.take(5)
        if not target.endswith("xnnpack-int8") or not {"rounding", "per_channel", "keep_float"} & settings.keys():
            return to(model, target, calibration=self.calibration, golden=golden, out=self.out)
        keep = str(settings.get("keep_float", ""))
        recipe = StaticInt8(
            per_channel=bool(settings.get("per_channel", True)),
            rounding=Nearest() if settings.get("rounding") == "nearest" else SecondOrder(),
            keep_float=(keep,) if keep else (),
        )
        inputs = calibration_arrays(self.calibration, model)
        label = "-".join(str(settings[k]) for k in ("rounding", "per_channel", "keep_float") if k in settings)
        spec = model.spec.with_(name=f"{model.spec.name}-{label}".replace("*", "x"))
        module = quantize(model.module, inputs[0], inputs, recipe)
        return to(replace(model, module=module, spec=spec, origin=None), target, golden=golden, out=self.out)

    def _width(self, pruned: float) -> Model:
        """The model with that share of its channels gone, trained on; once made, it is read from its checkpoint."""
        from edge_lab.compress import Structured, finetune, prune, refresh_norm

        if not pruned:
            return self.model
        name = f"{self.model.spec.name}-pruned{round(100 * pruned)}"
        narrow = prune(self.model, Structured(pruned))
        narrow = replace(narrow, spec=narrow.spec.with_(name=name))
        seen = self.train or self.images
        if len(seen) >= _ENOUGH:
            narrow = refresh_norm(narrow, seen)
        if self.train is None:
            return narrow
        keep = Path(self.out) / name / f"{self.fit.key}-{self.train.fingerprint[:8]}.pt"
        keep.parent.mkdir(parents=True, exist_ok=True)
        watched = self.train.take(min(len(self.train), _ENOUGH))  # never the images that the result is judged by
        return finetune(narrow, self.train, watched, self.fit, checkpoint=keep, progress=False).model

    def _inputs(self) -> tuple[np.ndarray, Sequence[tuple[int, ...]]]:
        from edge_lab.quality.accuracy import prepare

        found = prepare(self.images, self.model.spec)
        return found.x, found.targets

    def _accuracy(self, session: Any, inputs: np.ndarray, targets: Sequence[tuple[int, ...]]) -> float:
        from edge_lab.formats.runtime import eager
        from edge_lab.quality.accuracy import score
        from edge_lab.quality.agreement import outputs_of, parity

        outputs = outputs_of(session, [inputs[i : i + 1] for i in range(len(inputs))])
        if self.images.labels == self.model.spec.labels and all(targets):
            return score(outputs, targets).top1 or 0.0
        base = outputs_of(eager(self.model), [inputs[i : i + 1] for i in range(len(inputs))])
        return parity(base, outputs, task=self.model.spec.task).agreement or 0.0


def _check(settings: Settings) -> None:
    wrong = [name for name in settings if name not in _KNOWN]
    if wrong:
        raise InputError(
            f"there is no setting {wrong[0]!r}.",
            f"known are {', '.join(_KNOWN)}.",
            "rename it, or write your own evaluate.",
        )
    if "rounding" in settings and settings["rounding"] not in _ROUNDING:
        raise InputError(
            f"rounding {settings['rounding']!r} is not known.",
            "it says how weights become integers.",
            "; ".join(_ROUNDING),
        )
