"""Float scores from an int8 network: the last linear layer takes a range of its own for every input.

XNNPACK has no int8 linear layer that writes floats from int8 inputs with fixed scales. It has one that finds the range
of its input when it runs, and its output is float. For the last layer that costs nothing, and the mean before it keeps
its fractions too.
"""

from __future__ import annotations

from typing import Any

from edge_lab.compress.graphs.graph import operator_of

_MOVES = ("adaptive_avg_pool2d", "mean", "flatten", "view", "reshape", "squeeze", "dropout")


def annotate_scores(model: Any) -> None:
    """Mark linear layers whose output is the network's, and the mean before them, for the XNNPACK quantizer. In place.

    Only where other layers come before them (a lone linear layer stays static), and the output is (batch, scores).
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    linear = torch.ops.aten.linear.default
    layers = [node for node in model.graph.nodes if operator_of(node).startswith(("conv", "linear"))]
    output = next(node for node in model.graph.nodes if node.op == "output")
    dynamic = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    for node in output.all_input_nodes:
        last = node.target == linear and node is not layers[0] and node.meta["val"].ndim == 2 and len(node.users) == 1
        if not last or Q_ANNOTATION_KEY in node.meta or len(node.args[0].users) > 1:
            continue
        inputs = {node.args[0]: dynamic.input_activation, node.args[1]: dynamic.weight}
        node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        before = node.args[0]
        while operator_of(before) in _MOVES and len(before.users) == 1:
            before.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)  # not rounded between the two
            before = before.args[0]
