"""Microcontrollers: a folder of C11 sources, int8 throughout, without heap, by bakenn (with CMSIS-NN or ESP-NN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.target import Exporter, Job, Program, exporter
from edge_lab.compress.static.quantize import check_calibration
from edge_lab.core.errors import ExportError
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet
from edge_lab.formats.c.calibrate import fast_calibration
from edge_lab.formats.c.files import Sources, write_sources

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Core:
    """A processor as bakenn knows it, and as a compiler does."""

    bakenn: str
    cpu: str
    cmsis_nn: bool = False
    esp_nn: bool = False


_CORES = {
    "cortex-m4": _Core("cortex-m4", "cortex-m4", cmsis_nn=True),
    "cortex-m3": _Core("portable32", "cortex-m3"),  # no DSP instructions: bakenn's M4 kernels would not assemble
    "cortex-m0": _Core("cortex-m0plus", "cortex-m0plus"),
    "esp32s3": _Core("esp32s3", "esp32s3", esp_nn=True),
}


def _register(backend: str) -> Exporter:
    @exporter(backend, "c", ("mcu",), ("int8",))
    def export_mcu(job: Job) -> Program:
        return _export(job, _CORES[backend])

    return export_mcu


for _name in _CORES:
    _register(_name)


def _export(job: Job, core: _Core) -> Program:
    """Write c/: the model for this core, the same model in portable C, and what a firmware needs to know of it."""
    import bakenn

    _check(job)
    folder = job.folder / "c"
    name = "".join(ch if ch.isalnum() else "_" for ch in job.spec.name.lower())
    with quiet(), fast_calibration():
        graph = _quantized(job, name)
        options = bakenn.CBackendOptions(
            kernel_policy=bakenn.KernelPolicy.STATIC_PRIORITY,
            enable_cmsis_nn=core.cmsis_nn,
            enable_esp_nn=core.esp_nn,
            target=bakenn.resolve_target(core.bakenn),
        )
        bakenn.compile(graph, folder / "net", model_name=name, backend_options=options)
        bakenn.compile(graph, folder / "host", model_name=name)
    write_sources(folder, Sources(job.target.backend, core.cpu, macs(job.module, job.example), tuple(job.spec.labels)))
    version = version_of("bakenn")
    return Program("c", Runtime("c", job.target.backend, "bakenn", version, version))


def _check(job: Job) -> None:
    check_calibration(job.calibration, job.example)
    if len(job.outputs) != 1 or job.example.ndim != 4:
        raise ExportError(
            f"{job.spec.name} can't become C for a microcontroller.",
            f"it takes {job.example.shape} and returns {len(job.outputs)} tensors; the generated code takes one map "
            "(1, C, H, W) and returns one tensor.",
            "export the part of the network that does; a model that hears has a version that takes features "
            "(speechnet_features).",
        )


def _quantized(job: Job, name: str) -> Any:
    """bakenn's quantized graph; its complaints become an ExportError."""
    import torch
    from bakenn import BakeNNError, quantize_float_graph_with_report
    from bakenn.frontends.torch_export import capture_torch_export

    try:
        graph = capture_torch_export(_one_output(job.module), torch.from_numpy(job.example), name=name)
        inputs = [torch.from_numpy(x.copy()) for x in job.calibration]
        return quantize_float_graph_with_report(graph, inputs, name=name).graph
    except BakeNNError as error:
        raise ExportError(
            f"{job.spec.name} can't become C for a microcontroller.",
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            "use convolutions, linear layers, ReLU, pooling, add and mul with fixed shapes (docs/microcontroller.md).",
        ) from error


def _one_output(module: torch.nn.Module) -> torch.nn.Module:
    from torch import nn

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> Any:
            out = self.inner(x)
            return out[0] if isinstance(out, tuple) else out

    return First().eval()


def macs(module: torch.nn.Module, example: np.ndarray) -> int:
    """Multiply-adds of one forward call: those of convolutions and matrix products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.from_numpy(example.copy()))
    return int(counter.get_total_flops()) // 2
