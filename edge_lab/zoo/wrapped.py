"""The network inside of what was wrapped around it for training, and what can't be taken at all. Needs torch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edge_lab.core.errors import InputError


def unwrapped(module: nn.Module) -> nn.Module:
    """A network in eval mode, without DataParallel, DistributedDataParallel, AveragedModel or torch.compile around it.

    None of these changes the answer of a single process, and exporters trip over some.

    Raises:
        InputError: not a module, TorchScript, or the graph of an exported program.
    """
    if not isinstance(module, nn.Module):
        raise InputError(
            f"from_module got a {type(module).__name__}, not a torch.nn.Module.",
            "only modules can be traced and exported.",
            "pass the network itself; wrap a function in a small nn.Module with a forward method.",
        )
    around = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while isinstance(module, around) or "_orig_mod" in module._modules:
        module = module.module if isinstance(module, around) else module._orig_mod  # type: ignore[assignment]
    _refuse_script(module)
    try:
        return module.eval()
    except NotImplementedError as error:  # torch.export forbids it
        raise InputError(
            f"{type(module).__name__} is the graph of an exported program, not the network.",
            "torch.export fixed its mode: eval() can't be called on it, and it can't be exported once more.",
            "pass the nn.Module that it was exported from.",
        ) from error


def _refuse_script(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = f"the part {name!r} of {type(module).__name__}" if name else "the network"
            kind = getattr(part, "original_name", type(part).__name__)
            raise InputError(
                f"{what} is TorchScript (of {kind}).",
                "TorchScript is a finished program: its Python code is gone, and no other format is made of it.",
                "pass the original nn.Module, before torch.jit.script or torch.jit.trace; its weights are in "
                "state_dict().",
            )


def with_plain_weights(module: nn.Module) -> nn.Module:
    """The network with weights that are numbers, where they are computed in each call (weight_norm, pruning masks).

    Converters would take them for activations: no norm is folded into them, and int8 does not know their range. The
    module itself if there is nothing to do, else a copy; it has to have been called once without gradients.
    """
    if not any(parametrize.is_parametrized(part) or _hooks(part) for part in module.modules()):
        return module
    plain = copy.deepcopy(module)
    for part in plain.modules():
        if parametrize.is_parametrized(part):
            weights = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
            part.__class__ = parametrize.type_before_parametrizations(part)  # type: ignore[assignment]
            del part.parametrizations  # not by remove_parametrizations: it empties the class, which both copies have
            for name, weight in weights.items():
                part.register_parameter(name, nn.Parameter(weight))
        for key, hook in _hooks(part).items():
            hook.remove(part)
            del part._forward_pre_hooks[key]
    return plain


def _hooks(part: nn.Module) -> dict[int, Any]:
    """Hooks of the older functions, which compute a weight before each call: weight_norm, spectral_norm, prune."""
    kinds = (WeightNorm, SpectralNorm, BasePruningMethod)
    return {key: hook for key, hook in part._forward_pre_hooks.items() if isinstance(hook, kinds)}
