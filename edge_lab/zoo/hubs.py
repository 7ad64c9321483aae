"""Any classifier, segmenter or detector of torchvision ("torchvision:NAME"), any classifier of timm ("timm:NAME")."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lab.bundle.spec import Preprocess, Task
from edge_lab.core.errors import DataError, EdgeLabError, InputError
from edge_lab.core.files import sha256
from edge_lab.zoo.model import Model, Shape, from_module, said
from edge_lab.zoo.weights import fill

if TYPE_CHECKING:
    from torch import nn

_TASKS: dict[str, Task] = {
    "ImageClassification": "classify",
    "SemanticSegmentation": "segment",
    "ObjectDetection": "detect",
}


def from_torchvision(name: str, *, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """Build a torchvision model; preprocessing and labels come from its weights' own metadata.

    Segmentation networks take 520x520 unless `input_shape` says otherwise, detectors the size in their name or
    640x640; a picture is resized and centre-cropped to it.

    Raises:
        InputError: no such model, or not one that takes a picture. DataError: weights can't be had.
    """
    from torchvision import models

    entry, guessed = _recipe_entry(_torchvision_entry(name), weights)
    recipe = entry.transforms()
    task = _TASKS[type(recipe).__name__]
    shape, preprocess = _torchvision_input(name, recipe, input_shape)
    categories = tuple(entry.meta["categories"])
    arguments: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        arguments["weights_backbone"] = None  # its default is a download

    def pretrained(attempts: int) -> nn.Module:
        _check_labels(name, labels, len(categories))
        _fetch_torchvision(entry.url, attempts)
        with _no_pickles():
            return models.get_model(name, weights=entry)  # type: ignore[no-any-return]

    def blank() -> nn.Module:
        return models.get_model(name, weights=None, num_classes=len(labels or categories), **arguments)  # type: ignore[no-any-return]

    module, weights = _choose(f"torchvision:{name}", weights, pretrained, blank)
    model = from_module(
        module, shape, name=name, preprocess=preprocess, labels=labels or categories, task=task, weights=weights
    )
    source = entry.url if weights == "imagenet" else ""
    assumed = said(preprocess, f"that of torchvision's {entry}", _OTHERWISE) if guessed else ""
    return Model(module, model.spec.with_(source=source, licence="BSD-3-Clause", assumed=assumed))


_OTHERWISE = "model.spec.with_(preprocess=...) if these weights were trained otherwise"


def _recipe_entry(default: Any, weights: str) -> tuple[Any, bool]:
    """The entry whose preprocessing goes with the weights, and whether that is a guess.

    A recipe belongs to weights: torchvision's own file is known by the SHA-256 prefix in its name, under any name. A
    checkpoint of the reader's gets the default one, and that is said.
    """
    if weights in ("default", "imagenet", "random") or not Path(weights).expanduser().is_file():
        return default, False
    digest = sha256(Path(weights).expanduser())
    for entry in type(default):
        prefix = re.search(r"[-_]([0-9a-f]{8,64})\.pth$", entry.url)
        if prefix and digest.startswith(prefix[1]):
            return entry, False
    return default, True


def from_timm(name: str, *, weights: str, labels: tuple[str, ...] | None, input_shape: Shape | None) -> Model:
    """Build a timm model; size, mean, std and interpolation come from its pretrained_cfg.

    Raises:
        InputError: no such model. DataError: weights can't be had.
    """
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        near = timm.list_models(f"*{name[:12]}*")[:3]
        raise InputError(
            f"timm has no model called {name!r}.",
            f"its names are listed by timm.list_models(){'; near: ' + ', '.join(near) if near else ''}.",
            "check the spelling, for example timm:mobilenetv4_conv_small.",
        )
    shape = input_shape or (1, *config.input_size)
    arguments: dict[str, Any] = (
        {"img_size": shape[2:]} if config.fixed_input_size and shape[1:] != config.input_size else {}
    )
    classes = config.num_classes

    def pretrained(attempts: int) -> nn.Module:
        _check_labels(name, labels, classes)
        overlay = {"file": str(_fetch_timm(config, attempts)), "custom_load": False}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)  # type: ignore[no-any-return]

    def blank() -> nn.Module:
        return timm.create_model(name, pretrained=False, num_classes=len(labels or ()) or classes, **arguments)  # type: ignore[no-any-return]

    module, weights = _choose(f"timm:{name}", weights, pretrained, blank)
    crop = (shape[2], shape[3])
    preprocess = Preprocess(
        resize=int(max(crop) / config.crop_pct),
        crop=crop,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
    )
    if not labels and classes == 1000:
        from edge_lab.zoo.labels import imagenet_labels

        labels = imagenet_labels()
    model = from_module(
        module, shape, name=name, preprocess=preprocess, labels=labels or (), task="classify", weights=weights
    )
    source = f"https://huggingface.co/{config.hf_hub_id}" if weights == "imagenet" else ""
    strange = config.crop_mode != "center" or config.interpolation not in ("bilinear", "bicubic")
    theirs = f"near timm's (crop_mode {config.crop_mode}, {config.interpolation}, which can't be said here), namely"
    whose = theirs if strange else f"that of timm's {name}"
    guessed = strange or weights not in ("imagenet", "random")
    assumed = said(preprocess, whose, _OTHERWISE) if guessed else ""
    return Model(module, model.spec.with_(source=source, licence=config.license or "", assumed=assumed))


def _choose(
    name: str, weights: str, pretrained: Callable[[int], nn.Module], blank: Callable[[], nn.Module]
) -> tuple[nn.Module, str]:
    if weights not in ("default", "imagenet"):
        return fill(blank, weights)
    try:
        return pretrained(4 if weights == "imagenet" else 1), "imagenet"
    except EdgeLabError as error:
        if weights == "imagenet" or isinstance(error, InputError):
            raise
        warnings.warn(
            f"{name}: no pretrained weights here ({error.why.rstrip('.')}); it is UNTRAINED, its answers mean nothing.",
            stacklevel=5,
        )
    return fill(blank, "random")


def _check_labels(name: str, labels: tuple[str, ...] | None, outputs: int) -> None:
    if labels is not None and len(labels) != outputs:
        raise InputError(
            f"{len(labels)} labels do not fit {name} with pretrained weights.",
            f"they end in {outputs} outputs.",
            'leave labels out, or pass weights="random" for an untrained network with that many outputs.',
        )


def _torchvision_entry(name: str) -> Any:
    from torchvision import models

    try:
        entry = models.get_model_weights(name).DEFAULT
    except ValueError:
        import difflib

        near = difflib.get_close_matches(name, models.list_models(), n=3)
        raise InputError(
            f"torchvision has no model called {name!r}.",
            f"its names are listed by torchvision.models.list_models(){'; near: ' + ', '.join(near) if near else ''}.",
            "check the spelling, for example torchvision:mobilenet_v3_small.",
        ) from None
    if name.startswith("quantized_") or type(entry.transforms()).__name__ not in _TASKS:
        raise InputError(
            f"torchvision:{name} is not a float model that takes one picture.",
            "only classification, segmentation and detection models in fp32 have one image as their input.",
            "for a quantized model take the float one and a target such as android-xnnpack-int8; wrap anything else "
            "in a file of yours: my_model.py:build.",
        )
    return entry


def _torchvision_input(name: str, recipe: Any, input_shape: Shape | None) -> tuple[Shape, Preprocess]:
    digits = re.search(r"(300|320)", name)
    resize = getattr(recipe, "resize_size", None) or [int(digits.group()) if digits else 640]
    crop = getattr(recipe, "crop_size", None) or resize
    shape = input_shape or (1, 3, crop[0], crop[0])
    detector = type(recipe).__name__ == "ObjectDetection"  # normalises inside
    return shape, Preprocess(
        resize=round(max(shape[2:]) * resize[0] / crop[0]),
        crop=(shape[2], shape[3]),
        mean=(0.0,) * 3 if detector else tuple(recipe.mean),
        std=(1.0,) * 3 if detector else tuple(recipe.std),
        interpolation="bilinear" if detector or recipe.interpolation.value == "bilinear" else "bicubic",
    )


def _fetch_torchvision(url: str, attempts: int) -> None:
    """Put the weights where torch.hub looks for them, checked against the SHA-256 prefix in their name."""
    import torch

    from edge_lab.data.download import fetch

    prefix = re.search(r"[-_]([0-9a-f]{8,64})\.pth$", url)
    if prefix is None:
        raise DataError(
            f"{url} can't be checked.",
            "its name does not end in a SHA-256 prefix, as torchvision's do.",
            'download it yourself and pass weights="PATH".',
        )

    def check(path: Path) -> str:
        found = sha256(path)
        return "" if found.startswith(prefix[1]) else f"its sha256 is {found}, expected {prefix[1]}..."

    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    fetch(url, None, target, check=check, attempts=attempts)


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Make every torch.load inside the block read tensors only, also torchvision's own."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _fetch_timm(config: Any, attempts: int) -> Path:
    """Download model.safetensors from the Hugging Face hub, checked against the SHA-256 that the hub states."""
    from edge_lab.data.download import cache_folder, fetch

    path = cache_folder() / "timm" / f"{config.architecture}.{config.tag}.safetensors"
    if path.is_file():
        return path
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(config.hf_hub_id, "model.safetensors")
    try:
        import urllib.request

        urllib.request.urlopen(url.split("/resolve")[0], timeout=5).close()  # one quick try: the hub's own takes 20 s
        etag = get_hf_file_metadata(url, timeout=10).etag or ""
    except Exception as error:
        raise DataError(
            f"the weights of timm:{config.architecture} could not be downloaded.",
            f"{config.hf_hub_id} on the Hugging Face hub can't be reached: {error}",
            'connect to the internet once, or pass weights="random" or weights="PATH".',
        ) from error
    return fetch(url, etag, path, attempts=attempts)
