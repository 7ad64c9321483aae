"""ExecuTorch: a .pte program whose operators run in the XNNPACK delegate (ARM and x86 CPUs)."""

from __future__ import annotations

from typing import Any

from edge_lab.bundle import Runtime
from edge_lab.compress.dynamic import DynamicInt8
from edge_lab.compress.layers import quantized_layers
from edge_lab.compress.quantize import quantize
from edge_lab.compress.quantized import has_quantized_graph
from edge_lab.export.expand import expand_hardsigmoid, flatten_softmax
from edge_lab.export.made_with import version_of
from edge_lab.export.ready import ready
from edge_lab.export.target import Job, Program, exporter
from edge_lab.quiet import quiet

_DYNAMIC = {"int8-dynamic": DynamicInt8("executorch"), "int4-dynamic": DynamicInt8("executorch", weight_bits=4)}


@exporter(
    "xnnpack",
    "pte",
    ("android", "ios", "pi", "linux"),
    ("fp32", "fp16", "int8", "int8-dynamic", "int4-dynamic"),
    takes=("plain", "graph", "torchao-intx"),
)
def export_xnnpack(job: Job) -> Program:
    """Write model.pte: export, (quantize,) partition for XNNPACK, lower, serialize.

    Dynamic int8 takes Linear layers only: ExecuTorch 1.5 has no dynamic recurrent cell, and a mobile network with
    dynamic convolutions can be lowered but not run.
    """
    import torch

    module, report = ready(job, _DYNAMIC.get(job.target.precision))
    if job.target.precision == "int8" and not has_quantized_graph(module):
        module = quantize(module, job.example, job.calibration, job.target.quantize)
        report = quantized_layers(module)
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(module, (torch.from_numpy(job.example),), strict=False)
        program = flatten_softmax(expand_hardsigmoid(program))
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        share, left = delegated(edge.exported_program().graph_module)
        buffer = edge.to_executorch().buffer
    (job.folder / "model.pte").write_bytes(buffer)
    version = version_of("executorch")
    return Program("model.pte", Runtime("pte", "xnnpack", "executorch", version, version, share, left), report)


@exporter("portable", "pte", ("linux",), ("fp32",))
def export_portable(job: Job) -> Program:
    """Write model.pte without any delegate: ExecuTorch's portable kernels run everything.

    What a program falls back to, silently, where a delegate takes nothing: kernels written to be correct and small, not
    fast. Good for checking a delegate, and for a target that has none.
    """
    import torch

    module, _ = ready(job)
    with quiet():
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(module, (torch.from_numpy(job.example),), strict=False)
        edge = to_edge_transform_and_lower(program)
        share, left = delegated(edge.exported_program().graph_module)
        buffer = edge.to_executorch().buffer
    (job.folder / "model.pte").write_bytes(buffer)
    version = version_of("executorch")
    return Program("model.pte", Runtime("pte", "portable", "executorch", version, version, share, left))


def delegated(lowered: Any) -> tuple[float, tuple[str, ...]]:
    """Share of operators inside delegates, and the names of those left outside (sorted, each once)."""
    from executorch.devtools.backend_debug import get_delegation_info

    info = get_delegation_info(lowered)
    inside = sum(op.delegated for op in info.delegation_by_operator.values())
    outside = {name: op.non_delegated for name, op in info.delegation_by_operator.items() if op.non_delegated}
    left = {name: n for name, n in outside.items() if "getitem" not in name}
    total = inside + sum(left.values())
    return (inside / total if total else 0.0), tuple(sorted(left))
