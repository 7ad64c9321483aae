"""The models that have a name, and `create`, which also takes names of other places."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edge_lab.core.errors import InputError
from edge_lab.zoo.model import Builder, Model, check_shape, join_origin, split_origin
from edge_lab.zoo.user_code import from_file, is_file_name

_BUILDERS: dict[str, Builder] = {}
_SOURCES = ("default", "imagenet", "random")


def register(builder: Builder) -> Builder:
    """Decorator: add a function to the zoo under its own name.

    The function takes the keyword arguments `weights: str`, `labels: tuple[str, ...] | None` and
    `input_shape: tuple[int, ...] | None` and returns a Model; `create` fills in its origin.
    """
    if builder.__name__ in _BUILDERS and _BUILDERS[builder.__name__].__module__ != builder.__module__:
        raise InputError(
            f"two models are called {builder.__name__!r}.",
            f"{_BUILDERS[builder.__name__].__module__} and {builder.__module__} both register it.",
            "rename one of the functions.",
        )
    _BUILDERS[builder.__name__] = builder
    return builder


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern such as "mobile*", in natural order (net2 before net10)."""
    return sorted(fnmatch.filter(_BUILDERS, pattern), key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def create(
    name: str,
    *,
    weights: str = "default",
    labels: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
) -> Model:
    """Build a model by name.

    Args:
        name: a registered name (`list_models()`), "torchvision:NAME", "timm:NAME", or "PATH.py:FUNCTION". Options
            may follow: "resnet18?weights=random&input=1x3x96x96&labels=cat,dog" (arguments of the call win).
        weights: "default" (ImageNet where they can be had; otherwise random, with a warning), "imagenet" (an error
            if they can't be had), "random" (the same numbers every time), or the path of a checkpoint (.pt, .pth,
            .safetensors). A file of yours brings its own weights ("default") or takes a checkpoint.
        labels: class names. With random weights or a checkpoint they also set the number of outputs.
        input_shape: (N, C, H, W), if not the model's usual one.

    Raises:
        InputError: unknown name, or arguments that don't fit.
        DataError: weights that are missing, damaged, refused, or of another architecture.
    """
    base, options = split_origin(name)
    weights = options.get("weights", "default") if weights == "default" else weights
    labels = tuple(labels) if labels is not None else options.get("labels")
    shape = check_shape(input_shape) if input_shape is not None else options.get("input_shape")
    if is_file_name(base):
        return from_file(base, weights=_absolute(weights), labels=labels, input_shape=shape)
    builder = _find(base)
    model = builder(weights=weights, labels=labels, input_shape=shape)
    known = None if weights == "default" and model.spec.weights != "random" else model.spec.weights
    kept = known if weights in _SOURCES else _absolute(weights)
    return Model(model.module.eval(), model.spec, join_origin(base, weights=kept, labels=labels, input_shape=shape))


def _absolute(weights: str) -> str:
    return weights if weights in _SOURCES else str(Path(weights).expanduser().resolve())


def _find(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    place, _, rest = name.partition(":")
    if place in ("torchvision", "timm") and rest:
        from edge_lab.zoo import hubs

        return partial(hubs.from_torchvision if place == "torchvision" else hubs.from_timm, rest)
    near = difflib.get_close_matches(name, _BUILDERS, n=1)
    raise InputError(
        f"there is no model called {name!r}.",
        f"the zoo has {', '.join(list_models())}." + (f" Did you mean {near[0]!r}?" if near else ""),
        'use one of these, "torchvision:NAME", "timm:NAME", or a file of yours: "my_model.py:build".',
    )
