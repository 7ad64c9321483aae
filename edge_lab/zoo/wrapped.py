"""The network inside of what was wrapped around it for training, and what can't be taken at all. Needs torch."""

from __future__ import annotations

import torch
from torch import nn

from edge_lab.errors import InputError


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
