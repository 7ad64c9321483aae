"""Weight-only quantization: weights are stored as 8- or 4-bit integers, arithmetic stays in floating point.

Which file gets smaller: `save_weights` (safetensors), `zoo.save` (.pt), and the programs of targets that end in
-int8-weights or -int4-weights, which keep the integers and widen them when they are loaded (ONNX Runtime, once) or run
(.pt2, at every call). TorchScript has no such target: its freeze folds the weights back to floats, so that file would
stay as large as before. Nor has XNNPACK: it takes no convolution whose weights are computed, so a .pte would become
small and slow. Nothing gets faster.

Method: round to nearest, symmetric, the largest magnitude of a channel (group, tensor) becomes the largest integer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_lab.compress.graphs.layers import is_layer, packed, quantized_layers
from edge_lab.compress.graphs.quantized import refuse_quantized
from edge_lab.core.errors import BundleError, ExportError, InputError
from edge_lab.core.files import writing_file
from edge_lab.zoo import Model

if TYPE_CHECKING:
    from torch import nn

_METADATA = "edge_lab.weight_only"


@dataclass(frozen=True)
class WeightOnly:
    """How to store weights.

    Attributes:
        bits: 8 or 4 per weight.
        granularity: how many weights share a scale: "channel" (an output channel), "tensor" (the whole layer), or a
            number: groups of that many consecutive weights of a channel, such as 32.
        keep: shell patterns of layer names that stay in float, such as ("head*",).
    """

    bits: Literal[8, 4] = 8
    granularity: Literal["channel", "tensor"] | int = "channel"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        number = isinstance(self.granularity, int) and self.granularity >= 2
        if self.bits not in (8, 4) or not (number or self.granularity in ("channel", "tensor")):
            raise InputError(
                f"WeightOnly(bits={self.bits!r}, granularity={self.granularity!r}) is not supported.",
                'bits are 8 or 4; granularity is "channel", "tensor" or a group size of 2 or more.',
                "use WeightOnly(bits=8) first, and WeightOnly(bits=4, granularity=32) if that is still too large.",
            )

    @property
    def label(self) -> str:
        """Short name, such as "w8" or "w4-group32"."""
        detail = {"channel": "", "tensor": "-tensor"}.get(str(self.granularity), f"-group{self.granularity}")
        return f"w{self.bits}{detail}"


def quantize_weights(model: Model, config: WeightOnly | None = None) -> Model:
    """Store the weights of every conv, linear and embedding layer as integers and scales.

    Args:
        model: float; it is not changed. Recurrent layers stay in float (see `quantize_dynamic`), and so do biases and
            batch norms. Weights that two layers share are stored twice.
        config: default WeightOnly(): 8 bits, one scale per output channel.

    Returns:
        A new model, named "<name>-w8", that computes in float with the rounded weights. It can't be trained.

    Raises:
        InputError: weights hold NaN or infinity, or are quantized already.
        ExportError: no layer could be quantized.
    """
    import copy

    config = config or WeightOnly()
    refuse_quantized(model.module, model.spec.name, "quantized")
    module = copy.deepcopy(model.module).eval()
    chosen = [(name, part) for name, part in module.named_modules() if _eligible(name, part, config)]
    if not chosen:
        total = len(quantized_layers(module).layers)
        raise ExportError(
            f"0 of {total} layers of {model.spec.name} can be stored in {config.bits} bits.",
            f"only conv, linear and embedding layers can; `keep` leaves out {', '.join(config.keep) or 'none'}.",
            "quantize_dynamic(model) handles LSTM and GRU; otherwise leave this model in float.",
        )
    group = {"channel": None, "tensor": 0}.get(str(config.granularity), config.granularity)
    for name, part in chosen:
        _check_finite(part.weight, name)
        _replace(part, config.bits, group)  # type: ignore[arg-type]
    return Model(module, model.spec.with_(name=f"{model.spec.name}-{config.label}"))


def _eligible(name: str, part: nn.Module, config: WeightOnly) -> bool:
    from torch import nn

    return (
        is_layer(part)
        and not isinstance(part, nn.RNNBase)
        and "weight" in part._parameters  # not computed already, as weight_norm does
        and not any(fnmatch(name, pattern) for pattern in config.keep)
    )


def _check_finite(weight: Any, name: str) -> None:
    import torch

    if not torch.isfinite(weight).all():
        bad = int((~torch.isfinite(weight)).sum())
        raise InputError(
            f"the weights of layer {name!r} hold {bad} values that are NaN or infinite.",
            "a scale is the largest magnitude divided by the largest integer: NaN here, and then the whole layer is.",
            "check the checkpoint; training may have diverged.",
        )


def _replace(part: Any, bits: int, group: int | None) -> None:
    """Store a layer's weight in integers; bits and group as PackedWeight takes them."""
    from torch import nn
    from torch.nn.modules.conv import _ConvTransposeNd
    from torch.nn.utils import parametrize

    from edge_lab.compress.graphs.packed import PackedWeight

    part.weight.requires_grad_(False)
    holder = PackedWeight(part.weight, bits, group, isinstance(part, _ConvTransposeNd))
    assert isinstance(part, nn.Module)
    # unsafe: integers go in, floats come out, which parametrize otherwise forbids
    parametrize.register_parametrization(part, "weight", holder, unsafe=True)


def expand_weights(model: Model) -> Model:
    """The same model with the rounded weights as plain floats again: faster to call, four or eight times larger."""
    import copy

    import torch

    module = copy.deepcopy(model.module)
    part: Any
    for part in list(module.modules()):
        if packed(part) is not None:
            weight = torch.nn.Parameter(part.weight.detach().clone(), requires_grad=False)
            # not parametrize.remove_parametrizations: it takes `weight` from the class, which the original shares
            del part._modules["parametrizations"]
            part.__class__ = type(part).__mro__[1]
            part.register_parameter("weight", weight)
    return Model(module, model.spec)


def save_weights(model: Model, path: Path | str) -> Path:
    """Write a model from `quantize_weights` to a safetensors file: integers, scales, and all that stayed in float.

    Returns:
        The path. `load_weights` reads it; no pickle is involved.
    """
    from safetensors.torch import save_file

    path = Path(path)
    held = {name: found[0] for name, part in model.module.named_modules() if (found := packed(part)) is not None}
    if not held:
        raise InputError(
            f"{model.spec.name} holds no packed weights.",
            "only models from quantize_weights(model, WeightOnly(...)) can be saved here.",
            "quantize it first, or save a float model with zoo.save(model, path).",
        )
    how = {name: {"bits": p.bits, "group": 0 if p.per_tensor else p.group} for name, p in held.items()}
    document = {"name": model.spec.name, "layers": how}
    with writing_file(path) as temporary:
        tensors = {key: value.contiguous() for key, value in model.module.state_dict().items()}
        save_file(tensors, temporary, metadata={_METADATA: json.dumps(document)})
    return path


def load_weights(model: Model, path: Path | str) -> Model:
    """Read a file of `save_weights` into the architecture of `model` (its own weights are not used or changed).

    Raises:
        BundleError: not such a file, or it does not fit this architecture.
    """
    import copy

    from safetensors import SafetensorError, safe_open

    again = "pass the architecture it was saved from, e.g. zoo.create(name, weights='random'), and the right file."
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})[_METADATA])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        what = f"{path} is not a file of packed weights."
        raise BundleError(what, f"{type(error).__name__}: {error}", again) from error
    module = copy.deepcopy(model.module).eval()
    parts = dict(module.named_modules())
    try:
        for name, how in document["layers"].items():
            bits, group = how["bits"], how["group"]
            if bits not in (8, 4) or type(group) is not int or group < 0:
                raise ValueError(f"layer {name!r} says {bits!r} bits in groups of {group!r}")
            _replace(parts[name], bits, group)
        module.load_state_dict(tensors)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        what = f"{path} does not fit {model.spec.name}."
        raise BundleError(what, str(error).splitlines()[0][:200], again) from error
    return Model(module, model.spec.with_(name=document["name"]))
