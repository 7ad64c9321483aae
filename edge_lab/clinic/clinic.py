"""The export clinic: small broken modules, what refuses them and why, and the version that is taken.

`cases()` lists them, `examine(case)` runs the converter for real, and `checkup(module, x)` does the same with a module
of yours: which converters take it, and whether the program computes the same on other inputs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.capture.diagnose import diagnose
from edge_lab.clinic.case import CONVERTERS, Case, Converter, Tensors, call_each
from edge_lab.core.errors import ExportError, InputError
from edge_lab.core.quiet import quiet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Examination:
    """What really happened when a case was exported.

    Attributes:
        case: which one.
        error: type of the converter's exception; None: it raised none.
        line: first line of its message.
        diagnosis: what `edge_lab.to` says instead, in three lines.
        wrong: for a program that was written without complaint: the largest difference from the module; else None.
        fixed_error: largest difference between the program of the fixed version, run by `engine`, and the broken module
            in eager mode, over all inputs.
        engine: what ran it.
    """

    case: Case
    error: str | None
    line: str | None
    diagnosis: ExportError | None
    wrong: float | None
    fixed_error: float
    engine: str


@dataclass(frozen=True)
class Finding:
    """What one converter makes of a module: a refusal, or the largest difference of its program from the module."""

    converter: Converter
    refusal: ExportError | None
    error: float | None
    engine: str

    @property
    def ok(self) -> bool:
        """Whether the converter took it and the program computes the same, to a thousandth of its largest value."""
        return self.error is not None and self.error < 1e-3

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{self.converter:13} refused\n  why: {self.refusal.why}\n  fix: {self.refusal.fix}"
        verdict = "taken" if self.ok else "taken, and WRONG"
        return f"{self.converter:13} {verdict}: largest difference {self.error:.1g} (run by {self.engine})"


def cases() -> tuple[Case, ...]:
    """Every case, in the order of the catalogue (docs/clinic.md)."""
    from edge_lab.clinic.cases import control_flow, leaving, operators, sizes, state

    return tuple(case for part in (control_flow, sizes, state, leaving, operators) for case in part.cases())


def case(name: str) -> Case:
    """One case by its name.

    Raises:
        InputError: there is none of this name.
    """
    every = {each.name: each for each in cases()}
    if name not in every:
        raise InputError(
            f"the clinic has no case {name!r}.", "its cases have fixed names.", f"use one of {', '.join(every)}."
        )
    return every[name]


def examine(case: Case) -> Examination:
    """Export the broken module and the fixed one with the real converter, and run the fixed one."""
    converter = case.refuses or "torch.export"
    expected = call_each(_eager(case.broken().eval()), case.inputs)
    error, wrong = None, None
    try:
        program, _ = convert(converter, case.broken(), case.inputs[:1], case.dims)
        wrong = difference(expected, call_each(program, case.inputs))
    except Exception as caught:  # converters raise whatever they like
        error = caught
    program, engine = convert(converter, case.fixed(), (case.inputs[0], *case.state), case.dims)
    return Examination(
        case,
        type(error).__name__ if error else None,
        first_line(error) if error else None,
        diagnose(error, case.name, converter) if error else None,
        wrong,
        difference(expected, case.app(program, case.inputs)),
        engine,
    )


def checkup(
    module: torch.nn.Module,
    *inputs: torch.Tensor,
    dims: dict[int, Any] | None = None,
    converters: Sequence[Converter] = CONVERTERS,
) -> tuple[Finding, ...]:
    """Ask every converter about a module of yours.

    Args:
        module: takes one tensor. It is copied, so that whatever it remembers stays as it is.
        inputs: one or more; the first is the example for export, and on all of them the program is compared with the
            module. Choose them so that they reach every branch.
        dims: dimensions of the input that are to be dynamic, such as {0: torch.export.Dim("batch", min=1, max=8)}.
        converters: which ones.

    Raises:
        InputError: no input, or the module itself fails on one.
    """
    name = type(module).__name__
    if not inputs:
        raise InputError(
            "a checkup needs an input.", "export runs the module on an example.", "pass one tensor or more."
        )
    try:
        expected = call_each(_eager(copy.deepcopy(module).eval()), inputs)
    except Exception as error:
        raise InputError(
            f"{name} fails before any export.",
            f"called with one of the inputs it raises {type(error).__name__}: {first_line(error)}",
            "repair the module, or pass inputs that it takes.",
        ) from error
    findings = []
    for converter in converters:
        try:
            program, engine = convert(converter, copy.deepcopy(module), inputs[:1], dims)
            findings.append(Finding(converter, None, difference(expected, call_each(program, inputs)), engine))
        except Exception as error:  # converters raise whatever they like
            findings.append(Finding(converter, diagnose(error, name, converter), None, ""))
    return tuple(findings)


def convert(
    converter: Converter, module: torch.nn.Module, args: Tensors, dims: dict[int, Any] | None = None
) -> tuple[Callable[..., Tensors], str]:
    """Capture a module (non-strict) and convert it; return the program as a function, and what runs it.

    Args:
        converter: which one. ExecuTorch without a delegate: its portable kernels.
        module: brought into eval mode.
        args: the example: the input, and the state if there is one.
        dims: dynamic dimensions of the first of them.

    Raises:
        Exception: whatever the converter raises.
    """
    import torch

    shapes = (dims, *[None] * (len(args) - 1)) if dims else None
    with quiet(), torch.no_grad():
        program = torch.export.export(
            module.eval(), tuple(x.clone() for x in args), dynamic_shapes=shapes, strict=False
        )
        return _CONVERT[converter](program)


def _captured(program: torch.export.ExportedProgram) -> tuple[Callable[..., Tensors], str]:
    return _eager(program.module()), "PyTorch"


def _executorch(program: torch.export.ExportedProgram) -> tuple[Callable[..., Tensors], str]:
    from executorch.exir import to_edge_transform_and_lower

    from edge_lab.formats.runtime import executorch_bindings

    buffer = to_edge_transform_and_lower(program).to_executorch().buffer
    bindings = executorch_bindings()
    bindings._unsafe_reset_threadpool(1)
    loaded = bindings._load_for_executorch_from_buffer(buffer)

    def run(*args: torch.Tensor, _keep: bytes = buffer) -> Tensors:
        return tuple(out.clone() for out in loaded.forward(tuple(x.clone() for x in args)))

    return run, "ExecuTorch"


def _onnx(program: torch.export.ExportedProgram) -> tuple[Callable[..., Tensors], str]:
    import onnxruntime
    import torch

    model = torch.onnx.export(program, (), None, dynamo=True, verbose=False)
    assert model is not None  # it is None only if a file was asked for
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]

    def run(*args: torch.Tensor) -> Tensors:
        feed = {name: x.numpy() for name, x in zip(names, args, strict=True)}
        return tuple(torch.from_numpy(np.asarray(out)) for out in session.run(None, feed))

    return run, "ONNX Runtime"


def _coreml(program: torch.export.ExportedProgram) -> tuple[Callable[..., Tensors], str]:
    import coremltools as ct

    captured = program.run_decompositions({})
    ct.convert(captured, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
    return _eager(captured.module()), "PyTorch: the graph that was converted; Core ML itself runs on Macs"


_CONVERT = {"torch.export": _captured, "executorch": _executorch, "onnx": _onnx, "coreml": _coreml}


def _eager(module: torch.nn.Module) -> Callable[..., Tensors]:
    """A module as a function of copies of its arguments, which returns tensors only and prints nothing."""

    def run(*args: torch.Tensor) -> Tensors:
        import torch

        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            return tuple(tensors(module(*[x.clone() for x in args])))

    return run


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a nested output, dataclasses included, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for each in fields(value):
            yield from tensors(getattr(value, each.name))
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def difference(expected: Sequence[Tensors], answers: Sequence[Tensors]) -> float:
    """Largest absolute difference, relative to the largest expected value if that is above 1; inf for other shapes."""
    worst = 0.0
    for wanted, got in zip(expected, answers, strict=True):
        if [w.shape for w in wanted] != [g.shape for g in got]:
            return math.inf
        for w, g in zip(wanted, got, strict=True):
            if w.numel():
                scale = max(1.0, float(w.double().abs().max()))
                worst = max(worst, float((w.double() - g.double()).abs().max()) / scale)
    return worst


def first_line(error: BaseException) -> str:
    """The first line of a message that says something, without the colours for a terminal."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")
