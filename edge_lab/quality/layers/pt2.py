"""What the operators of a .pt2 program give: its graph is run node by node. Imports torch: import it lazily."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx

from edge_lab.bundle.folder import Bundle
from edge_lab.compress.graphs.graph import attribute, call
from edge_lab.core.quiet import quiet
from edge_lab.formats.runtime import refuse_code


def values(bundle: Bundle, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every floating-point tensor of the graph, with the name of the module that its operator stood in."""
    refuse_code(bundle.program_path)
    with quiet():
        module = torch.export.load(bundle.program_path).module(check_guards=False)
    yield from graph_values(module, x)


def graph_values(module: Any, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same of a captured program's graph module that is in memory."""
    assert isinstance(module, fx.GraphModule)
    found: dict[fx.Node, Any] = {}
    readers = {node: len(node.users) for node in module.graph.nodes}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "placeholder":
                found[node] = torch.from_numpy(x.copy())
            elif node.op == "get_attr":
                found[node] = attribute(module, node)
            elif node.op == "call_function":
                result = found[node] = call(node, found.__getitem__)
                if isinstance(result, torch.Tensor) and result.is_floating_point():
                    yield _module(node), result.float().numpy().copy()
            for source in node.all_input_nodes:
                readers[source] -= 1
                if not readers[source]:
                    del found[source]


def _module(node: fx.Node) -> str:
    """Name as in `named_modules()`; a module that is called a second time appears as name@1."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0]).removeprefix("L['self']").removeprefix(".")
