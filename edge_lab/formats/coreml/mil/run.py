"""Reference interpretation of a saved Core ML program, on any machine.

Core ML itself runs on Apple's systems only. What an app ships, though, is a file: an ML program in Apple's MIL language
and its weights. This module reads that file back, runs it operator by operator in PyTorch, and so shows whether the
conversion, the rounding of weights, the preprocessing and the labels are right. float16 values are stored as float16
and computed with in float32. It is a check of the artifact and never a result of a device: how the Neural Engine rounds
and what Core ML's compiler makes of the program is not seen here.

An operator that is not known here is an error, never skipped.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, MissingTool
from edge_lab.core.quiet import quiet
from edge_lab.formats.coreml.mil.pte import unreadable
from edge_lab.formats.runtime import Session, load

ENGINE = "reference interpretation"
BACKENDS = ("coreml", "coreml-pte")  # whose programs can be interpreted


@dataclass(frozen=True)
class MilProgram:
    """A Core ML program that was read from its file.

    Attributes:
        path: the .mlpackage (or the .pte) that it came from.
        inputs: names, in order.
        outputs: names, in order.
        operators: how often each operator occurs; constants are not counted.
        weights: each stored constant with at least 32 values, as it will be used (4- and 8-bit weights widened).
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    weights: dict[str, np.ndarray] = field(repr=False)
    _steps: list[Any] = field(repr=False)
    _constants: dict[str, Any] = field(repr=False)

    def run(self, **inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run the program once.

        Args:
            inputs: one array for each name in `inputs`, of the shape that the program declares. For an image input:
                float32 (1, 3, H, W), values 0 to 255, which is what Core ML makes of the picture.

        Returns:
            The outputs in order, float16 ones widened to float32. Of a classifier: the label as an array of one string,
            and the scores.

        Raises:
            BundleError: a value does not have the shape that the program declares for it, or an operator is used in a
                way that is not known here.
        """
        values = dict(self._values(inputs))
        return tuple(_array(values[name]) for name in self.outputs)

    def trace(self, **inputs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Run the program once and yield each value that is computed, by its name, in order."""
        for name, value in self._values(inputs):
            if name not in self.inputs and name not in self._constants:
                yield name, _array(value)

    def layers(self) -> Iterator[tuple[str, str, str]]:
        """(operator, name of its weight, name of its output) of each layer with a stored weight, in order."""
        for op in self._steps:
            weight = op.inputs.get("weight")
            if weight is not None and weight.name in self._constants:
                yield op.op_type, weight.name, op.outputs[0].name

    def _values(self, inputs: dict[str, np.ndarray]) -> Iterator[tuple[str, Any]]:
        import torch

        if set(inputs) != set(self.inputs):
            raise BundleError(
                f"the program takes {', '.join(self.inputs)}, not {', '.join(inputs) or 'nothing'}.",
                "names are part of a Core ML program's interface.",
                "pass one array for each input, by its name.",
            )
        values = dict(self._constants)
        values.update({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()})
        yield from values.items()
        for step in self._steps:
            with torch.inference_mode():
                computed = _step(step, values)
            values.update(computed)
            yield from computed.items()


def load_mil(package: Path | str) -> MilProgram:
    """Read an .mlpackage, or the one inside a .pte that was made for ExecuTorch's Core ML delegate.

    Raises:
        BundleError: not such a file, damaged, not an ML program, or with an operator that is not known here.
    """
    package = Path(package)
    if package.suffix == ".pte":
        from edge_lab.formats.coreml.mil.pte import unpack_coreml

        with tempfile.TemporaryDirectory() as folder:
            return _read(unpack_coreml(package, Path(folder)), package)
    return _read(package, package)


def interpret(bundle: Bundle | Path | str) -> Session:
    """A Session that computes what a Core ML bundle says, by interpretation: for parity, never for timing.

    Raises:
        BundleError: the bundle is damaged or holds no Core ML program.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    if bundle.runtime.backend not in BACKENDS:
        raise BundleError(
            f"{bundle.name} is a program for {bundle.runtime.backend}, not for Core ML.",
            "only Core ML programs are interpreted; the others run in their own engine.",
            "use edge_lab.load(bundle).",
        )
    program = load_mil(bundle.program_path)
    name = program.inputs[0]
    return Session(f"{bundle.name}, interpreted", bundle.spec, ENGINE, 1, lambda x: program.run(**{name: x}))


def run_or_interpret(bundle: Bundle | Path | str) -> Session:
    """A Session that runs the program; where Core ML does not exist, one that interprets it (its `engine` says which).

    Raises:
        BundleError, MissingTool: it can neither be run nor interpreted.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    try:
        return load(bundle)
    except MissingTool:
        if bundle.runtime.backend not in BACKENDS:
            raise
        return interpret(bundle)


def _read(package: Path, origin: Path) -> MilProgram:
    from edge_lab.formats.coreml.mil.operators import known_operators

    try:
        with quiet():
            import coremltools
            from coremltools.converters.mil.frontend.milproto.load import load

            model = coremltools.models.MLModel(str(package), skip_model_load=True)
            spec = model.get_spec()
            _refuse_other_kinds(spec, origin)
            program = load(spec, spec.specificationVersion, file_weights_dir=model.weights_dir)
            (function,) = program.functions.values()
            steps, constants = _split(function)
    except BundleError:
        raise
    except Exception as error:  # protobuf, file system, coremltools' own
        raise unreadable(origin, error) from error
    _refuse_unknown({op.op_type for op in steps} - set(known_operators()), origin)
    return MilProgram(
        origin,
        tuple(function.inputs),
        tuple(out.name for out in function.outputs),
        dict(Counter(op.op_type for op in steps)),
        {k: v.numpy() for k, v in constants.items() if _is_weight(v)},
        steps,
        constants,
    )


def _refuse_other_kinds(spec: Any, origin: Path) -> None:
    kind, functions = spec.WhichOneof("Type"), len(spec.mlProgram.functions)
    if kind != "mlProgram" or functions != 1:
        what = f"a program of {functions} functions" if kind == "mlProgram" else f"a model of the kind {kind}"
        raise BundleError(
            f"{origin} holds {what}.",
            "one ML program with one function can be interpreted.",
            'convert with convert_to="mlprogram", one function to a package.',
        )


def _refuse_unknown(unknown: set[str], origin: Path) -> None:
    if unknown:
        raise BundleError(
            f"{origin} uses {', '.join(sorted(unknown))}: not known to the {ENGINE}.",
            "what it computes can't be checked here, and a guess would be worth nothing.",
            "run it on a Mac, or add the operator to edge_lab/formats/coreml/mil/layers.py.",
        )


def _split(function: Any) -> tuple[list[Any], dict[str, Any]]:
    """Operators to run, and the values of constants, those included that are stored in fewer bits."""
    steps, constants = [], {}
    for op in function.operations:
        name = op.outputs[0].name
        if op.op_type == "const":
            constants[name] = _value(op.outputs[0].val)
        elif op.op_type.startswith("constexpr_"):
            constants[name] = _value(op.materialized_val_inference())
        else:
            steps.append(op)
    return steps, constants


def _step(op: Any, values: dict[str, Any]) -> dict[str, Any]:
    from edge_lab.formats.coreml.mil.table import OPERATORS

    try:
        operands = {name: _operand(var, values) for name, var in op.inputs.items() if var is not None}
        results = OPERATORS[op.op_type](operands)
    except Exception as error:  # PyTorch's own, and NotImplementedError for a rare setting
        reason = (str(error) or repr(error)).splitlines()[0]
        raise BundleError(
            f"{op.op_type} {op.outputs[0].name} can't be computed: {reason}.",
            "the input does not fit the program, or it uses a setting that is not known to the interpreter.",
            "check the input's shape; if it fits, report it with the bundle.",
        ) from error
    results = results if isinstance(results, tuple) else (results,)
    return {var.name: _stored(op, var, x) for var, x in zip(op.outputs, results, strict=True)}


def _stored(op: Any, var: Any, result: Any) -> Any:
    """A result as the program stores it, its shape checked."""
    import torch
    from coremltools.converters.mil.mil import types

    if not isinstance(result, torch.Tensor):
        return result
    if types.builtin_to_string(var.dtype) == "fp16":
        result = result.half().float()
    declared = tuple(getattr(var, "shape", ()) or ())
    fixed = [(int(n), m) for n, m in zip(declared, result.shape, strict=False) if isinstance(n, (int, np.integer))]
    if len(declared) not in (result.ndim, 0) or any(n != m for n, m in fixed):
        raise BundleError(
            f"{op.op_type} {var.name} gives {tuple(result.shape)} where the program declares {declared}.",
            "the input does not fit, the file is inconsistent, or the interpreter is wrong.",
            "check the input's shape, then export the bundle again; if that doesn't help, report it with the bundle.",
        )
    return result


def _operand(var: Any, values: dict[str, Any]) -> Any:
    if isinstance(var, (list, tuple)):
        return [_operand(part, values) for part in var]
    return values[var.name]


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def _value(value: Any) -> Any:
    """A constant as a float32 or integer tensor; scalars, strings and flags as plain Python values."""
    import torch

    if isinstance(value, np.ndarray) and value.ndim > 0:
        tensor = torch.from_numpy(np.array(value))
        return tensor.float() if tensor.is_floating_point() else tensor
    return value.item() if isinstance(value, (np.ndarray, np.generic)) else value


def _is_weight(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0 and value.numel() >= 32 and value.is_floating_point()
