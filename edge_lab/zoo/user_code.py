"""Models from the reader's own file: "my_model.py:build"."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge_lab.bundle.spec import ModelSpec
from edge_lab.core.errors import InputError
from edge_lab.core.raised import last_line
from edge_lab.zoo.model import Model, Shape, from_module, join_origin
from edge_lab.zoo.weights import load_into, read_checkpoint, seeded

if TYPE_CHECKING:
    from torch import nn


def is_file_name(name: str) -> bool:
    """True for "PATH.py:FUNCTION" (also when the file does not exist)."""
    path, colon, function = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and function.isidentifier()


def from_file(name: str, *, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """Load FILE.py, call FUNCTION() with torch seeded, and wrap what it returns (an nn.Module, or a Model).

    The file's folder is added to the end of sys.path, so that it can import its neighbours.

    Raises:
        InputError: no such file or function, it raises, it returns something else, or input_shape is missing.
    """
    path_text, _, function = name.rpartition(":")
    path = Path(path_text).expanduser().resolve()
    built = seeded(lambda: _call(_execute(path), path, function))
    from torch import nn

    trained_on, kept = "user", None
    module = built.module if isinstance(built, Model) else built
    if weights != "default" and isinstance(module, nn.Module):
        trained_on, kept = _load(module, f"{path.name}:{function}", weights), weights
    origin = join_origin(f"{path}:{function}", weights=kept, labels=labels, input_shape=input_shape)
    if isinstance(built, Model):
        adjusted = _adjusted(built, labels, input_shape, origin)
        return adjusted if kept is None else replace(adjusted, spec=adjusted.spec.with_(weights=trained_on))

    if not isinstance(built, nn.Module):
        raise InputError(
            f"{path.name}:{function} returned a {type(built).__name__}.",
            "a model function returns a torch.nn.Module, or an edge_lab.zoo.Model made by from_module.",
            f"end {function} with `return network`.",
        )
    if input_shape is None:
        raise InputError(
            f"the input shape of {path.name}:{function} is not known.",
            "a module does not say what it takes, and programs are exported for one shape.",
            "say it: --input 1x3x224x224, or zoo.create(..., input_shape=(1, 3, 224, 224)).",
        )
    return from_module(built, input_shape, name=path.stem, labels=labels or (), weights=trained_on, origin=origin)


def _load(module: nn.Module, name: str, weights: str) -> str:
    if weights in ("imagenet", "random"):
        raise InputError(
            f"weights={weights!r} does not go with {name}.",
            "the function in the file builds the network together with its weights.",
            "leave weights out, or pass the path of a checkpoint.",
        )
    checkpoint = read_checkpoint(Path(weights))
    load_into(module, checkpoint, weights)
    return checkpoint.weights


def _execute(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(
            f"there is no file {path}.",
            "a model name that ends in .py:FUNCTION names a Python file.",
            "check the path; it is relative to the folder you are in.",
        )
    # A name of its own in sys.modules: inspect (TorchScript) and pickle look classes up there.
    module_name = f"edge_lab_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    previous = sys.modules.get(module_name)
    if previous is not None and vars(previous).get("_edge_lab_sha256") == content:
        return previous  # executing it again would make new classes, and pickle would not know the old ones
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018  (the suffix is .py)
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module_name)
        if previous is not None:
            sys.modules[module_name] = previous
        raise InputError(
            f"{path.name} could not be imported.",
            last_line(error, str(path)),
            f"make `python {path}` run without an error first.",
        ) from error
    vars(module)["_edge_lab_sha256"] = content
    return module


def _call(module: ModuleType, path: Path, function: str) -> Any:
    build = getattr(module, function, None)
    if not callable(build):
        here = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise InputError(
            f"{path.name} has no function {function!r}.",
            f"it defines {', '.join(sorted(here)) or 'no function or class'}.",
            f"write the name of the function that returns the network: {path.name}:NAME.",
        )
    try:
        return build()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{path.name}:{function}() failed.",
            last_line(error, str(path)),
            "it is called without arguments and must return a torch.nn.Module.",
        ) from error


def _adjusted(model: Model, labels: tuple[str, ...] | None, input_shape: Shape | None, origin: str) -> Model:
    """The reader's own Model, with the labels or shape of the call where they differ."""
    spec: ModelSpec = model.spec
    if input_shape is not None and input_shape != spec.input.shape:
        raise InputError(
            f"the model says it takes {spec.input.shape}, the call says {input_shape}.",
            "the function returned a Model whose spec already has an input shape.",
            "leave the input shape out, or change it in the file.",
        )
    if labels:
        spec = spec.with_(labels=labels)
    return Model(model.module.eval(), spec, origin)
