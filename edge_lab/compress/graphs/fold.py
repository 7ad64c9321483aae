"""Batch norms and shared weights of a captured graph, put in order before a converter or a quantizer sees them.

In inference a batch norm with stored statistics is y = x * factor + offset per channel. The converters fold it into the
layer before, and do it wrongly where that layer's output or weight has a second reader, or where two norms' names end
up as one (ExecuTorch 1.5, torchao 0.18): a wrong program and no error. Here it is done once, by rules that hold for any
network, so that none is left to them:

* a convolution or linear layer whose only reader is the norm gets weights of its own, under a name of their own;
* everywhere else the norm becomes a depthwise 1x1 convolution, which int8 engines know and whose only weight per
  channel is a whole number of steps of its own scale; for rows and volumes, a multiplication and an addition.

Graphs are those of `torch.export(...).module()`; the tensors they share with a user's module are never written to.
Import this file lazily: it needs torch.
"""

from __future__ import annotations

import math
from itertools import count
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edge_lab.compress.graphs.graph import attribute, operator_of
from edge_lab.core.errors import ExportError

aten = torch.ops.aten
_SQNR_DB, _SQNR_HALF_DB = 60, 30  # far below what rounding the new weights costs in 32 and in 16 bits
_RANKS = {"conv1d": 3, "conv2d": 4, "conv3d": 5, "conv_transpose1d": 3, "conv_transpose2d": 4, "conv_transpose3d": 5}
_DEPTHWISE = {3: aten.conv1d.default, 4: aten.conv2d.default}


def settled(graph: fx.GraphModule, module: torch.nn.Module, example: np.ndarray, *, norms: bool = True) -> bool:
    """`settle` a captured graph, and forget the tensors that it does not read any more. In place.

    Args:
        graph: of the module, in eval mode.
        module: what the graph is compared with if it was changed.
        example: one input.
        norms: False: only store all tensors row by row.

    Returns:
        Whether anything that it computes is written otherwise now.

    Raises:
        ExportError: the settled graph computes something else.
    """
    changed = settle(graph) if norms else _store_by_rows(graph)
    if changed:
        refuse_changed(module, graph, example, type(module).__name__)
    _drop_unread(graph)
    return changed


def settle(graph: fx.GraphModule) -> bool:
    """Fold batch norms, give every layer a bias of its own, and store all tensors row by row. In place.

    Returns:
        Whether anything changed. Call `refuse_changed` then.
    """
    changed = [_store_by_rows(graph), _fold_norms(graph), _own_biases(graph), _hide_batch_statistics(graph)]
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return any(changed)


def _drop_unread(graph: fx.GraphModule) -> None:
    """Forget stored tensors that no node reads: ExecuTorch would write some of them into the program."""
    read = tuple(str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module"))
    for name, _ in [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)]:
        if not any(name == target or name.startswith(f"{target}.") for target in read):
            parent, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(parent), leaf)


def refuse_changed(module: torch.nn.Module, graph: fx.GraphModule, example: np.ndarray, name: str) -> None:
    """Raise ExportError unless a rewritten graph still computes what the module does: 60 dB, 30 dB in 16-bit floats."""
    x = torch.from_numpy(example)
    with torch.no_grad():
        wanted, found = (torch.utils._pytree.tree_leaves(f(x.clone())) for f in (module, graph))
    limit = _SQNR_HALF_DB if any(p.dtype.itemsize == 2 for p in graph.parameters()) else _SQNR_DB
    for i, (a, b) in enumerate(zip(wanted, found, strict=True)):
        if not isinstance(a, Tensor) or not a.is_floating_point() or not a.numel():
            continue
        signal, noise = (float(t.double().square().sum()) for t in (a, a.double() - b.double()))
        if noise and not 10 * math.log10(max(signal, 1e-300) / noise) >= limit:
            raise ExportError(
                f"{name} can't be prepared for export: output {i} came out different.",
                "its batch norms or memory formats could not be written otherwise without changing its answers.",
                "fold the norms yourself (torch.nn.utils.fusion.fuse_conv_bn_eval), keep tensors contiguous, and avoid "
                "as_strided; an ONNX or .pt2 target in fp32 takes the network as it is.",
            )


def separate(graph: fx.GraphModule) -> bool:
    """Give every reader of a shared tensor a copy, unless all are linear layers. In place; whether anything changed.

    XNNPACK's passes turn a layer's weight (NHWC, 1-D to 2-D) where it is stored, for all its readers. Equal tensors are
    stored once in a .pte.
    """
    changed = False
    for held in _constants(graph):
        readers, names = list(held.users), {operator_of(user) for user in held.users}
        if len(readers) < 2 or names == {"linear"} or any(str(n.target).split(".")[-2].endswith("_") for n in readers):
            continue
        for reader in readers[1:]:
            owner, _, leaf = str(held.target).rpartition(".")
            reader.replace_input_with(held, new_constant(graph, owner, leaf, attribute(graph, held).clone(), reader))
        changed = True
    graph.recompile()
    return changed


def new_constant(graph: fx.GraphModule, owner: str, leaf: str, value: Tensor, before: fx.Node) -> fx.Node:
    """A node that stands for a new tensor of module `owner`, stored under a name that nothing else has.

    The name begins with the owner's, so that patterns of `keep_float` still fit: "conv" -> "conv.call_0.weight".
    """
    parent = graph.get_submodule(owner)
    call = next(name for name in map("call_{}".format, count()) if not hasattr(parent, name))
    own = torch.nn.Module()
    stored = value.detach().contiguous()  # ExecuTorch leaves out parameters that nothing reads, but no buffers
    own.register_parameter(leaf, torch.nn.Parameter(stored, requires_grad=False))
    parent.add_module(call, own)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(".".join(filter(None, (owner, call, leaf))))
    node.meta["val"] = before.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
    return node


def _constants(graph: fx.GraphModule) -> list[fx.Node]:
    """Nodes that stand for a stored tensor of floats or integers, packed ones excepted."""
    return [node for node in graph.graph.nodes if _is_stored(graph, node)]


def _is_stored(graph: fx.GraphModule, node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return False
    return type(attribute(graph, node)) in (Tensor, torch.nn.Parameter)


def _fold_norms(graph: fx.GraphModule) -> bool:
    norms = [node for node in graph.graph.nodes if node.target == aten.batch_norm.default and _is_fixed(graph, node)]
    done: dict[Any, fx.Node] = {}
    for norm in norms:
        mean, variance = (attribute(graph, node).double() for node in norm.args[3:5])
        gamma, beta = (None if node is None else attribute(graph, node).double() for node in norm.args[1:3])
        factor = (1.0 if gamma is None else gamma) / torch.sqrt(variance + float(norm.args[7]))
        offset = (0.0 if beta is None else beta) - mean * factor
        layer = norm.args[0]
        if _takes(graph, layer, norm):
            _fold(graph, norm, factor, offset, done)
            norm.replace_all_uses_with(layer)
        else:
            norm.replace_all_uses_with(_alone(graph, norm, factor, offset))
        graph.graph.erase_node(norm)
    return bool(norms)


def _hide_batch_statistics(graph: fx.GraphModule) -> bool:
    """Norms that measure their own input, by an operator that torchao does not take for one to be folded."""
    found = [node for node in graph.graph.nodes if node.target == aten.batch_norm.default and node.args[3] is None]
    for norm in found:
        with graph.graph.inserting_before(norm):
            measured = graph.graph.call_function(
                aten._native_batch_norm_legit.no_stats, (*norm.args[:3], True, *norm.args[6:8])
            )
            output = graph.graph.call_function(getitem, (measured, 0))
        output.meta = dict(norm.meta)
        value = norm.meta["val"]
        statistics = value.new_empty(value.shape[1])
        measured.meta = dict(norm.meta) | {"val": (value, statistics, statistics)}
        norm.replace_all_uses_with(output)
        graph.graph.erase_node(norm)
    return bool(found)


def _is_fixed(graph: fx.GraphModule, norm: fx.Node) -> bool:
    """Whether a batch norm uses stored statistics and weights."""
    weights, statistics = norm.args[1:3], norm.args[3:5]
    stored = [_is_stored(graph, node) for node in statistics] + [n is None or _is_stored(graph, n) for n in weights]
    return all(stored) and norm.args[5] is False


def _takes(graph: fx.GraphModule, layer: Any, norm: fx.Node) -> bool:
    """Whether a norm can move into the layer before it."""
    rank = 2 if operator_of(layer) == "linear" else _RANKS.get(operator_of(layer), 0)
    if len(layer.users) != 1 or not rank or norm.meta["val"].ndim != rank:
        return False
    bias = layer.args[2] if len(layer.args) > 2 else None
    return _is_stored(graph, layer.args[1]) and (bias is None or _is_stored(graph, bias))


def _fold(graph: fx.GraphModule, norm: fx.Node, factor: Tensor, offset: Tensor, done: dict[Any, fx.Node]) -> None:
    """Give a layer the weights of itself and of the norm behind it. The same two elsewhere share the new weight."""
    layer: Any = norm.args[0]
    held, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    weight = attribute(graph, held)
    owner = str(held.target).rpartition(".")[0]
    key = (held, operator_of(layer), *norm.args[1:5], norm.args[7])
    if key not in done:
        value = (weight.double() * _along_outputs(layer, weight, factor)).to(weight.dtype)
        done[key] = new_constant(graph, owner, "weight", value, layer)
    shift = offset if bias is None else attribute(graph, bias).double() * factor + offset
    own = new_constant(graph, owner, "bias", shift.to(weight.dtype), layer)
    layer.args = (layer.args[0], done[key], own, *layer.args[3:])


def _along_outputs(layer: fx.Node, weight: Tensor, factor: Tensor) -> Tensor:
    """A factor per output channel in the shape that multiplies a layer's weight."""
    if "transpose" not in operator_of(layer):
        return factor.reshape(-1, *[1] * (weight.ndim - 1))
    # (inputs, outputs of a group, ...): input i belongs to group i // (inputs / groups)
    per_group = factor.reshape(-1, weight.shape[1])
    rows = per_group.repeat_interleave(weight.shape[0] // len(per_group), 0)
    return rows.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))


def _alone(graph: fx.GraphModule, norm: fx.Node, factor: Tensor, offset: Tensor) -> fx.Node:
    """What computes a norm that no layer can take."""
    x: Any = norm.args[0]
    owner, value = str(norm.args[3].target).rpartition(".")[0], norm.meta["val"]  # type: ignore[union-attr]
    dtype = attribute(graph, norm.args[3]).dtype  # type: ignore[arg-type]
    meta = {k: v for k, v in norm.meta.items() if k not in ("source_fn_stack", "torch_fn")}

    def add(operator: Any, *args: Any) -> fx.Node:
        with graph.graph.inserting_before(norm):
            node = graph.graph.call_function(operator, args)
        node.meta = dict(meta)
        return node

    def stored(leaf: str, number: Tensor) -> fx.Node:
        return new_constant(graph, owner, leaf, number.to(dtype), norm)

    if value.ndim in _DEPTHWISE:
        n = value.ndim - 2
        weight, bias = stored("weight", factor.reshape(-1, 1, *[1] * n)), stored("bias", offset)
        return add(_DEPTHWISE[value.ndim], x, weight, bias, [1] * n, [0] * n, [1] * n, len(factor))
    shape = (-1, *[1] * (value.ndim - 2))
    scaled = add(aten.mul.Tensor, x, stored("weight", factor.reshape(shape)))
    return add(aten.add.Tensor, scaled, stored("bias", offset.reshape(shape)))


def _own_biases(graph: fx.GraphModule) -> bool:
    """A copy of its bias for every layer whose bias has other readers: bias correction differs from call to call."""
    changed, taken = False, set()
    for node in list(graph.graph.nodes):
        bias: Any = node.args[2] if operator_of(node).startswith(("conv", "linear")) and len(node.args) > 2 else None
        if not _is_stored(graph, bias):
            continue
        value = attribute(graph, bias)
        if len(bias.users) > 1 or value.data_ptr() in taken:
            own = new_constant(graph, str(bias.target).rpartition(".")[0], "bias", value.clone(), node)
            node.args = (*node.args[:2], own, *node.args[3:])
            changed = True
        taken.add(value.data_ptr())
    return changed


def _store_by_rows(graph: fx.GraphModule) -> bool:
    """Contiguous tensors in place of channels_last ones, and no operator that asks for a memory format."""
    changed = False
    for node in _constants(graph):
        value = attribute(graph, node)
        if value.stride() != torch.empty(value.shape, device="meta").stride():
            _replace(graph, str(node.target), value.clone(memory_format=torch.contiguous_format))
            changed = True
    for node in graph.graph.nodes:
        if node.op == "call_function":
            changed |= _forget_format(node)
    if changed:
        for node in graph.graph.nodes:  # a view that fitted the old strides need not fit the new ones
            if node.target == aten.view.default:
                node.target = aten.reshape.default
        graph.recompile()
    return changed


def _replace(graph: fx.GraphModule, target: str, value: Tensor) -> None:
    parent, _, leaf = target.rpartition(".")
    owner = graph.get_submodule(parent)
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    else:
        setattr(owner, leaf, value)


def _forget_format(node: fx.Node) -> bool:
    """Let an operator with an argument `memory_format` write rows; returns whether it did not."""
    arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
    place = next((i for i, argument in enumerate(arguments) if argument.name == "memory_format"), None)
    if place is None:
        return False
    if place < len(node.args) and not arguments[place].kwarg_only:
        asked = node.args[place]
        args = (*node.args[:place], torch.contiguous_format, *node.args[place + 1 :])
    else:
        asked = node.kwargs.get("memory_format")
        args = node.args
    if asked not in (torch.channels_last, torch.channels_last_3d):
        return False
    if args is node.args:
        node.update_kwarg("memory_format", torch.contiguous_format)
    node.args = args
    return True
