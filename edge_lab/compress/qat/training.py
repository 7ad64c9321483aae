"""Quantization-aware training: go on training with the rounding inside, so that the weights learn to live with it.

The forward pass rounds weights and activations to their integer grid and back ("fake quantization"); the backward pass
treats the rounding as if it were not there (straight-through estimator: Y. Bengio et al. 2013; for networks: B. Jacob
et al., CVPR 2018). The result is a graph with quantize/dequantize pairs, as post-training quantization writes it;
`edge_lab.to(result.model, "android-xnnpack-int8")` lowers it without calibrating again.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.compress.graphs.quantized import refuse_quantized
from edge_lab.compress.static.quantize import check_weights
from edge_lab.core.errors import ExportError, InputError
from edge_lab.core.quiet import quiet
from edge_lab.train import Epoch, FitConfig, fit
from edge_lab.train.pixels import load_pixels
from edge_lab.zoo import Model

if TYPE_CHECKING:
    import torch

    from edge_lab.data import ImageSet


@dataclass(frozen=True)
class QAT:
    """How to train for integers.

    Attributes:
        weight_bits: 2 to 8. Below 8 the weights take only that many different values, but are stored and computed as
            int8: the accuracy is that of a 4-bit network, size and speed are those of an 8-bit one.
        per_channel: one weight scale per output channel instead of one per tensor.
        freeze_observers_at: share of the steps after which the ranges of activations and weights stay as they are.
        freeze_batch_norm_at: share of the steps after which batch normalisation uses its running statistics, as the
            device will, instead of those of the batch.
        fit: how to train; a learning rate well below that of the first training.
    """

    weight_bits: int = 8
    per_channel: bool = True
    freeze_observers_at: float = 0.6
    freeze_batch_norm_at: float = 0.6
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=2, lr=0.02))

    def __post_init__(self) -> None:
        shares = self.freeze_observers_at, self.freeze_batch_norm_at
        if not 2 <= self.weight_bits <= 8 or not all(0 < share <= 1 for share in shares):
            raise InputError(
                f"QAT(weight_bits={self.weight_bits}, freeze_observers_at={shares[0]}, "
                f"freeze_batch_norm_at={shares[1]}) can't be used.",
                "weights take 2 to 8 bits; both shares are above 0 and at most 1.",
                "start from QAT() and change one value at a time.",
            )
        if self.fit.max_seconds is not None:
            raise InputError(
                "QAT can't be given a time budget.",
                "it freezes ranges and batch normalisation at a step that must be known beforehand.",
                "leave max_seconds out of FitConfig and set epochs.",
            )

    @property
    def weight_range(self) -> tuple[int, int]:
        """Smallest and largest integer of a weight. At 8 bits -127, as ExecuTorch's own recipe; -8 to 7 at 4 bits."""
        top = 2 ** (self.weight_bits - 1) - 1
        return (-top if self.weight_bits == 8 else -top - 1), top


@dataclass(frozen=True, eq=False)
class QATResult:
    """The quantized model, and the learning curve (validation accuracy is that of the rounded network)."""

    model: Model
    history: tuple[Epoch, ...]

    @property
    def seconds(self) -> float:
        """Training time without validation."""
        return sum(epoch.seconds for epoch in self.history)


def qat(
    model: Model,
    train_set: ImageSet,
    val_set: ImageSet,
    config: QAT | None = None,
    *,
    checkpoint: Path | str | None = None,
    progress: bool = True,
) -> QATResult:
    """Fine-tune a trained float32 classifier with rounding inside, and convert it to integers.

    Args:
        model: a trained classifier with a preprocessing; it is not changed. Its forward pass must accept any batch
            size.
        train_set: labelled images to learn from.
        val_set: labelled images to watch progress on, never learnt from.
        config: default QAT().
        checkpoint: a file that is written after every epoch. If it exists, training goes on from there; a run that
            was killed and resumed ends with the same weights as one that was not.
        progress: show a bar on stderr.

    Returns:
        A model (named NAME-qat8, NAME-qat4, ...; no origin, it can't be rebuilt by name) that takes any batch size.

    Raises:
        InputError: the model is quantized already, holds NaN, or is no classifier; labels don't fit it.
        ExportError: the model can't be captured with a free batch size, or holds nothing to quantize.
        DataError: the checkpoint belongs to another run, or is damaged.
        EdgeLabError: the loss is not a number any more.
    """
    from edge_lab.compress.qat.graph import Trainee, convert_trainee, prepared

    config = config or QAT()
    _check(model)
    first = load_pixels(train_set.take(64), model.spec)
    labelled = sum(bool(accepted) for accepted in train_set.targets)
    steps = config.fit.epochs * math.ceil(labelled / config.fit.batch_size)
    with quiet():
        trainee = Trainee(prepared(_captured(model), config), config, steps, first.normalised(first.x))
    trained = fit(Model(trainee, model.spec), train_set, val_set, config.fit, checkpoint=checkpoint, progress=progress)
    with quiet():
        module = convert_trainee(trained.model.module)  # type: ignore[arg-type]
    return QATResult(_named(trained.model.spec.name, module, trained.model, config, "qat"), trained.history)


def post_training(model: Model, calibration: ImageSet, config: QAT | None = None) -> Model:
    """The same integers without training: what `qat` has to beat.

    Min/max ranges over the calibration images, rounding to nearest; same quantizer, same weight range.

    Args:
        model: a trained float32 classifier with a preprocessing; it is not changed.
        calibration: real images; 64 are plenty.
        config: `fit` and the freezing shares are not used.

    Raises:
        InputError: the model is quantized already, holds NaN, or is no classifier.
        ExportError: the model can't be captured with a free batch size, or holds nothing to quantize.
    """
    import torch

    from edge_lab.compress.qat.graph import calibrated

    config = config or QAT()
    _check(model)
    pixels = load_pixels(calibration, model.spec)
    with quiet():
        graph = _captured(model)
        module = calibrated(graph, config, (pixels.normalised(x) for x in torch.split(pixels.x, 64)))  # type: ignore[no-untyped-call]
    return _named(model.spec.name, module, model, config, "ptq")


def _check(model: Model) -> None:
    refuse_quantized(model.module, model.spec.name, "trained for integers")
    check_weights(model.module)


def _captured(model: Model) -> torch.fx.GraphModule:
    """The model as an ATen graph with a free batch size."""
    import torch

    from edge_lab.core.raised import last_line

    module = copy.deepcopy(model.module).eval()  # a captured graph shares its parameters
    example = torch.zeros((2, *model.spec.input.shape[1:]))
    try:
        program = torch.export.export(
            module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
        )
    except Exception as error:  # torch.export raises whatever the forward method does
        raise ExportError(
            f"{model.spec.name} can't be captured for batches of any size.",
            last_line(error),
            "write the forward method without a fixed batch size or a choice that depends on values.",
        ) from error
    captured: torch.fx.GraphModule = program.module(check_guards=False)  # type: ignore[assignment]
    return captured


def _named(name: str, module: torch.nn.Module, model: Model, config: QAT, how: str) -> Model:
    """The quantized module as a Model of its own name, so that its bundles don't replace those of another recipe."""
    suffix = f"{how}{config.weight_bits}" + ("" if config.per_channel else "-per-tensor")
    return replace(model, module=module, spec=model.spec.with_(name=f"{name}-{suffix}"), origin=None)
