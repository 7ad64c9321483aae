"""Pruning: take weights away, one by one (zeros, in a network of the same size) or by channels (a smaller network).

Only the second makes a program smaller and faster: a dense kernel multiplies by zero as slowly as by anything else.
After either, train on with `finetune` (lab 06 shows how much accuracy that brings back).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_lab.core.errors import InputError
from edge_lab.train import FitConfig, FitResult, fit
from edge_lab.zoo import Model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edge_lab.data import ImageSet


@dataclass(frozen=True)
class Unstructured:
    """Set the weights of least magnitude to zero (Han et al. 2015). The network keeps its shape.

    Attributes:
        sparsity: share of the weights of convolutions and linear layers that becomes zero, between 0 and 1.
        scope: "global" ranks all weights together, so that layers with much to spare give more; "layer" takes the
            same share from each.
    """

    sparsity: float = 0.5
    scope: Literal["global", "layer"] = "global"

    def __post_init__(self) -> None:
        _check_share("Unstructured", "sparsity", self.sparsity)
        _check_choice("Unstructured", "scope", self.scope, ("global", "layer"))


@dataclass(frozen=True)
class Structured:
    """Remove whole channels, the least important ones of every layer, from every layer that shares them.

    Which channels must go together (a residual sum, a depthwise layer, the batch norm behind a convolution) is found
    by the dependency graph of torch-pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023).
    The shapes of the result depend on this config and on the architecture, not on the weights: a checkpoint of a
    pruned network therefore fits every `prune` of the same architecture with the same config.

    Attributes:
        ratio: share of each layer's output channels to remove, between 0 and 1. The layers that produce the
            model's output keep theirs.
        importance: "magnitude" ranks channels by the L2 norm of all weights that would go with them; "random" is
            the yardstick that a ranking has to beat (always the same channels).
        round_to: channels left are rounded to a multiple of this, at least one of it: kernels work on blocks.
        keep: names of layers (shell patterns, as in `model.module.named_modules()`) whose channels stay.
    """

    ratio: float = 0.5
    importance: Literal["magnitude", "random"] = "magnitude"
    round_to: int = 8
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_share("Structured", "ratio", self.ratio)
        _check_choice("Structured", "importance", self.importance, ("magnitude", "random"))
        if self.round_to < 1:
            raise InputError(
                f"Structured(round_to={self.round_to}) can't be used.",
                "the number of channels left is rounded to a multiple of it.",
                "use 8 for programs that run on a CPU, 1 for no rounding.",
            )


def prune(model: Model, config: Unstructured | Structured) -> Model:
    """A pruned copy of a model; the model passed in stays as it is.

    Args:
        model: float32, with convolutions or linear layers. Its spec says which input it takes.
        config: Unstructured() or Structured().

    Returns:
        A model in eval mode whose origin is None: no name builds it. To load it in another process, put
        `return prune(zoo.create(...), config)` into a function of a file and pass "FILE.py:FUNCTION" with the
        weights that `zoo.save` wrote.

    Raises:
        InputError: NaN in the weights, nothing that can be pruned, or a forward method that only works with the
            channels it was written for.
    """
    _check_weights(model)
    module = copy.deepcopy(model.module).eval()
    if isinstance(config, Unstructured):
        _zero_smallest(module, model.spec.name, config)
    else:
        _remove_channels(module, model, config)
    return Model(module.eval(), model.spec)


def finetune(
    model: Model,
    train: ImageSet,
    val: ImageSet,
    config: FitConfig | None = None,
    *,
    checkpoint: Path | str | None = None,
    progress: bool = True,
) -> FitResult:
    """Train a pruned model on: `edge_lab.train.fit`, except that weights that are zero stay zero.

    Arguments, checkpoints and errors are those of `fit`; a killed run goes on where it was. A model without zeros
    (after Structured) is simply trained.
    """
    from torch.nn.utils import parametrize

    module = copy.deepcopy(model.module)
    held = [layer for _, layer in weighted_layers(module) if bool((layer.weight == 0).any())]
    for layer in held:
        parametrize.register_parametrization(layer, "weight", _mask_of(layer.weight))
    result = fit(replace(model, module=module), train, val, config, checkpoint=checkpoint, progress=progress)
    for _, layer in list(weighted_layers(result.model.module)):
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return result


def sparsity(model: Model) -> float:
    """Share of zeros among the weights of all convolutions and linear layers, 0 to 1."""
    weights = [layer.weight for _, layer in weighted_layers(model.module)]
    zeros, total = sum(int((w == 0).sum()) for w in weights), sum(int(w.numel()) for w in weights)
    return zeros / max(1, total)


def _check_share(config: str, name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(
            f"{config}({name}={value}) can't be used.",
            f"{name} is the share that is taken away: more than 0, less than 1.",
            f"write {config}({name}=0.5) for one half.",
        )


def _check_choice(config: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(
            f"{config}({name}={value!r}) is not known.",
            f"{name} is one of {', '.join(map(repr, choices))}.",
            f"leave it out for {choices[0]!r}.",
        )


def _check_weights(model: Model) -> None:
    import torch

    if isinstance(model.module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
        raise InputError(
            f"{model.spec.name} is a {type(model.module).__name__}: a recorded graph, maybe a quantized one.",
            "its shapes are written into the graph, so that no layer of it can become narrower.",
            "prune the network it was made from, then record, quantize or export the result.",
        )
    for name, value in model.module.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise InputError(
                f"{model.spec.name} has {bad} numbers in {name} that are NaN or infinite.",
                "weights are ranked by size, and NaN has none; the network's answers are broken already.",
                "load a checkpoint from before the training went wrong, or train with a lower learning rate.",
            )


def weighted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every convolution and linear layer, shared ones once."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds))


def _mask_of(weight: torch.Tensor) -> nn.Module:
    from torch import Tensor, nn

    class ZerosStay(nn.Module):
        """Multiplies a weight by a fixed mask, so that no gradient reaches its zeros."""

        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", weight.detach() != 0)

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.mask

    return ZerosStay()


def _zero_smallest(module: nn.Module, name: str, config: Unstructured) -> None:
    from torch.nn.utils import prune as torch_prune

    layers = [layer for _, layer in weighted_layers(module)]
    if not layers:
        raise _nothing(name, "it has no convolution and no linear layer.")
    if config.scope == "global":
        pairs = [(layer, "weight") for layer in layers]
        torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=config.sparsity)  # type: ignore[no-untyped-call]
    for layer in layers:
        if config.scope == "layer":
            torch_prune.l1_unstructured(layer, "weight", config.sparsity)  # type: ignore[no-untyped-call]
        torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]  # keeps the zeros, drops the mask


def _remove_channels(module: nn.Module, model: Model, config: Structured) -> None:
    import torch

    name, shape = model.spec.name, model.spec.input.shape
    frozen = {key for key, p in module.named_parameters() if not p.requires_grad}
    module.requires_grad_(True)  # the dependency graph is read off autograd's
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layers = dict(weighted_layers(module))
    kept = _output_layers(module, x) | _named(layers, name, config.keep)
    free = {layer: _left(output_channels(layer), config) for layer in layers.values() if layer not in kept}
    if not free:
        raise _nothing(name, f"each of its {len(layers)} layers with weights makes the output, or is named in keep.")
    before, shapes = count_parameters(module), _shapes(module, x)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.enable_grad():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        pruner = _pruner(module, x, name, kept, free, config)
        try:
            pruner.step()
            after = _shapes(module, x)
        except Exception as error:
            raise _fixed_width(name, _reason(error)) from error
    if after != shapes:
        raise _fixed_width(name, f"its output would change from {shapes} to {after}.")
    if count_parameters(module) >= before:
        why = f"no layer is wide enough to lose {config.ratio:.0%} of its channels in steps of {config.round_to}."
        raise _nothing(name, why)
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(key not in frozen)
        parameter.grad = None


def _named(layers: dict[str, Any], name: str, patterns: tuple[str, ...]) -> set[Any]:
    for pattern in patterns:
        if not any(fnmatch(key, pattern) for key in layers):
            raise InputError(
                f"Structured(keep=...) names {pattern!r}; {name} has no such layer with weights.",
                f"its layers are {', '.join(list(layers)[:4])}{', ...' if len(layers) > 4 else ''}.",
                "write a name as model.module.named_modules() gives it, or a pattern such as 'features.1.*'.",
            )
    return {layer for key, layer in layers.items() if any(fnmatch(key, pattern) for pattern in patterns)}


def _pruner(
    module: nn.Module, x: torch.Tensor, name: str, kept: set[Any], free: dict[Any, int], config: Structured
) -> Any:
    import torch_pruning

    ranking: Any = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    if config.importance == "random":
        ranking = torch_pruning.importance.RandomImportance()
    # torch-pruning truncates (1 - ratio) * channels: the 0.01 keeps a whole number from falling to the one below
    ratios = {
        layer: 1 - (left + 0.01) / output_channels(layer)
        for layer, left in free.items()
        if left < output_channels(layer)
    }
    unchanged = [layer for layer, left in free.items() if left == output_channels(layer)]
    try:
        return torch_pruning.pruner.MagnitudePruner(
            module,
            (x,),  # a bare tensor would be unpacked into its rows, and the network traced without a batch
            importance=ranking,
            pruning_ratio=config.ratio,
            pruning_ratio_dict=ratios,
            ignored_layers=[*kept, *unchanged],
        )
    except Exception as error:
        raise InputError(
            f"torch-pruning can't find out which channels of {name} belong together.",
            _reason(error),
            "prune the part of it that is plain layers (its backbone, say) as a model of its own, or use Unstructured.",
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def _output_layers(module: nn.Module, x: torch.Tensor) -> set[Any]:
    """The layers between which and the model's output no other layer with weights stands."""
    import torch

    made: dict[Any, Any] = {}  # node of autograd's graph -> the layer whose output it computes
    hooks = [
        layer.register_forward_hook(lambda layer, _, out: made.__setitem__(out.grad_fn, layer))
        for _, layer in weighted_layers(module)
    ]
    try:
        with torch.enable_grad():
            todo = [tensor.grad_fn for tensor in _tensors(module(x))]
    finally:
        for hook in hooks:
            hook.remove()
    found, seen = set(), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made:
            found.add(made[node])
        else:
            todo += [parent for parent, _ in node.next_functions]
    return found


def _tensors(output: Any) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(output) if hasattr(leaf, "grad_fn")]


def _shapes(module: nn.Module, x: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    import torch

    with torch.no_grad():
        return tuple(tuple(tensor.shape) for tensor in _tensors(module(x)))


def _left(channels: int, config: Structured) -> int:
    """Channels that stay: the share, rounded to the nearest multiple (a half up), at least one multiple of it."""
    steps = int(channels * (1 - config.ratio) / config.round_to + 0.5)
    return min(channels, max(1, steps) * config.round_to)


def output_channels(layer: Any) -> int:
    """How many channels (or features) a convolution or linear layer puts out."""
    return int(getattr(layer, "out_features", 0) or layer.out_channels)


def count_parameters(module: nn.Module) -> int:
    """Numbers that training can change, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def _nothing(name: str, why: str) -> InputError:
    return InputError(
        f"nothing in {name} can be pruned.", why, "prune a network with hidden convolutions or linear layers."
    )


def _fixed_width(name: str, why: str) -> InputError:
    return InputError(
        f"{name} does not work with fewer channels.",
        f"{why} (A reshape, an attention head or a slice in its forward method counts on a fixed number.)",
        "name the layers before it in Structured(keep=(...,)), write the shape as x.shape[...] instead of a number, "
        "or use Unstructured.",
    )
