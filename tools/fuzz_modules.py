"""Small random networks as descriptions: drawn by hypothesis, stored as JSON, written out as Python.

A `Net` holds no shapes beyond its input's: `trace` derives them, by running every line once. So the shrinker can take a
step away, or change an option, and whatever comes out is either a network again or refused by PyTorch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import fuzz_layers  # noqa: F401  fills OPS
import fuzz_tensors  # noqa: F401
import torch
from fuzz_table import OPS, Code, Op, Shape
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

LARGEST = 20_000  # numbers in one value
SHAPES: tuple[Shape, ...] = (
    (1, 3, 12, 12),
    (1, 1, 9, 14),
    (1, 5, 11, 7),
    (1, 4, 16, 16),
    (1, 3, 17, 20),
    (1, 8, 6, 5),
    (1, 3, 33, 8),
    (1, 8),
    (1, 12),
    (1, 6, 20),
    (1, 8, 10),
    (1, 7, 12),
    (2, 3, 8, 9),
    (1, 1, 40),
)
SPREADS = ((1.0, 0.0), (0.3, 0.5), (40.0, 5.0), (0.02, 0.0))  # scale and offset of the inputs
FORMS = ("tensor", "tuple", "dict", "nested", "list")
NAMES = ("plain", "list", "tricky")
# Names that converters use themselves, or that collide once dots become underscores.
_TRICKY = ["weight", "conv", "conv_weight", "bn", "running_mean", "b", "p_conv", "image", "input", "output", "output_1"]


@dataclass(frozen=True)
class Step:
    """One line of forward: an operator, the values it takes (0: the input), its options. "again" repeats a layer."""

    op: str
    inputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Net:
    """A network. `outputs`: numbers of values; `calibrated`: statistics of norms by a forward pass, else random."""

    shape: Shape
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    form: str = "tensor"
    names: str = "plain"
    spread: tuple[float, float] = (1.0, 0.0)
    calibrated: bool = False
    second_input: bool = False


def to_json(net: Net) -> dict[str, Any]:
    """As JSON can hold it."""
    return asdict(net)


def from_json(text: dict[str, Any]) -> Net:
    """The inverse of `to_json`."""

    def deep(value: Any) -> Any:
        return tuple(map(deep, value)) if isinstance(value, list) else value

    steps = tuple(
        Step(s["op"], tuple(s["inputs"]), {k: deep(v) for k, v in s["options"].items()}) for s in text["steps"]
    )
    return Net(**{k: deep(v) for k, v in text.items() if k != "steps"}, steps=steps)


class DoesNotFit(Exception):
    """PyTorch refuses this line, or what it computes is no use: too large, not finite."""


@dataclass
class Trace:
    """The lines of a network, and what each value was on one input."""

    values: list[Any]
    layers: list[tuple[int, str, nn.Module | torch.Tensor]] = field(default_factory=list)  # step, init, layer
    calls: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> list[Shape]:
        """Of all values."""
        return [tuple(v.shape) for v in self.values]


def trace(net: Net) -> Trace:
    """Run a description line by line.

    Raises:
        DoesNotFit: some line can't be run on its inputs.
    """
    torch.manual_seed(0)
    done = Trace([torch.randn(net.shape)])
    for step in net.steps:
        extend(done, step)
    return done


def extend(done: Trace, step: Step) -> None:
    """Run one more line; `done` is unchanged if it does not fit."""
    try:
        shapes = [done.shapes[i] for i in step.inputs]
        if step.op == "again":
            index = len(done.layers) - step.options["back"]
            code, layer = Code("{m}({x})"), done.layers[index][2] if index >= 0 else None
            if not isinstance(layer, nn.Module):
                raise DoesNotFit("no such layer")
            place = f"{{m{index}}}"
        else:
            code = OPS[step.op].write(step.options, *shapes)
            layer = eval(code.init, {"torch": torch, "nn": nn}) if code.init else None
            place = f"{{m{len(done.layers)}}}"
        if isinstance(layer, nn.Module):
            layer.eval()
        names = {"x": "a", "y": "b", "m": "m"}
        known = {"torch": torch, "nn": nn, "F": F, "m": layer}
        known |= {n: done.values[i].clone() for n, i in zip("ab", step.inputs, strict=False)}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = eval(code.call.format(**names), known)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, NotImplementedError) as error:
        raise DoesNotFit(str(error)) from error
    usable = isinstance(value, torch.Tensor) and value.dtype == torch.float32 and 1 <= value.ndim <= 5
    if not usable or not 0 < value.numel() <= LARGEST or not torch.isfinite(value).all():
        raise DoesNotFit("no float tensor of a usable size")
    inputs = dict(zip("xy", (f"{{v{i}}}" for i in step.inputs), strict=False))
    done.calls.append(code.call.format(m=place, **inputs))
    if code.init and layer is not None:
        done.layers.append((len(done.calls) - 1, code.init, layer))
    done.values.append(value)


def used(net: Net) -> Net:
    """The same network without the steps that no output needs."""
    needed: set[int] = set()
    wanted = list(net.outputs)
    while wanted:
        value = wanted.pop()
        if value > 0 and value not in needed:
            needed.add(value)
            wanted.extend(net.steps[value - 1].inputs)
    keep = sorted(needed)
    new = {0: 0} | {old: i + 1 for i, old in enumerate(keep)}
    if any(step.op == "again" for step in net.steps) and len(keep) < len(net.steps):
        return net  # "again" counts layers backwards; the shrinker gets there step by step
    steps = tuple(replace(net.steps[i - 1], inputs=tuple(new[j] for j in net.steps[i - 1].inputs)) for i in keep)
    return replace(net, steps=steps, outputs=tuple(new[i] for i in net.outputs))


def source(net: Net) -> str:
    """The class `Net` as a user would write it."""
    done = trace(net)
    names = _layer_names(net, done)
    values = {"v0": "x"} | {f"v{i + 1}": f"v{i + 1}" for i in range(len(done.calls))}
    fill = {f"m{i}": f"self.{name}" for i, name in enumerate(names)} | values
    init = [f"self.{name} = {line}" for name, (_, line, _) in zip(names, done.layers, strict=True)]
    if names and names[0] == "parts[0]":
        init = [f"self.parts = nn.ModuleList([{', '.join(line for _, line, _ in done.layers)}])"]
    body = [f"v{i + 1} = {call.format(**fill)}" for i, call in enumerate(done.calls)]
    body.append(f"return {_result(net, values)}")
    indent = "\n        "
    signature = "self, x, other" if net.second_input else "self, x"
    return (
        f"class Net(nn.Module):\n    def __init__(self):{indent}super().__init__(){indent if init else ''}"
        f"{indent.join(init)}\n\n    def forward({signature}):{indent}{indent.join(body)}\n"
    )


def _layer_names(net: Net, done: Trace) -> list[str]:
    count = len(done.layers)
    if net.names == "tricky" and count <= len(_TRICKY):
        return _TRICKY[:count]
    if net.names == "list" and all(isinstance(layer, nn.Module) for *_, layer in done.layers):
        return [f"parts[{i}]" for i in range(count)]
    return [f"m{i}" for i in range(count)]


def _result(net: Net, values: dict[str, str]) -> str:
    out = [values[f"v{i}"] for i in net.outputs]
    if net.form == "tensor" or (len(out) == 1 and net.form == "nested"):
        return out[0]
    if net.form == "dict":
        return "{" + ", ".join(f"'out{i or ''}': {v}" for i, v in enumerate(out)) + "}"
    if net.form == "nested":
        return f"{{'first': {out[0]}, 'rest': [{', '.join(out[1:])}]}}"
    return f"[{', '.join(out)}]" if net.form == "list" else f"({', '.join(out)},)"


SETTLE = '''
def settle(net, inputs, calibrated):
    """Weights and statistics of norms such that every part matters."""
    torch.manual_seed(1)
    for part in net.modules():
        for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if name == "running_mean":
                value.normal_(0, 0.5)
            elif name == "running_var":
                value.uniform_(0.5, 2)
            elif hasattr(part, "eps") and name == "weight":
                value.data.uniform_(0.5, 1.5)
            elif hasattr(part, "eps") and name == "bias":
                value.data.normal_(0, 0.3)
    for x in inputs if calibrated else []:
        try:
            with torch.no_grad():
                net.train()(x)
        except ValueError:  # a norm that gets one value per channel has nothing to measure
            break
    return net.eval()
'''


def settled(net: Net) -> str:
    """The lines that make the network `net` and its 24 `inputs`: 5 golden ones, 11 to calibrate with, 8 fresh."""
    scale, offset = net.spread
    shift = f" + {offset}" if offset else ""
    calibrated = net.calibrated and not net.second_input
    return (
        f"{source(net)}\n{SETTLE}\n"
        "rng = np.random.default_rng(0)\n"
        f"inputs = [(rng.standard_normal({net.shape}) * {scale}{shift}).astype(np.float32) for _ in range(24)]\n"
        "torch.manual_seed(0)\n"
        f"net = settle(Net(), [torch.from_numpy(x.copy()) for x in inputs[5:16]], {calibrated})\n"
    )


def make(net: Net) -> tuple[nn.Module, list[Any]]:
    """The network and its inputs, by running exactly the lines that a script prints."""
    import linecache

    text = "import numpy as np\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n" + settled(
        net
    )
    file = f"<fuzz {hash(text)}>"  # torch.export and the error texts look up lines of the model
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "fuzz_net"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(text, file, "exec"), space)
    return space["net"], space["inputs"]


Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def nets(draw: Draw, most_steps: int = 8) -> Net:
    """Networks that PyTorch runs."""
    shape = draw(st.sampled_from(SHAPES))
    torch.manual_seed(0)
    done, steps = Trace([torch.randn(shape)]), list[Step]()
    wanted = draw(st.sampled_from(range(2, most_steps + 1)))
    for _ in range(4 * wanted):
        if len(steps) == wanted:
            break
        step = _step(draw, done)
        if step is None:
            continue
        try:
            extend(done, step)
        except DoesNotFit:
            continue
        steps.append(step)
    last = len(steps)
    form = draw(st.sampled_from(("tensor", "tensor", *FORMS)))
    more = [] if form == "tensor" else draw(st.lists(st.integers(0, last), max_size=2))
    return used(
        Net(
            shape,
            tuple(steps),
            (last, *more),
            form,
            draw(st.sampled_from(("plain", *NAMES))),
            draw(st.sampled_from(SPREADS)),
            draw(st.booleans()) and any(step.op == "batch_norm" for step in steps),
            draw(st.integers(0, 80)) == 80,
        )
    )


def _step(draw: Draw, done: Trace) -> Step | None:
    """A line on the newest value, or on an older one; None if the operator has no partner for it."""
    newest = len(done.values) - 1
    first = newest if draw(st.integers(0, 3)) else draw(st.integers(0, newest))
    rank = len(done.shapes[first])
    fitting = [o.name for o in OPS.values() if not o.ranks or rank in o.ranks]
    weights = [name for name in fitting for _ in range(_weight(OPS[name]))]
    name = draw(st.sampled_from([*weights, *(["again"] * 3 if done.layers else [])]))
    if name == "again":
        return Step("again", (first,), {"back": draw(st.integers(1, min(3, len(done.layers))))})
    chosen = OPS[name]
    inputs: tuple[int, ...] = (first,)
    if chosen.inputs == 2:
        shapes = done.shapes
        partners = [i for i in range(newest + 1) if i != first and chosen.fits(shapes[first], shapes[i])]
        if not partners:
            return None
        inputs = (first, draw(st.sampled_from(partners)))
    return Step(name, inputs, {k: draw(st.sampled_from(v)) for k, v in chosen.options.items()})


_OFTEN = {"conv": 8, "batch_norm": 5, "activation": 5, "linear": 3, "add": 4, "function": 3, "cat": 3, "combine": 3}


def _weight(chosen: Op) -> int:
    return _OFTEN.get(chosen.name, 2 if chosen.name in ("max_pool", "avg_pool", "resize", "recurrent", "reduce") else 1)
