"""Where weights come from: a checkpoint on disk, or a fixed seed. Nothing here ever unpickles code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edge_lab.errors import DataError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

_NESTED = ("model", "state_dict", "model_state_dict")  # where training scripts put the tensors


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what the file says about them (`weights`: what they were trained on)."""

    tensors: dict[str, Tensor]
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
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = _tensors(content, path)
    labels = meta.get("labels", ())
    known = isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    trained_on = meta.get("weights")
    return Checkpoint(tensors, trained_on if isinstance(trained_on, str) else "user", tuple(labels) if known else ())


def _read(path: Path) -> Any:
    import torch

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


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(k).removeprefix("module."): v for k, v in named if isinstance(v, torch.Tensor)}
    if not tensors:
        raise DataError(
            f"{path} holds no weights.",
            f"it is a {type(content).__name__} without tensors by name.",
            "save them with torch.save(network.state_dict(), path).",
        )
    return tensors


def load_into(module: nn.Module, checkpoint: Checkpoint, source: str) -> None:
    """Copy a checkpoint's tensors into a network; every name and shape must match, or DataError names them."""
    target, given = module.state_dict(), checkpoint.tensors
    optional = {k for k in target if k.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(set(target) - set(given) - optional),
        "unexpected": sorted(set(given) - set(target)),
        "another shape": sorted(
            f"{k} {tuple(given[k].shape)} instead of {tuple(target[k].shape)}"
            for k in set(target) & set(given)
            if target[k].shape != given[k].shape
        ),
    }
    if any(problems.values()):
        listed = (
            f"{label}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            for label, keys in problems.items()
            if keys
        )
        raise DataError(
            f"the weights in {source} do not fit this network.",
            "; ".join(listed) + ".",
            "use the checkpoint of the same architecture; labels set the number of outputs.",
        )
    module.load_state_dict(given, strict=False)
