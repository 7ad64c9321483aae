"""From a model to a bundle: `to(model, "android-xnnpack-int8")`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_lab.bundle.folder import Bundle, ProgramParity
from edge_lab.capture import exported  # noqa: F401
from edge_lab.capture.diagnose import diagnose
from edge_lab.capture.inputs import Calibration, GoldenInputs, Inputs, inputs_of
from edge_lab.capture.target import Job, Target, exporter_of, takers, target, targets
from edge_lab.compress.graphs.quantized import Form, form_of, has_quantized_graph, scheme_of
from edge_lab.core.errors import BundleError, EdgeLabError, ExportError, InputError
from edge_lab.core.files import locked, writing_folder
from edge_lab.export.fingerprint import fingerprint, made_by
from edge_lab.export.gate import judge
from edge_lab.formats.c import mcu  # noqa: F401

# Importing an exporter registers its targets; none of them imports its converter before it is used.
from edge_lab.formats.coreml import coreml  # noqa: F401
from edge_lab.formats.coreml.app import AppInterface, app_package
from edge_lab.formats.onnx import mobile as onnx_mobile  # noqa: F401
from edge_lab.formats.onnx import onnx  # noqa: F401
from edge_lab.formats.pt2 import inductor  # noqa: F401
from edge_lab.formats.pt2.native import refuse_foreign
from edge_lab.formats.pte import (
    coreml_delegate,  # noqa: F401
    executorch,  # noqa: F401
    vulkan,  # noqa: F401
)
from edge_lab.formats.torchscript import (
    lite,  # noqa: F401
    torchscript,  # noqa: F401
)

if TYPE_CHECKING:
    from edge_lab.zoo import Model

__all__ = ["AppInterface", "Target", "app_package", "target", "targets", "to"]


def to(
    model: Model,
    target_name: str | Target,
    *,
    calibration: Calibration | None = None,
    golden: GoldenInputs | None = None,
    out: Path | str = "artifacts",
    force: bool = False,
    allow_divergence: bool = False,
) -> Bundle:
    """Export a model for a target and return the bundle.

    Before it is written, the program is run (Core ML away from a Mac: interpreted) and compared with PyTorch, output by
    output: see docs/promise.md. What was compared stands in `bundle.parity`.

    A bundle whose inputs have not changed (weights, code, spec, target, calibration, versions) is reused. A run
    that is killed leaves the previous bundle or none, never half of one.

    Args:
        model: from `create` or `from_module`; its spec goes into the bundle.
        target_name: see `targets()`.
        calibration: real inputs for int8, as images, recordings or preprocessed arrays. Default: 32 crops of shipped
            photos for models that take images, 40 shipped recordings for models that hear.
        golden: five or more inputs to record and to compare on. Default: shipped photos or recordings; for models that
            take ready tensors, every other one of the calibration arrays, which then calibrates nothing, or without
            those seeded noise.
        out: the bundle is written to `out/<model name>/<backend>-<precision>`.
        force: export even if the bundle is up to date.
        allow_divergence: write the program even if it answers differently; the bundle says so for ever.

    Raises:
        InputError: unknown target, unusable calibration inputs.
        ExportError: the model can't go to this format; says why and what to change.
        DivergenceError: the program was made, and its answers are too far from the model's.
    """
    return build(
        model,
        target_name,
        calibration=calibration,
        golden=golden,
        out=out,
        force=force,
        allow_divergence=allow_divergence,
    ).bundle


@dataclass(frozen=True)
class Built:
    """A bundle, and whether it was there already."""

    bundle: Bundle
    reused: bool


def build(
    model: Model,
    target_name: str | Target,
    *,
    calibration: Calibration | None = None,
    golden: GoldenInputs | None = None,
    out: Path | str = "artifacts",
    force: bool = False,
    allow_divergence: bool = False,
) -> Built:
    """What `to` does, and whether the bundle was reused."""
    goal = _front_in_float(target(target_name), model)
    folder = Path(out) / model.spec.name.replace("/", "_").replace(":", "_") / goal.kind
    _check_precision(model, goal)
    inputs = inputs_of(
        model.spec,
        calibration,
        golden,
        calibrates=goal.precision == "int8" and not has_quantized_graph(model.module),
    )
    key = fingerprint(model.module, model.spec, goal, inputs.calibration, inputs.golden_bytes())
    with locked(folder):
        bundle = None if force else _reusable(folder, key, allow_divergence)
        if bundle is not None:
            return Built(bundle, True)
        with writing_folder(folder) as temporary:
            _write(model, goal, inputs, key, temporary, allow_divergence)
        return Built(Bundle.load(folder), False)


def _front_in_float(goal: Target, model: Model) -> Target:
    """Features of sound span nine decades before their logarithm: 256 steps would leave nothing of quiet speech."""
    takes_sound = model.spec.audio is not None and model.spec.audio.features is None
    if not takes_sound or not hasattr(model.module, "front") or "front" in goal.quantize.keep_float:
        return goal
    return replace(goal, quantize=replace(goal.quantize, keep_float=(*goal.quantize.keep_float, "front")))


def _check_precision(model: Model, goal: Target) -> None:
    """Only a float32 model can become anything; others go, under their true name, where they can be translated."""
    own, form = scheme_of(model.module), form_of(model.module)
    fitting = takers(own, form)
    if own == "fp32" or goal.name in fitting:
        return
    raise InputError(
        f"{model.spec.name} is already {own}; it can't become {goal.name}.",
        f"rounding it again adds error, and {goal.scheme} would be a wrong label."
        if own != goal.scheme
        else f"this exporter can't translate what {_MAKERS[form]} wrote.",
        f"use {', '.join(fitting)}, or start from the float32 model it was made from."
        if fitting
        else "no target takes it as it is: start from the float32 model it was made from.",
    )


_MAKERS: dict[Form, str] = {
    "plain": "to_half",
    "packed": "quantize_weights",
    "torchao": 'DynamicInt8("inductor")',
    "torchao-intx": 'DynamicInt8("executorch")',
    "torch.ao": "the legacy torch.ao",
    "graph": "PT2E",
}


def _reusable(folder: Path, key: str, allow_divergence: bool = False) -> Bundle | None:
    try:
        bundle = Bundle.load(folder)
        if bundle.runtime.format == "aoti":
            refuse_foreign(bundle)  # compiled elsewhere: it has to be compiled again
    except BundleError:
        return None
    parity = bundle.parity
    agrees = parity is None or parity.ok or (parity.allowed and allow_divergence)
    return bundle if agrees and bundle.made_by.get("fingerprint") == key else None


def _write(model: Model, goal: Target, inputs: Inputs, key: str, folder: Path, allow_divergence: bool) -> None:
    import torch

    from edge_lab.capture.wrap import flatten
    from edge_lab.export.golden import answers, write_expected, write_inputs
    from edge_lab.formats.runtime import eager
    from edge_lab.zoo.steady import explained, settle

    cases = write_inputs(inputs.golden, model.spec, folder)
    arrays = [x for _, _, x in cases]
    session = eager(model)
    with explained(model.spec.name):
        settle(model.module, torch.from_numpy(model.spec.input.check(arrays[0])))
    reference = [session.run(x) for x in arrays]
    if not all(np.isfinite(out).all() for outs in reference for out in outs):
        raise ExportError(
            f"{model.spec.name} gives NaN or infinity on real inputs, before any export.",
            "its weights or its preprocessing are broken.",
            "check the checkpoint, and that preprocess matches the one used in training.",
        )
    module, outputs = flatten(model.module, arrays[0], (model.spec.input.name,))
    try:
        job = Job(module, model.spec, outputs, goal, arrays[0], inputs.calibration, inputs.source, folder)
        program = exporter_of(goal)(job)
    except EdgeLabError:
        raise
    except Exception as error:  # converters raise whatever they like
        raise diagnose(error, model.spec.name, goal.name) from error
    draft = Bundle(
        folder,
        goal.name,
        model.spec,
        program.runtime,
        job.quantization(program.report),
        program.file,
        outputs,
        (),
        made_by=made_by(key),
    )
    draft.save()  # so that the runtime can load it
    written = Bundle.load(folder, verify=False)
    how, found = answers(written, arrays)
    golden = write_expected(written, cases, reference, how, found)
    parity = judge(
        model, written, program.graph, arrays, reference, ProgramParity(how, inputs.about), found, allow_divergence
    )
    worst = min((output.sqnr_db for output in parity.outputs), default=None)
    replace(draft, golden=golden, parity=parity, metrics={"sqnr_db": worst}).save()
