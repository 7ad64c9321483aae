"""Operators that a converter takes apart badly or does not know, written otherwise in the captured graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge_lab.core.errors import ExportError

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


def expand_gelu(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write gelu(x, approximate="tanh") as x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))). In place.

    ExecuTorch 1.5.1 hands both kinds of GELU to XNNPACK as the exact one: 74 dB, and no error.
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    for node in list(graph.nodes):
        if node.target != aten.gelu.default or node.kwargs.get("approximate", "none") != "tanh":
            continue
        x = last = node.args[0]
        steps = (
            (aten.mul.Tensor, x),
            (aten.mul.Tensor, 0.044715),
            (aten.add.Tensor, 1.0),
            (aten.mul.Tensor, x),
            (aten.mul.Tensor, (2 / math.pi) ** 0.5),
            (aten.tanh.default,),
            (aten.add.Tensor, 1.0),
            (aten.mul.Tensor, 0.5),
            (aten.mul.Tensor, x),
        )
        with graph.inserting_before(node):
            for operator, *other in steps:
                last = graph.call_function(operator, (last, *other))
                last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def expand_addmm(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write addmm(x, a, b, beta=, alpha=) as x * beta + a @ b * alpha. In place. ExecuTorch 1.5.1 forgets both."""
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    for node in list(graph.nodes):
        beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
        if node.target != aten.addmm.default or (beta == 1 and alpha == 1):
            continue
        x, *factors = node.args
        with graph.inserting_before(node):
            product = graph.call_function(aten.mm.default, tuple(factors))
            scaled = graph.call_function(aten.mul.Tensor, (product, float(alpha)))
            base = graph.call_function(aten.mul.Tensor, (x, float(beta)))
            total = graph.call_function(aten.add.Tensor, (base, scaled))
        for new, like in ((product, node), (scaled, node), (base, x), (total, node)):
            new.meta = dict(like.meta)
        node.replace_all_uses_with(total)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def flatten_softmax(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write softmax(x, -1) of a 4-D tensor as the softmax of a 3-D view. In place; the same numbers.

    Between convolutions XNNPACK keeps 4-D tensors as NHWC, and its softmax then runs over the channels instead of the
    last axis: a wrong program and no error (ExecuTorch 1.5.1, EfficientFormerV2). 3-D tensors it leaves alone.
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.softmax.int, aten._softmax.default):
            continue
        shape = [int(n) for n in node.meta["val"].shape]
        if len(shape) != 4 or node.args[1] not in (-1, 3):
            continue
        with graph.inserting_before(node):
            flat = graph.call_function(aten.reshape.default, (node.args[0], [shape[0] * shape[1], *shape[2:]]))
            inner = graph.call_function(node.target, (flat, -1, *node.args[2:]), dict(node.kwargs))
            whole = graph.call_function(aten.reshape.default, (inner, shape))
        value = node.meta["val"]
        flat.meta = dict(node.meta) | {"val": value.new_empty((shape[0] * shape[1], *shape[2:]))}
        inner.meta, whole.meta = dict(flat.meta), dict(node.meta)
        node.replace_all_uses_with(whole)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def dequantize_per_user(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Give every reader of a dequantized tensor a dequantize of its own. In place; the same numbers.

    Where ExecuTorch 1.5.1 turns such a tensor from NHWC to NCHW for one reader, it turns it for all, also for those
    that count on NHWC: the program then stops with error 0x10, or reads the wrong axis.
    """
    import torch

    steps = torch.ops.quantized_decomposed
    per_tensor = (steps.dequantize_per_tensor.default, steps.dequantize_per_tensor.tensor)
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in per_tensor:
            continue
        for user in list(node.users)[1:]:
            with graph.inserting_after(node):
                own = graph.node_copy(node)
            user.replace_input_with(node, own)
            for output in program.graph_signature.output_specs if user.op == "output" else ():
                if output.arg.name == node.name:
                    output.arg.name = own.name
    program.graph_module.recompile()
    return program


def refuse_wide_output(program: torch.export.ExportedProgram, target: str) -> None:
    """ExportError for a transposed convolution with `output_padding` of its stride or more (PyTorch: of its dilation).

    ONNX Runtime and XNNPACK take it, and stop when the program runs.
    """
    import torch

    aten = torch.ops.aten
    for node in program.graph.nodes:
        if node.target not in (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input):
            continue
        given = dict(zip(("stride", "padding", "output_padding"), node.args[3:6], strict=False)) | node.kwargs
        n = node.meta["val"].ndim - 2
        stride, more = (each_axis(given.get(key, usual), n) for key, usual in (("stride", 1), ("output_padding", 0)))
        if any(m >= s for s, m in zip(stride, more, strict=True)):
            raise ExportError(
                f"the model can't become a program for {target}.",
                f"a transposed convolution adds {more} to its output (output_padding) and has a stride of {stride}; "
                "this runtime takes less than the stride.",
                "leave output_padding out, and F.pad what comes out.",
            )


def each_axis(value: int | Sequence[int], n: int) -> list[int]:
    """An option of a layer, one number for each of n axes; [] stays []."""
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def part_float_lines(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Multiply what a float Conv1d reads by 1 where it comes out of a dequantize. In place; the same numbers.

    ExecuTorch 1.5.1 takes such an input for int8 when it turns the layer into a Conv2d, and then stumbles over its
    weights (transposed convolutions in groups stay float: XNNPACK has no int8 kernel for them).
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.conv1d.default, aten.conv_transpose1d.default):
            continue
        x, weight = node.args[:2]
        if "dequantize" in str(x.target) and "dequantize" not in str(weight.target):
            with graph.inserting_before(node):
                same = graph.call_function(aten.mul.Tensor, (x, 1.0))
            same.meta = dict(x.meta)
            node.replace_input_with(x, same)
    program.graph_module.recompile()
    return program


def narrow_squeezes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Let squeeze(x, dim) name only what has the size 1; the others stay as they are in PyTorch. In place.

    torch.onnx and coremltools write such a squeeze as it is: an invalid file, or a program that can't be finished.
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.squeeze.dim, aten.squeeze.dims):
            continue
        x, named = node.args
        shape = x.meta["val"].shape
        dims = [named] if isinstance(named, int) else list(named)
        fitting = [dim for dim in dims if shape and shape[dim] == 1]
        if len(fitting) == len(dims):
            continue
        with graph.inserting_before(node):
            other = (
                graph.call_function(aten.squeeze.dims, (x, fitting))
                if fitting
                else graph.call_function(aten.clone.default, (x,))
            )
        other.meta = dict(node.meta)
        node.replace_all_uses_with(other)
        for output in program.graph_signature.output_specs:
            if output.arg.name == node.name:
                output.arg.name = other.name
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def drop_ceil_mode(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Pool without `ceil_mode` where it changes nothing. In place.

    PyTorch leaves out a last window that would begin outside; ONNX Runtime 1.31 counts it.
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    averages = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
    largest = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
    for node in graph.nodes:
        if node.target not in (*averages, *largest):
            continue
        n = (averages if node.target in averages else largest).index(node.target) + 1
        at = 4 if node.target in averages else 5
        if len(node.args) <= at or not node.args[at]:
            continue
        kernel, stride, padding, dilation = (each_axis(a, n) for a in (*node.args[1:4], node.args[4] if at == 5 else 1))
        sizes = zip(node.args[0].meta["val"].shape[-n:], node.meta["val"].shape[-n:], strict=True)
        if all(
            new == (old + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // (stride or kernel)[i] + 1
            for i, (old, new) in enumerate(sizes)
        ):
            node.args = (*node.args[:at], False, *node.args[at + 1 :])
    program.graph_module.recompile()
    return program


def expand_viewed_attention(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write attention whose result is viewed in another shape as softmax(q k^T scale + mask) v. In place.

    ExecuTorch 1.5.1 takes attention apart such that its result lies otherwise in memory, and then the view fails.
    """
    import torch

    aten, graph = torch.ops.aten, program.graph_module.graph
    views = (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int)
    for node in list(graph.nodes):
        if node.target != aten.scaled_dot_product_attention.default:
            continue
        query, key, value, mask, dropout, causal = (*node.args, None, 0.0, False)[:6]
        masked_by_numbers = mask is None or mask.meta["val"].is_floating_point()
        viewed = any(user.target in views for user in node.users)
        if not viewed or not masked_by_numbers or dropout or causal or node.kwargs.get("enable_gqa"):
            continue
        scale = node.kwargs.get("scale") or query.meta["val"].shape[-1] ** -0.5
        wide = {"val": query.meta["val"].new_empty((*query.meta["val"].shape[:-1], key.meta["val"].shape[-2]))}
        turned = {"val": key.meta["val"].transpose(-2, -1)}
        with graph.inserting_before(node):
            scaled = _call(graph, aten.mul.Tensor, (query, float(scale)), query.meta)
            other = _call(graph, aten.transpose.int, (key, -2, -1), dict(node.meta) | turned)
            scores = _call(graph, aten.matmul.default, (scaled, other), dict(node.meta) | wide)
            if mask is not None:
                scores = _call(graph, aten.add.Tensor, (scores, mask), scores.meta)
            weights = _call(graph, aten.softmax.int, (scores, -1), scores.meta)
            result = _call(graph, aten.matmul.default, (weights, value), node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _call(graph: torch.fx.Graph, operator: Any, args: tuple[Any, ...], meta: dict[str, Any]) -> torch.fx.Node:
    node = graph.call_function(operator, args)
    node.meta = dict(meta)
    return node


def drop_aliases(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Remove alias(x), which is x. In place; for programs without in-place operators (`run_decompositions` sees to it).

    coremltools 9 has no conversion for it; Swin and GhostNet have some.
    """
    import torch

    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target == torch.ops.aten.alias.default and node.args[0].op == "call_function":
            node.replace_all_uses_with(node.args[0])
            for output in program.graph_signature.output_specs:
                if output.arg.name == node.name:
                    output.arg.name = node.args[0].name
            graph.erase_node(node)
    program.graph_module.recompile()
    return program
