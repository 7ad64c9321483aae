"""A captured graph as coremltools 9 reads it right: what it translates wrongly or not at all, written otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_lab.capture.expand import drop_aliases, narrow_squeezes
from edge_lab.core.errors import ExportError

if TYPE_CHECKING:
    import torch


def core_ml_graph(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same function without in-place operators, in operators that have one meaning in PyTorch and in Core ML.

    Operators that coremltools does not know are taken apart by PyTorch's own rules, as far as there are any.
    """
    from edge_lab.formats.coreml.edges import edge_rules
    from edge_lab.formats.coreml.math import math_rules
    from edge_lab.formats.coreml.options import option_rules
    from edge_lab.formats.coreml.rules import rules

    _refuse_antialias(program)
    own = rules() | math_rules() | edge_rules() | option_rules()
    program = program.run_decompositions(own)
    for _ in range(_ROUNDS):
        table = _rules_for_unknown(program, own)
        if not table:
            break
        program = program.run_decompositions(own | table)
    return _with_own_tensors(keep_inputs_apart(drop_aliases(narrow_squeezes(program))))


def _refuse_antialias(program: torch.export.ExportedProgram) -> None:
    """coremltools 9 overlooks `antialias` where it matters: a bilinear one that enlarges is the usual one."""
    for node in program.graph.nodes:
        kind = str(node.target)
        if node.op != "call_function" or "_aa." not in kind or "upsample" not in kind:
            continue
        old, new = node.args[0].meta["val"].shape[2:], node.meta["val"].shape[2:]
        if "bicubic" in kind or any(after < before for before, after in zip(old, new, strict=True)):
            raise ExportError(
                "the model can't become a Core ML program.",
                f"it resizes {tuple(old)} to {tuple(new)} with antialias=True; Core ML has no such filter.",
                "resize with antialias=False, average first (F.avg_pool2d), or resize before the model.",
            )


_ROUNDS = 4  # what an operator is made of may need taking apart, too


def _rules_for_unknown(program: torch.export.ExportedProgram, own: dict[Any, Any]) -> dict[Any, Any]:
    import torch
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY as KNOWN

    usual: Any = torch.export.default_decompositions()
    used = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    unknown = [operator for operator in used if KNOWN.get_func(operator.__name__) is None]
    return {operator: usual[operator] for operator in unknown if operator in usual and operator not in own}


def pipeline(program: torch.export.ExportedProgram) -> Any:
    """coremltools' steps for a program that `core_ml_graph` made.

    What scales or shifts the channels of a transposed convolution stays an operator if that has groups (coremltools 9
    puts it into the wrong weights: 28 dB) or takes volumes (it fails).
    """
    import coremltools as ct

    steps = ct.PassPipeline.DEFAULT
    for node in program.graph.nodes:
        if node.op == "call_function" and "conv_transpose" in str(node.target):
            groups = (*node.args, *[None] * 9)[6] or node.kwargs.get("groups", 1)
            if groups > 1 or node.meta["val"].ndim == 5:
                steps.remove_passes({f"common::fuse_conv_{kind}" for kind in ("batchnorm", "scale", "bias")})
                break
    return steps


def _with_own_tensors(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Copy the weights: coremltools 9 turns the sign of a batch norm's mean in place, in the caller's model."""
    import torch

    for tensors in (program.state_dict, program.constants):
        for name, value in tensors.items():
            if isinstance(value, torch.nn.Parameter):
                tensors[name] = torch.nn.Parameter(value.detach().clone(), requires_grad=False)
            elif isinstance(value, torch.Tensor):
                tensors[name] = value.detach().clone()
    return program


def keep_inputs_apart(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write an output that is the input as input * 1. In place.

    An output of a Core ML program has a name of its own; coremltools takes a copy for nothing and then fails on it.
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    same = (aten.alias.default, aten.clone.default, aten.detach.default)
    inputs = set(program.graph_signature.user_inputs)
    (last,) = (node for node in graph.nodes if node.op == "output")

    def source(node: Any) -> Any:
        while node.op == "call_function" and node.target in same:
            node = node.args[0]
        return node

    for spec, node in zip(program.graph_signature.output_specs, last.args[0], strict=True):
        origin = source(node)
        if origin.name not in inputs:
            continue
        with graph.inserting_before(last):
            copy = graph.call_function(aten.mul.Scalar, (origin, 1))
        copy.meta = dict(origin.meta)
        last.replace_input_with(node, copy)
        spec.arg.name = copy.name
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program
