"""Targets: where a program is going, named like hardware. One exporter function serves a family of targets."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_lab.bundle import Format, Quantization, Runtime
from edge_lab.compress.quantize import StaticInt8
from edge_lab.errors import InputError
from edge_lab.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Target:
    """What to build.

    Attributes:
        name: platform-backend-precision, such as "android-xnnpack-int8".
        format: file format of the program.
        backend: what executes it.
        precision: of weights and activations; inputs and outputs stay float32.
        quantize: recipe for int8.
    """

    name: str
    format: Format
    backend: str
    precision: Precision
    quantize: StaticInt8 = field(default_factory=StaticInt8)

    @property
    def kind(self) -> str:
        """Folder name: platforms that share a program share it ("xnnpack-int8")."""
        return f"{self.backend}-{self.precision}"


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

    def quantization(self) -> Quantization:
        """The record for bundle.json."""
        if self.target.precision != "int8":
            return Quantization("fp16" if self.target.precision == "fp16" else "fp32")
        return Quantization("int8-static", self.calibration_name, len(self.calibration))


@dataclass(frozen=True)
class Program:
    """What an exporter wrote: the file (or folder) name inside `Job.folder`, and the engine it needs."""

    file: str
    runtime: Runtime


Exporter = Callable[[Job], Program]
_EXPORTERS: dict[str, Exporter] = {}
_TARGETS: dict[str, Target] = {}


def exporter(
    backend: str, format: Format, platforms: Sequence[str], precisions: Sequence[Precision]
) -> Callable[[Exporter], Exporter]:
    """Register an exporter and one target for every platform and precision it serves."""

    def register(function: Exporter) -> Exporter:
        _EXPORTERS[backend] = function
        for platform in platforms:
            for precision in precisions:
                name = f"{platform}-{backend}-{precision}"
                _TARGETS[name] = Target(name, format, backend, precision)
        return function

    return register


def exporter_of(target: Target) -> Exporter:
    """The function that builds this target."""
    return _EXPORTERS[target.backend]


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
