"""Operators that ExecuTorch takes apart badly, taken apart here so that a delegate gets all of the pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def expand_hardsigmoid(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write hardsigmoid(x) as clamp(x + 3, 0, 6) / 6. In place; the same numbers.

    PyTorch's own rule puts a conversion from float32 to float32 before and after it. XNNPACK has no such operator, so
    each squeeze-and-excite block of a MobileNetV3 would leave the delegate twice and come back, its feature maps turned
    from NHWC to NCHW and back every time (seen with ExecuTorch 1.5.1 and torch 2.14).
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    steps = ((aten.add.Tensor, (3.0,)), (aten.hardtanh.default, (0.0, 6.0)), (aten.div.Tensor, (6.0,)))
    for node in list(graph.nodes):
        writes = node.target == aten.hardsigmoid_.default
        # later users of a tensor that is overwritten would see the old value: left as it is
        if node.target != aten.hardsigmoid.default and not (writes and len(node.args[0].users) == 1):
            continue
        last = node.args[0]
        with graph.inserting_before(node):
            for operator, numbers in steps:
                last = graph.call_function(operator, (last, *numbers))
                last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program
