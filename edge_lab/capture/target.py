"""Targets: where a program is going, named like hardware. One exporter function serves a family of targets."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edge_lab.bundle.folder import Format, Quantization, Runtime, Scheme
from edge_lab.bundle.spec import ModelSpec, TensorSpec
from edge_lab.compress.graphs.layers import LayerReport
from edge_lab.compress.graphs.quantized import Form, has_quantized_graph, method_of
from edge_lab.compress.static.quantize import StaticInt8
from edge_lab.core.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal[
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "int8-dynamic",
    "int4-dynamic",
    "int8-weights",
    "int4-weights",
    "palette6",
    "palette4",
]


@dataclass(frozen=True)
class Lite:
    """Options of the lite export.

    Attributes:
        passes: mobile passes beyond freezing, of `edge_lab.formats.torchscript.lite.OFFERED`.
        bytecode: its version, 4 or more; None: the current one. Old apps refuse a newer one than they know.
        slim: leave out what only `torch.jit.load` reads: the model's source code, and a second copy of int8 weights.
    """

    passes: tuple[str, ...] = ()
    bytecode: int | None = None
    slim: bool = False


@dataclass(frozen=True)
class Target:
    """What to build.

    Attributes:
        name: platform-backend-precision, such as "android-xnnpack-int8".
        format: file format of the program.
        backend: what executes it.
        precision: of weights and activations; inputs and outputs stay float32. "int8" alone is static int8.
        quantize: recipe for int8.
        lite: options of the lite export; other backends ignore it.
    """

    name: str
    format: Format
    backend: str
    precision: Precision
    quantize: StaticInt8 = field(default_factory=StaticInt8)
    lite: Lite = Lite()

    @property
    def kind(self) -> str:
        """Folder name: platforms that share a program share it ("xnnpack-int8")."""
        return f"{self.backend}-{self.precision}"

    @property
    def scheme(self) -> Scheme:
        """The precision as bundles state it."""
        return "int8-static" if self.precision == "int8" else self.precision


@dataclass(frozen=True)
class Job:
    """All that an exporter needs: a module that returns a tuple of tensors, its spec, inputs, and a folder."""

    module: torch.nn.Module
    spec: ModelSpec
    outputs: tuple[TensorSpec, ...]
    target: Target
    example: np.ndarray
    calibration: Sequence[np.ndarray]
    calibration_name: str | None
    folder: Path

    def quantization(self, report: LayerReport | None = None) -> Quantization:
        """The record for bundle.json. `build` made sure that the module can become what the target is called."""
        scheme = self.target.scheme
        if scheme in ("fp32", "fp16", "bf16"):
            return Quantization(scheme)
        counted = report is not None and report.quantized
        counts = (len(report.quantized), len(report.layers)) if report is not None and counted else (None, None)
        if has_quantized_graph(self.module):  # it came quantized; who calibrated it with what, only its maker knows
            return Quantization(scheme, None, 0, method_of(self.module), *counts)
        calibrated = (self.calibration_name, len(self.calibration)) if scheme == "int8-static" else (None, 0)
        return Quantization(scheme, *calibrated, "ptq", *counts)


@dataclass(frozen=True)
class Program:
    """What an exporter wrote: a file or folder in `Job.folder`, the engine it needs, which layers were quantized.

    `graph` is the captured program (a torch.export.ExportedProgram) of a format that hides its inside, such as a
    delegate's: with it, one can say at which layer a program that answers differently begins to.
    """

    file: str
    runtime: Runtime
    report: LayerReport | None = None
    graph: Any = None


Exporter = Callable[[Job], Program]
_EXPORTERS: dict[str, Exporter] = {}
_TAKES: dict[str, tuple[Form, ...]] = {}
_TARGETS: dict[str, Target] = {}


def exporter(
    backend: str,
    format: Format,
    platforms: Sequence[str],
    precisions: Sequence[Precision],
    takes: Sequence[Form] = (),
) -> Callable[[Exporter], Exporter]:
    """Register an exporter and one target for every platform and precision it serves.

    Every exporter takes float32 modules and makes of them what the target says. `takes` adds what it can translate
    as it is (`compress.graphs.quantized.form_of`): "plain" modules in 16-bit floats, and already quantized ones.
    """

    def register(function: Exporter) -> Exporter:
        _EXPORTERS[backend] = function
        _TAKES[backend] = tuple(takes)
        for platform in platforms:
            for precision in precisions:
                name = f"{platform}-{backend}-{precision}"
                _TARGETS[name] = Target(name, format, backend, precision)
        return function

    return register


def exporter_of(target: Target) -> Exporter:
    """The function that builds this target."""
    return _EXPORTERS[target.backend]


def takers(scheme: Scheme, form: Form) -> list[str]:
    """Names of the targets that a module of this precision and form can go to as it is."""
    return [name for name, t in sorted(_TARGETS.items()) if t.scheme == scheme and form in _TAKES[t.backend]]


def targets(pattern: str = "*") -> list[str]:
    """Names of all targets that match a shell pattern, sorted: `targets("ios-*")`."""
    return sorted(fnmatch.filter(_TARGETS, pattern))


def target(name: str | Target) -> Target:
    """A target by name; a Target passes through.

    Raises:
        InputError: no such target; the message offers the nearest names.
    """
    if isinstance(name, Target):
        return name
    if name not in _TARGETS:
        near = difflib.get_close_matches(name, _TARGETS, n=3, cutoff=0.4)
        raise InputError(
            f"there is no target {name!r}.",
            f"{len(_TARGETS)} targets are known" + (f"; the nearest are {', '.join(near)}." if near else "."),
            "list them with `edge-lab targets` or edge_lab.targets().",
        )
    return _TARGETS[name]
