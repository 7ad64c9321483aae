"""A model and its spec, and how to wrap any `torch.nn.Module` as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from edge_lab.bundle.spec import ModelSpec, Preprocess, Task, TensorSpec
from edge_lab.core.errors import InputError
from edge_lab.core.raised import last_line

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_OPTIONS = ("weights", "input", "labels")


@dataclass(frozen=True, eq=False)
class Model:
    """A network in eval mode, and everything around its forward call.

    `origin` is a string that `zoo.create` turns into the same model in another process, such as
    "efficientnet_lite0" or "/home/me/my_model.py:build?input=1x3x224x224"; None if the model only lives here.
    """

    module: nn.Module = field(repr=False)
    spec: ModelSpec
    origin: str | None = None


def from_module(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    name: str | None = None,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] = (),
    task: Task | None = None,
    weights: str = "user",
    origin: str | None = None,
) -> Model:
    """Wrap your own network. It is switched to eval mode and called with float32 noise until it answers twice alike.

    What was put around it for training (torch.compile, DataParallel, AveragedModel) is taken off.

    Args:
        module: takes one float32 tensor of `input_shape`.
        input_shape: with the batch first, e.g. (1, 3, 224, 224). Programs are exported for this shape.
        name: of the model and its folder; default: the class name in lower case.
        preprocess: from an image to the input. Default for inputs (N, 3, H >= 32, W >= 32): what torchvision's
            ImageNet classifiers use (pixel/255, ImageNet mean and std, bilinear resize to max(H, W)/0.875, centre
            crop). If your network was trained with anything else, pass it: wrong preprocessing gives wrong
            answers and no error.
        labels: class names in output order.
        task: default: read off the output. (N, K) is "classify", {"out": ...} or (N, K, h, w) with K other than
            1 and 3 is "segment", [{"boxes": ...}] is "detect", the rest "tensor". Pass task="tensor" for a network
            that takes a ready tensor: it then gets no image preprocessing.
        weights: what the spec says about where the weights come from.
        origin: see Model.

    Raises:
        InputError: not a module, or TorchScript or an exported graph; unusable shape; the forward call fails; the
            answers to equal inputs differ; or labels don't fit the output.
    """
    from edge_lab.zoo.wrapped import unwrapped

    module = unwrapped(module)
    shape = check_shape(input_shape)
    assumed = ""
    image_like = len(shape) == 4 and shape[:2] == (1, 3) and min(shape[2:]) >= 32
    if preprocess is None and image_like and task in (None, "classify", "segment", "detect"):
        preprocess, assumed = _imagenet(shape)
    elif preprocess is not None and shape[0] != 1:
        raise InputError(
            f"a preprocessing was given to a network that takes a batch of {shape[0]}.",
            "one picture becomes a batch of 1, on every device.",
            "leave preprocess out, and stack ready tensors in the app; or use an input shape with a batch of 1.",
        )
    output = _trial_forward(module, shape)
    task = task or (_task_of(output) if preprocess else "tensor")
    labels = tuple(labels)
    if labels and task == "classify" and output.shape[-1] != len(labels):
        raise InputError(
            f"{len(labels)} labels were given, the network has {output.shape[-1]} outputs.",
            "labels are class names in output order, one per output.",
            "pass the list of class names the network was trained with.",
        )
    spec = ModelSpec(
        name=name or type(module).__name__.lower(),
        task=task,
        input=TensorSpec("image" if preprocess else "input", shape, layout="NCHW" if len(shape) == 4 else "N..."),
        preprocess=preprocess,
        labels=labels,
        weights=weights,
        assumed=assumed,
    )
    return Model(module, spec, origin)


def _imagenet(shape: Shape) -> tuple[Preprocess, str]:
    """The preprocessing of torchvision's ImageNet classifiers, and a sentence that says so."""
    height, width = shape[2:]
    recipe = Preprocess(round(max(height, width) / 0.875), (height, width), IMAGENET_MEAN, IMAGENET_STD)
    return recipe, said(recipe, "ImageNet's", "pass from_module(preprocess=...) if the network was trained otherwise")


def said(recipe: Preprocess, whose: str, fix: str) -> str:
    """What `ModelSpec.assumed` says of a recipe."""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (recipe.mean, recipe.std))
    size = f"resize {recipe.resize} {recipe.interpolation}, crop {recipe.crop[0]}x{recipe.crop[1]}"
    scale = "pixel/255" if recipe.scale == 1 / 255 else f"pixel*{recipe.scale:g}"
    return f"assumed to be {whose} ({scale}, mean {mean}, std {std}, {size}); {fix}"


def check_shape(shape: Sequence[int]) -> Shape:
    """A shape as a tuple of positive ints with at least two dimensions; raise InputError otherwise."""
    try:
        result = tuple(int(n) for n in shape)
    except (TypeError, ValueError):
        result = ()
    if len(result) < 2 or min(result) < 1:
        raise InputError(
            f"input shape {shape!r} is unusable.",
            "a shape is the batch and at least one more dimension, all positive whole numbers.",
            "for one RGB image of 224x224 pass (1, 3, 224, 224); on the command line --input 1x3x224x224.",
        )
    return result


def _trial_forward(module: nn.Module, shape: Shape) -> Any:
    import torch

    from edge_lab.zoo.steady import readable, settle

    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        return readable(settle(module, noise))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{type(module).__name__} can't be called with a float32 tensor of shape {shape}.",
            last_line(error),
            _way_in(module, shape),
        ) from error


def _way_in(module: nn.Module, shape: Shape) -> str:
    """What helps a network that does not take a float32 tensor of this shape."""
    import torch

    from edge_lab.zoo.steady import calling

    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    if len(needed) != 1:
        return (
            f"it takes {len(needed)} inputs ({', '.join(needed)}): wrap it in a module that takes one tensor, splits "
            "it and calls the network."
        )
    others = {str(p.dtype)[6:] for p in module.parameters() if p.is_floating_point()} - {"float32"}
    if others:
        return f"its weights are {', '.join(sorted(others))}: network.float() makes them float32."
    try:
        with calling():
            module(torch.zeros(shape, dtype=torch.int64))
    except Exception:  # whatever the forward method raises: it is not a matter of the type
        return (
            "pass the input shape it was written for; if it takes more than one tensor, wrap it in a module that takes "
            "one and splits it."
        )
    return (
        f'it takes integers: describe it yourself, Model(network.eval(), ModelSpec("text", "tensor", TensorSpec("ids", '
        f'{shape}, "int64"))), and pass real ones: edge_lab.to(model, target, golden=[...]).'
    )


def _task_of(output: Any) -> Task:
    import torch

    if isinstance(output, dict) and isinstance(output.get("out"), torch.Tensor):
        return "segment"
    if isinstance(output, list) and output and isinstance(output[0], dict) and "boxes" in output[0]:
        return "detect"
    if isinstance(output, torch.Tensor) and output.ndim == 2:
        return "classify"
    if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[1] not in (1, 3):
        return "segment"
    return "tensor"


def split_origin(name: str) -> tuple[str, dict[str, Any]]:
    """Split "NAME?weights=random&input=1x3x32x32&labels=a,b" into NAME and arguments of `create`."""
    base, _, query = name.partition("?")
    values = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := set(values) - set(_OPTIONS):
        raise InputError(
            f"model {name!r} has an unknown option {sorted(unknown)[0]!r}.",
            f"after '?' come {', '.join(_OPTIONS)}, joined by '&'.",
            'write for example "resnet18?weights=random&input=1x3x96x96".',
        )
    options: dict[str, Any] = {}
    if "weights" in values:
        options["weights"] = values["weights"]
    if "input" in values:
        options["input_shape"] = check_shape(values["input"].lower().split("x"))  # type: ignore[arg-type]
    if "labels" in values:
        from urllib.parse import unquote

        options["labels"] = tuple(unquote(label) for label in values["labels"].split(","))
    return base, options


def join_origin(
    base: str, *, weights: str | None = None, labels: Sequence[str] | None = None, input_shape: Shape | None = None
) -> str:
    """The inverse of `split_origin`; options that are None are left out."""
    values = {
        "weights": weights,
        "input": "x".join(map(str, input_shape)) if input_shape else None,
        "labels": ",".join(quote(label, safe=" ") for label in labels) if labels else None,
    }
    query = urlencode({k: v for k, v in values.items() if v is not None}, safe="/:, ", quote_via=quote)
    return f"{base}?{query}" if query else base


Builder = Callable[..., Model]
