"""The graph behind `qat`: fake quantization, its phases, its conversion. Imports torch at the top: import it lazily."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from edge_lab.bundle.folder import Method
from edge_lab.compress.graphs.fold import settle
from edge_lab.compress.graphs.quantized import seal
from edge_lab.core.errors import EdgeLabError

if TYPE_CHECKING:
    from edge_lab.compress.qat.training import QAT

aten = torch.ops.aten
_DROPOUTS = (aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.feature_dropout_.default)
_CLAMPS = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default)
_CONVS = (aten.conv1d.default, aten.conv2d.default)
_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)
_LONGEST = 1.0  # gradient of one output channel
_TORCHAO_EPS = 1e-5  # written into torchao's patterns of conv + batch norm


class Trainee(nn.Module):
    """A prepared graph that knows how far its training is, and freezes its parts in time.

    The step count is a buffer, so that a checkpoint carries it: a resumed run freezes at the same step. While not
    training, nothing is observed. `first` is a batch of inputs: where the ranges start from.
    """

    step: Tensor

    def __init__(self, prepared_graph: fx.GraphModule, config: QAT, steps: int, first: Tensor) -> None:
        super().__init__()
        self.inner = prepared_graph
        self.calmed = False
        self.observe_until = round(config.freeze_observers_at * steps)
        self.normalise_until = round(config.freeze_batch_norm_at * steps)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # Never read: it makes a checkpoint of another recipe another run.
        recipe = [config.weight_bits, int(config.per_channel), self.observe_until, self.normalise_until]
        self.register_buffer("recipe", torch.tensor(recipe))
        _set_mode(prepared_graph, dropout=False, batch_norm=False)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the same ranges for any number of threads: a checkpoint starts from them
        with torch.no_grad():
            prepared_graph(first)
        torch.set_num_threads(threads)
        self.eval()

    def train(self, mode: bool = True) -> Trainee:
        """Like nn.Module.train; a captured graph has no such switch, so its nodes are rewritten."""
        self.training = mode
        self._enter_phase()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to scores (N, classes), rounded as on the device."""
        if self.training:
            if int(self.step) in (self.observe_until, self.normalise_until):
                self._enter_phase()
            if not self.calmed:  # not earlier: a copy of a module loses its hooks
                for parameter in (p for p in self.inner.parameters() if p.requires_grad):
                    parameter.register_hook(_calm)  # type: ignore[no-untyped-call]
                self.calmed = True
            self.step += 1
        try:
            return self.inner(x)  # type: ignore[no-any-return]
        except AssertionError as error:  # of an observer: "min nan should be less than max nan"
            if all(bool(torch.isfinite(p).all()) for p in self.inner.parameters()):
                raise
            raise EdgeLabError(
                "training broke: a weight is NaN or infinite.",
                "the weights grew without bound; the learning rate is too high for this network at so few bits.",
                "try FitConfig(lr=...) with a tenth of it, or more bits, or per_channel=True.",
            ) from error

    def _enter_phase(self) -> None:
        from torchao.quantization.pt2e import FakeQuantizeBase

        step = int(self.step)
        for module in self.inner.modules():
            if isinstance(module, FakeQuantizeBase):
                module.enable_observer(self.training and step < self.observe_until)
        _set_mode(self.inner, dropout=self.training, batch_norm=self.training and step < self.normalise_until)


def _calm(gradient: Tensor) -> Tensor:
    """Shorten the gradient of each output channel to a norm of at most _LONGEST.

    A channel whose weights are all rounded to zero has no variance. Batch norm multiplies its gradient by
    1 / sqrt(eps), some hundred times. One step later its weights are the largest of the layer: the range grows with
    them, all others become zero, and soon the loss is not a number.
    """
    rows = gradient.reshape(len(gradient), -1) if gradient.ndim else gradient.reshape(1, 1)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return (rows * (_LONGEST / length.clamp(min=_LONGEST))).reshape(gradient.shape)  # type: ignore[no-any-return]


def _set_mode(graph: fx.GraphModule, *, dropout: bool, batch_norm: bool) -> None:
    """Switch dropout and batch normalisation of a captured graph to training (True) or inference.

    torchao's move_exported_model_to_train/eval do this too, but replace every batch norm by one with the default
    eps and momentum: a network with eps = 1e-3 (MobileNetV3) would silently compute something else.
    """
    for node in graph.graph.nodes:
        if node.target == aten.batch_norm.default:
            node.update_arg(5, batch_norm)
        elif node.target in _DROPOUTS:
            node.update_arg(2, dropout)
    graph.recompile()


def _batch_norms(graph: fx.GraphModule) -> dict[str, fx.Node]:
    """Batch norm nodes by the name of their running variance."""
    return {
        str(node.args[4].target): node  # type: ignore[union-attr]
        for node in graph.graph.nodes
        if node.target == aten.batch_norm.default
    }


def _set_eps(norm: fx.Node, eps: float) -> None:
    """Change eps of a batch norm, and of the sqrt(variance + eps) that torchao puts before its convolution."""
    norm.update_arg(7, eps)
    for user in list(norm.args[4].users):  # type: ignore[union-attr]
        if user.target == aten.add.Tensor:
            user.update_arg(1, eps)


def prepared(graph: fx.GraphModule, config: QAT) -> fx.GraphModule:
    """Insert fake quantization for training into a captured graph (changes it)."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    own = {name: node.args[6:8] for name, node in _batch_norms(graph).items()}  # momentum, eps
    ready: fx.GraphModule = prepare_qat_pt2e(graph, _quantizer(config, training=True))
    for name, node in _batch_norms(ready).items():
        momentum, eps = own[name]
        node.update_arg(6, momentum)
        _set_eps(node, float(eps))  # type: ignore[arg-type]
    ready.recompile()
    return ready


def convert_trainee(trainee: Trainee) -> nn.Module:
    """From fake quantization to integers (changes the trainee)."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    trainee.eval()
    graph = trainee.inner
    _fold_batch_norms(graph)
    buffers = dict(graph.named_buffers())
    for name, node in _batch_norms(graph).items():
        with torch.no_grad():  # convert folds what is left with its own eps: move the difference to the variance
            buffers[name] += float(node.args[7]) - _TORCHAO_EPS  # type: ignore[arg-type]
        _set_eps(node, _TORCHAO_EPS)
    graph.recompile()
    return _finished(convert_pt2e(graph), "qat")


def _fold_batch_norms(graph: fx.GraphModule) -> None:
    """Put each batch norm into the weight and bias of its convolution; the rounded weight stays what it was.

    convert_pt2e does this too, but traces some hundred patterns to find the places: 15 s for the smallest network.
    """
    values = dict(graph.named_parameters(remove_duplicate=False)) | dict(graph.named_buffers(remove_duplicate=False))
    norms = [node for node in graph.graph.nodes if node.target == aten.batch_norm.default]
    for place, norm in enumerate(norms):
        found = _normed_conv(norm)
        if found is None:
            continue
        conv, scaled, conv_bias = found
        weight, reshaped = scaled.args
        gamma, beta, mean, variance = (values[node.target].detach() for node in norm.args[1:5])
        factor = gamma / torch.sqrt(variance + norm.args[7])
        offset = 0.0 if conv_bias is None else values[conv_bias.target].detach()
        folded = values[weight.target].detach() * factor.reshape(reshaped.args[1])
        scaled.replace_all_uses_with(_constant(graph, f"folded_weight_{place}", folded, scaled))
        bias = _constant(graph, f"folded_bias_{place}", beta + (offset - mean) * factor, conv)
        conv.args = (*conv.args[:2], bias, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _normed_conv(norm: fx.Node) -> tuple[Any, Any, Any] | None:
    """What prepare_qat_pt2e made of a convolution before `norm`: its node, weight * factor, and its own bias or None.

    factor = gamma / sqrt(variance + eps); norm(conv(x, round(weight * factor)) / factor + bias). None if it is not so.
    """
    x: Any = norm.args[0]
    bias = None
    if _calls(x, aten.add.Tensor) and _calls(x.args[1], aten.reshape.default):
        x, bias = x.args[0], x.args[1].args[0]
    if not (_calls(x, aten.div.Tensor) and _calls(x.args[1], aten.reshape.default)):
        return None
    if not _calls(x.args[0], *_CONVS, *_TRANSPOSED):
        return None
    conv, factor = x.args[0], x.args[1].args[0]
    scaled = conv.args[1]
    if scaled.op == "call_module":  # the fake quantization of the weight
        scaled = scaled.args[0]
    if not (_calls(scaled, aten.mul.Tensor) and _calls(scaled.args[1], aten.reshape.default)):
        return None
    same = scaled.args[1].args[0] is factor and _calls(factor, aten.div.Tensor) and factor.args[0] is norm.args[1]
    return (conv, scaled, bias) if same else None


def _calls(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets


def _constant(graph: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(name)


def calibrated(graph: fx.GraphModule, config: QAT, batches: Iterable[Tensor]) -> nn.Module:
    """Post-training quantization of a captured graph with the ranges of some batches."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    settle(graph)
    ready = prepare_pt2e(graph, _quantizer(config, training=False))
    with torch.no_grad():
        for x in batches:
            ready(x)
    return _finished(convert_pt2e(ready), "ptq")


def _finished(graph: fx.GraphModule, method: Method) -> nn.Module:
    for node in graph.graph.nodes:  # XNNPACK takes a range of -8 to 7 for its packed 4-bit format, which no conv has
        if "dequantize_per" in str(node.target):
            place = 4 if "channel" in str(node.target) else 3
            node.update_arg(place, -128)
            node.update_arg(place + 1, 127)
    graph.recompile()
    return seal(graph, method).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def _quantizer(config: QAT, *, training: bool) -> Any:
    """ExecuTorch's XNNPACKQuantizer with the weight range of the config, and with conv + ReLU6 as one unit."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver

    low, high = config.weight_range
    qconfig = get_symmetric_quantization_config(
        is_per_channel=config.per_channel, is_qat=training, weight_qmin=low, weight_qmax=high
    )
    if training:
        # The stock ranges follow 1 % of each batch and lag behind in a short run: follow a tenth, and weights at once.
        activation = _observed_by(qconfig.input_activation, averaging_constant=0.1)
        qconfig = replace(qconfig, weight=_observed_by(qconfig.weight, averaging_constant=1.0))
    else:  # the stock histogram is minutes slower on a CPU
        observer = MinMaxObserver.with_args(eps=2**-12)
        activation = replace(qconfig.input_activation, observer_or_fake_quant_ctr=observer)
    qconfig = replace(qconfig, input_activation=activation, output_activation=activation)

    class FusedClampQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in _CLAMPS:
                    _annotate_clamp(node, qconfig)
            if not any("transpose" in str(node.target) for node in model.graph.nodes):  # a second less of tracing
                self.SUPPORTED_PATTERNS = [p for p in XNNPACKQuantizer.SUPPORTED_PATTERNS if "transpose" not in p.name]
            return super().annotate(model)  # type: ignore[no-any-return]

    return FusedClampQuantizer().set_global(qconfig)


def _observed_by(spec: Any, averaging_constant: float) -> Any:
    """A quantization spec whose ranges follow the given share of every batch.

    Not torchao's fused operator: its symmetric scale, max(-min / 2^(b-1), max / (2^(b-1) - 1)), is not the one that
    convert_pt2e computes from the same range, max(-min, max) / (2^b - 1) * 2. Hardly seen at 8 bits, ruin at 2.
    """
    from torchao.quantization.pt2e import FakeQuantize

    stock = spec.observer_or_fake_quant_ctr.p.keywords  # the observer class, and the smallest scale
    made = FakeQuantize.with_args(**stock, averaging_constant=averaging_constant)
    return replace(spec, observer_or_fake_quant_ctr=made)


def _annotate_clamp(clamp: fx.Node, qconfig: Any) -> None:
    """Conv (+ batch norm) + ReLU6: quantize what enters the conv and what leaves the clamp, nothing between."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    conv = clamp.args[0]
    if isinstance(conv, fx.Node) and conv.target == aten.batch_norm.default and len(conv.users) == 1:
        conv = conv.args[0]
    if not isinstance(conv, fx.Node) or conv.target not in _CONVS or len(conv.users) != 1:
        return
    inputs = {conv.args[0]: qconfig.input_activation, conv.args[1]: qconfig.weight}
    if len(conv.args) > 2 and conv.args[2] is not None:
        inputs[conv.args[2]] = qconfig.bias
    conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
    clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=qconfig.output_activation, _annotated=True)
