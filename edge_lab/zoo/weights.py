"""Where weights come from: a checkpoint on disk, or a fixed seed. Nothing here ever unpickles code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edge_lab.core.errors import DataError, InputError
from edge_lab.zoo.kinds import kind_of
from edge_lab.zoo.matching import TensorSet, matched, tensor_sets

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """The dicts of tensors in a file, and what it says about them (`weights`: what they were trained on)."""

    sets: list[TensorSet]
    weights: str
    labels: tuple[str, ...]


def fill(build: Callable[[], nn.Module], weights: str) -> tuple[nn.Module, str]:
    """Build a network with seeded random weights ("random") or those of a checkpoint (a path).

    Returns:
        The network, and what its spec says about the weights.
    """
    module = seeded(build)
    if weights == "random":
        return module, "random"
    checkpoint = read_checkpoint(Path(weights).expanduser())
    load_into(module, checkpoint, weights)
    return module, checkpoint.weights


def seeded(build: Callable[[], T]) -> T:
    """Run a constructor with seed 0, so that random weights are the same in every process."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read .safetensors, .pt or .pth (weights_only: a pickle that would run code is refused).

    Raises:
        InputError: no such file. DataError: unreadable, holds code, or holds no tensors.
    """
    if not path.is_file():
        raise InputError(
            f"there are no weights at {path}.",
            'weights is "default", "imagenet", "random" or the path of a checkpoint.',
            "check the path.",
        )
    content = _read(path)
    meta: dict[str, Any] = content if isinstance(content, dict) else {}
    sets = tensor_sets(content)
    if not sets:
        raise DataError(
            f"{path} holds no weights.",
            f"it is a {type(content).__name__} without tensors by name.",
            "save them with torch.save(network.state_dict(), path).",
        )
    _refuse_strange(path, sets)
    labels = meta.get("labels", ())
    known = isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    trained_on = meta.get("weights")
    return Checkpoint(sets, trained_on if isinstance(trained_on, str) else "user", tuple(labels) if known else ())


def _read(path: Path) -> Any:
    import torch

    known = kind_of(path)
    if known is not None:
        raise DataError(f"{path} is not a checkpoint.", *known)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not (asked := _code_in(path, str(error))):
            raise _damaged(path, error) from error
        raise DataError(
            f"{path} was refused.",
            f"it is a pickle that runs code when it is opened ({asked}), not a plain set of tensors.",
            "save the tensors only: torch.save(network.state_dict(), path), or use .safetensors.",
        ) from None
    except Exception as error:
        raise _damaged(path, error) from error


def _refuse_strange(path: Path, sets: list[TensorSet]) -> None:
    """DataError for tensors that hold no plain numbers: a copy of them would fail, or be something else."""
    import torch

    for found in sets:
        for name, tensor in found.tensors.items():
            if tensor.is_meta:
                kind, fix = "has no numbers: it is on the device meta", "save it after the weights were made or loaded."
            elif tensor.is_quantized:
                kind, fix = f"is quantized ({tensor.dtype})", "save the float network; `to` quantizes it."
            elif tensor.layout != torch.strided:
                kind, fix = f"is sparse ({tensor.layout})", f"save {name}.to_dense()."
            else:
                continue
            raise DataError(f"{path} has a tensor that can't be loaded.", f"{name} {kind}.", fix)


def _code_in(path: Path, message: str) -> str:
    """What the pickle would call, "" if it is no pickle with calls in it. Reads its opcodes, never runs them."""
    import pickletools
    import re

    if found := re.search(r"GLOBAL (\S+)", message):
        return found[1]
    names: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file.read(1 << 20)):
                if "UNICODE" in opcode.name:
                    names.append(str(argument))
                elif "GLOBAL" in opcode.name:
                    return str(argument or ".".join(names[-2:])).replace(" ", ".")
    except ValueError:
        pass  # not a pickle, or a cut-off one
    return ""


def _damaged(path: Path, error: Exception) -> DataError:
    text = str(error).strip().splitlines()
    return DataError(
        f"{path} could not be read as a checkpoint.",
        f"{type(error).__name__}: {text[0][:200] if text else 'no message'}",
        "the file is cut off or of another format; copy or download it again.",
    )


def load_into(module: nn.Module, checkpoint: Checkpoint, source: str) -> None:
    """Copy a checkpoint's tensors into a network; every name and shape must match, or DataError names them.

    What wrappers put around the names is left out: see `edge_lab.zoo.matching`.
    """
    own = module.state_dict()
    tensors = matched(own, checkpoint.sets, source)
    for name, tensor in tensors.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise DataError(
                f"{source} does not hold the network's numbers.",
                f"{name} is {str(tensor.dtype).removeprefix('torch.')} there, and {own[name].numel()} floats here.",
                "integers mean nothing without their scales: save the float network's state_dict().",
            )
    module.load_state_dict(tensors, strict=False)
