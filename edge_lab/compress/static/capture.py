"""A module as the ATen graph that the PT2E recipes change: with weights of its own, each of them a stored tensor.

Import this file lazily: it needs torch.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import fx

from edge_lab.compress.graphs.fold import settled
from edge_lab.compress.graphs.graph import attribute, call, operator_of

aten = torch.ops.aten
_PADDED_BY_NAME = {aten.conv1d.padding: aten.conv1d.default, aten.conv2d.padding: aten.conv2d.default}
_WITH_WEIGHTS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "batch_norm")


def captured(module: torch.nn.Module, example: np.ndarray) -> fx.GraphModule:
    """Capture a module (float32, eval mode) with static shapes and batch norms folded; its weights stay as they are.

    What computes a weight (a mask of `torch.nn.utils.prune`, a parametrization such as weight_norm) is computed once,
    and padding="same" or "valid" becomes numbers: quantizers look for stored weights, and know numbers only.
    """
    program = torch.export.export(module, (torch.from_numpy(example),), strict=False)
    graph: fx.GraphModule = program.module(check_guards=False)  # type: ignore[assignment]
    _own_tensors(graph)
    _store_weights(graph)
    _pad_by_numbers(graph)
    _batch_convolutions(graph)
    settled(graph, module, example)
    return graph


def _batch_convolutions(graph: fx.GraphModule) -> None:
    """Give a convolution of one picture without a batch axis a batch of one: quantizers and kernels know no other."""
    for node in list(graph.graph.nodes):
        if not operator_of(node).startswith("conv") or node.target in _PADDED_BY_NAME:
            continue
        x, weight, value = node.args[0], node.args[1], node.meta.get("val")
        if value is None or x.meta["val"].ndim != weight.meta["val"].ndim - 1:
            continue
        with graph.graph.inserting_before(node):
            batch = graph.graph.call_function(aten.unsqueeze.default, (x, 0))
        batch.meta = dict(x.meta) | {"val": x.meta["val"].unsqueeze(0)}
        with graph.graph.inserting_after(node):
            single = graph.graph.call_function(aten.squeeze.dim, (node, 0))
        single.meta = dict(node.meta)
        node.replace_all_uses_with(single, delete_user_cb=lambda user, own=single: user is not own)
        node.replace_input_with(x, batch)
        node.meta = dict(node.meta) | {"val": value.unsqueeze(0)}
    graph.recompile()


def _own_tensors(graph: fx.GraphModule) -> None:
    """Give the graph copies of all tensors that it shares with the module; what was one tensor stays one."""
    shared = {str(node.target): attribute(graph, node) for node in graph.graph.nodes if node.op == "get_attr"}
    copies: dict[int, torch.Tensor] = {}
    for target, value in shared.items():
        if not isinstance(value, torch.Tensor):
            continue
        if id(value) not in copies:
            copy = value.detach().clone()
            copies[id(value)] = torch.nn.Parameter(copy, False) if isinstance(value, torch.nn.Parameter) else copy
        *path, name = target.split(".")
        setattr(graph.get_submodule(".".join(path)), name, copies[id(value)])


def _store_weights(graph: fx.GraphModule) -> None:
    """Replace every weight, bias or statistic that is computed without the input by its value."""
    constant: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function"
            and isinstance(node.meta.get("val"), torch.Tensor)
            and constant.issuperset(node.all_input_nodes)
        ):
            constant.add(node)
    for node in list(graph.graph.nodes):
        if operator_of(node) not in _WITH_WEIGHTS:
            continue
        for held in node.all_input_nodes[1:]:
            if held in constant and held.op == "call_function":
                _store(graph, held)


def _store(graph: fx.GraphModule, node: fx.Node) -> None:
    def value_of(part: fx.Node) -> Any:
        return attribute(graph, part) if part.op == "get_attr" else call(part, value_of)

    with torch.no_grad():
        value = value_of(node).contiguous()
    name = next(name for i in itertools.count() if not hasattr(graph, name := f"stored_{i}"))
    graph.register_parameter(name, torch.nn.Parameter(value, False))  # whoever folds a norm into it writes a parameter
    with graph.graph.inserting_before(node):
        stored = graph.graph.get_attr(name)
    stored.meta = dict(node.meta)
    node.replace_all_uses_with(stored)
    graph.graph.erase_node(node)


def _pad_by_numbers(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        if node.target not in _PADDED_BY_NAME:
            continue
        x, weight, *rest = node.args
        axes = weight.meta["val"].ndim - 2
        given = dict(zip(("bias", "stride", "padding", "dilation", "groups"), rest, strict=False)) | dict(node.kwargs)
        dilation = list(given.get("dilation", [1])) * (axes if len(given.get("dilation", [1])) < axes else 1)
        total = [0] * axes
        if given.get("padding", "valid") == "same":
            total = [d * (size - 1) for d, size in zip(dilation, weight.meta["val"].shape[2:], strict=True)]
        if any(n % 2 for n in total):  # one more zero at the end: no convolution does this by itself
            amounts = [n for size in reversed(total) for n in (size // 2, size - size // 2)]
            with graph.graph.inserting_before(node):
                x = graph.graph.call_function(aten.constant_pad_nd.default, (x, amounts))
            shape = list(node.args[0].meta["val"].shape)
            shape = shape[:-axes] + [n + more for n, more in zip(shape[-axes:], total, strict=True)]
            x.meta = dict(node.meta) | {"val": node.args[0].meta["val"].new_empty(shape)}
            total = [0] * axes
        stride = given.get("stride", [1] * axes)
        padding = [n // 2 for n in total]
        node.args = (x, weight, given.get("bias"), stride, padding, dilation, given.get("groups", 1))
        node.kwargs = {}
        node.target = _PADDED_BY_NAME[node.target]
