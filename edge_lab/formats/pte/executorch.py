"""ExecuTorch: a .pte program whose operators run in the XNNPACK delegate (ARM and x86 CPUs)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_lab.bundle.folder import Runtime
from edge_lab.capture import expand
from edge_lab.capture.exported import settled_program
from edge_lab.capture.ready import ready
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.compress.graphs.graph import operator_of
from edge_lab.compress.graphs.layers import quantized_layers
from edge_lab.compress.graphs.quantized import has_quantized_graph
from edge_lab.compress.static.quantize import quantize
from edge_lab.compress.weights.dynamic import DynamicInt8
from edge_lab.core.errors import ExportError
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet

if TYPE_CHECKING:
    import torch

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
    module, report = ready(job, _DYNAMIC.get(job.target.precision))
    if job.target.precision == "int8" and not has_quantized_graph(module):
        module = quantize(module, job.example, job.calibration, job.target.quantize)
        report = quantized_layers(module)
    with quiet():
        from executorch.exir import to_edge_transform_and_lower

        program = _written_for_xnnpack(_program(job, module))
        edge = to_edge_transform_and_lower(program, partitioner=[_partitioner()])
        share, left = delegated(edge.exported_program().graph_module)
        buffer = edge.to_executorch().buffer
    (job.folder / "model.pte").write_bytes(buffer)
    version = version_of("executorch")
    runtime = Runtime("pte", "xnnpack", "executorch", version, version, share, left)
    return Program("model.pte", runtime, report, graph=program)


@exporter("portable", "pte", ("linux",), ("fp32",))
def export_portable(job: Job) -> Program:
    """Write model.pte without any delegate: ExecuTorch's portable kernels run everything.

    What a program falls back to, silently, where a delegate takes nothing: kernels written to be correct and small, not
    fast. Good for checking a delegate, and for a target that has none.
    """
    module, _ = ready(job)
    with quiet():
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(_program(job, module, delegate=False))
        share, left = delegated(edge.exported_program().graph_module)
        buffer = edge.to_executorch().buffer
    (job.folder / "model.pte").write_bytes(buffer)
    version = version_of("executorch")
    return Program("model.pte", Runtime("pte", "portable", "executorch", version, version, share, left))


def _program(job: Job, module: torch.nn.Module, *, delegate: bool = True) -> torch.export.ExportedProgram:
    program = settled_program(job, module, delegate=delegate)
    expand.refuse_wide_output(program, job.target.name)
    if any(operator_of(node) in ("conv3d", "conv_transpose3d") for node in program.graph.nodes):
        raise ExportError(
            f"{job.spec.name} can't be exported to {job.target.name}.",
            "it convolves volumes (Conv3d), and ExecuTorch 1.5 has kernels for lines and maps only.",
            "use an ONNX target, or take the volume apart into maps (Conv2d over slices).",
        )
    return program


def _written_for_xnnpack(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same function, without what ExecuTorch 1.5 hands to XNNPACK wrongly."""
    for rewrite in (
        expand.dequantize_per_user,
        expand.part_float_lines,
        expand.expand_viewed_attention,
        expand.expand_addmm,
        expand.expand_gelu,
        expand.expand_hardsigmoid,
        expand.flatten_softmax,
    ):
        program = rewrite(program)
    return program


def _partitioner() -> Any:
    """XNNPACK's partitioner, less what ExecuTorch 1.5 takes in and computes wrongly or stumbles over."""
    from executorch.backends.xnnpack.partition import config
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class Upsample(config.UpsampleBilinear2dConfig):  # type: ignore[misc]
        def check_constraints(self, node: Any, ep: Any) -> bool:
            """XNNPACK samples at size / new size. PyTorch does at 1 / factor, if a factor was given and no corners."""
            factors = node.args[3] if len(node.args) > 3 and not node.args[2] else None
            sizes = zip(node.args[0].meta["val"].shape[2:], node.meta["val"].shape[2:], factors or (), strict=False)
            same = all(abs(new - old * factor) < 1e-6 * new for old, new, factor in sizes)
            return same and super().check_constraints(node, ep)  # type: ignore[no-any-return]

    class PReLU(config.PreluConfig):  # type: ignore[misc]
        def check_constraints(self, node: Any, ep: Any) -> bool:
            """XNNPACK's has one slope per channel of a map."""
            return node.args[0].meta["val"].ndim == 4 and super().check_constraints(node, ep)  # type: ignore[no-any-return]

    class Largest(config.MaxDimConfig):  # type: ignore[misc]
        def check_constraints(self, node: Any, ep: Any) -> bool:
            """XNNPACK's is a pool over the rows or the columns of a map."""
            dim, keep = node.args[1], len(node.args) > 2 and node.args[2]
            fits = node.args[0].meta["val"].ndim == 4 and dim in (2, 3) and keep
            return fits and super().check_constraints(node, ep)  # type: ignore[no-any-return]

    own = {config.UpsampleBilinear2dConfig: Upsample, config.PreluConfig: PReLU, config.MaxDimConfig: Largest}
    return XnnpackPartitioner(configs=[own.get(each, each) for each in config.ALL_PARTITIONER_CONFIGS])


def delegated(lowered: Any) -> tuple[float, tuple[str, ...]]:
    """Share of operators inside delegates, and the names of those left outside (sorted, each once)."""
    from executorch.devtools.backend_debug import get_delegation_info

    info = get_delegation_info(lowered)
    inside = sum(op.delegated for op in info.delegation_by_operator.values())
    outside = {name: op.non_delegated for name, op in info.delegation_by_operator.items() if op.non_delegated}
    left = {name: n for name, n in outside.items() if "getitem" not in name}
    total = inside + sum(left.values())
    return (inside / total if total else 0.0), tuple(sorted(left))
