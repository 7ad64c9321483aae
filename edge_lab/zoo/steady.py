"""Does a module answer the same input in the same way every time? Nothing can be compared with one that does not.

Import this file lazily: it needs torch.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edge_lab.core.errors import EdgeLabError, InputError

_CLOSE = 1e-5  # of the largest value, -100 dB: threads may add in another order
_DRAWS = 6  # more calls for a module that draws random numbers: a mask of few values may come out the same twice
_TORCH = str(Path(torch.__file__).parent)
_SWITCHED = re.compile(r"dropout|rrelu")  # functions of torch with an argument that switches them off


@contextmanager
def calling() -> Iterator[None]:
    """How a network is called here: no gradients, and what torch.compile made of its parts runs as it was written.

    Not `inference_mode`: what a module makes on a call and keeps could be neither trained nor exported after that.
    """
    compiling = "torch._dynamo" in sys.modules  # else nothing can have been compiled, and importing it takes seconds
    with torch.no_grad(), torch.compiler.set_stance("force_eager") if compiling else nullcontext():
        yield


@contextmanager
def explained(name: str) -> Iterator[None]:
    """What a network raises becomes one sentence: it was called with inputs that it does not take."""
    from edge_lab.core.raised import last_line

    try:
        yield
    except EdgeLabError:
        raise
    except Exception as error:  # a forward method raises whatever it likes
        raise InputError(
            f"{name} does not take these inputs, in PyTorch, before any export.",
            last_line(error),
            "pass inputs that it takes: edge_lab.to(model, target, golden=[...]), coverage(model, inputs=[...]), and "
            "calibration=[...] for int8; seeded noise is none for a network that looks its numbers up (token ids).",
        ) from error


def readable(value: Any) -> Any:
    """A nested output as it is, if NumPy and every runtime can read it.

    Raises:
        InputError: a tensor of 16 bits, as autocast returns.
    """
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bfloat16, torch.float16):
            kind = str(leaf.dtype).removeprefix("torch.")
            raise InputError(
                f"its output is {kind}.",
                "autocast, .half() or .bfloat16() is at work inside of forward(); programs return float32.",
                "return y.float() at the end of forward(), and leave autocast to the training loop.",
            )
    return value


def settle(module: torch.nn.Module, example: torch.Tensor) -> Any:
    """Call a module, in the mode it is in, until it answers `example` twice in the same way; return that answer.

    Two calls do for most. A module that changes itself on its first call (lazy layers, a grid that is made once) is
    settled by that call: its second and third answer are the same. What it makes there of random numbers is the same
    in every process (seed 0; torch's own state is left alone).

    Args:
        module: takes one tensor.
        example: is copied for each call, since a module may write to its input.

    Raises:
        InputError: it answers differently every time; names the part where that begins. Whatever the module raises.
    """
    with calling(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        last = module(example.clone())
        before = torch.get_rng_state()
        now = module(example.clone())
        drew = not torch.equal(before, torch.get_rng_state())
        for _ in range(_DRAWS if drew else not same(last, now)):
            last, now = now, module(example.clone())
            if not same(last, now):
                raise _unsteady(module, example)
        return now


def same(one: Any, other: Any) -> bool:
    """Whether two nested answers are equal but for the order of additions; NaN is equal to NaN."""
    a, b = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(a) == len(b) and all(map(_same_leaf, a, b))


def _same_leaf(a: Any, b: Any) -> bool:
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        plain = (bool, int, float, str)
        return type(a) is type(b) and (not isinstance(a, plain) or a == b or a != a)  # others may not compare
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    finite = a[a.isfinite()]
    limit = _CLOSE * float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=limit, equal_nan=True)


@dataclass(frozen=True)
class _Draw:
    """A random number was drawn: in which part, by which call (text of the reader's code, if it is there), where."""

    part: str
    call: str
    place: str


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What happens in one call: each part's input and output (as hashes, in the order they end), and each draw."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack: list[str] = []
        self.ended: list[tuple[str, str, str]] = []
        self.draws: list[_Draw] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.append(_Draw(self.stack[-1] if self.stack else "", *_call_of_the_reader(func)))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def on(self, module: torch.nn.Module) -> Iterator[None]:
        """Hooks on every part; they are gone afterwards."""
        inputs: list[str] = []

        def enter(name: str, args: Any, kwargs: Any) -> None:
            self.stack.append(name)
            inputs.append(_hash((args, kwargs)))

        def leave(name: str, output: Any) -> None:
            self.stack.pop()
            self.ended.append((name, inputs.pop(), _hash(output)))

        hooks = []
        for name, part in module.named_modules():
            hooks += [
                part.register_forward_pre_hook(lambda m, a, k, name=name: enter(name, a, k), with_kwargs=True),
                part.register_forward_hook(lambda m, a, out, name=name: leave(name, out)),
            ]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _call_of_the_reader(func: Any) -> tuple[str, str]:
    """The text of the call outside of torch that led to this operator, and FILE:LINE; else the operator's name."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith((_TORCH, "<")):
        if frame.f_back is None:
            return str(func), ""
        frame = frame.f_back
    if frame.f_code.co_filename == __file__:  # torch alone, from here on
        return str(func), ""
    file = frame.f_code.co_filename
    first, last, start, end = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    lines = linecache.getlines(file)[(first or 1) - 1 : last]
    if not lines or first is None:
        return str(func), f"{Path(file).name}:{frame.f_lineno}"
    lines[-1] = lines[-1].encode()[:end].decode(errors="replace")  # columns count bytes
    lines[0] = lines[0].encode()[start:].decode(errors="replace")
    return " ".join(" ".join(lines).split()), f"{Path(file).name}:{first}"


def _hash(value: Any) -> str:
    digest = hashlib.blake2b()
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and not torch.nn.parameter.is_lazy(leaf):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(leaf, (bool, int, float, str)):
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def _unsteady(module: torch.nn.Module, example: torch.Tensor) -> InputError:
    """The error for a module that gives another answer every time: where that begins, and what helps."""
    watches = (_Watch(), _Watch())
    kept = _state(module)
    for watch in watches:
        with watch.on(module):
            module(example.clone())
    changed = sorted(name for name, now in _state(module).items() if now != kept.get(name))
    begins = (a[0] for a, b in zip(watches[0].ended, watches[1].ended, strict=False) if a[:2] == b[:2] and a[2] != b[2])
    part = next(begins, "")
    draws = watches[1].draws
    draw = next((d for d in draws if d.part == part), draws[0] if draws else None)
    what = f"{type(module).__name__} answers the same input differently every time, in eval mode too."
    if draw is None:
        return _state_error(what, module, part, changed)
    owner = module.get_submodule(draw.part)
    if owner.training:
        return InputError(
            what,
            f"its part {_named(module, draw.part)} draws random numbers: it is in training mode.",
            "forward() switches it back: remove the .train() call there (or the eval() and train() of your own that "
            "leave it out).",
        )
    at = f" ({draw.place})" if draw.place else ""
    return InputError(
        what, f"{_named(module, draw.part)} draws random numbers: {_short(draw.call)}{at}.", _fix(draw.call)
    )


def _fix(call: str) -> str:
    if "scaled_dot_product_attention" in call:
        return "pass dropout_p=p if self.training else 0.0: this function does not know about eval()."
    if _SWITCHED.search(call):
        return "pass training=self.training, or use the layer (nn.Dropout): the function does not know about eval()."
    return "draw only `if self.training:` and go on without noise otherwise (a VAE decodes its mean then)."


def _state_error(what: str, module: torch.nn.Module, part: str, changed: list[str]) -> InputError:
    if changed:
        names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        return InputError(
            what,
            f"it changes itself in every call ({names}), and {_named(module, part)} answers by that.",
            "a program starts each call anew: take that state as part of the input and return it as an output, or "
            "change it only `if self.training:`.",
        )
    return InputError(
        what,
        f"it begins in {_named(module, part)}: equal inputs, other outputs, and no random numbers of torch.",
        "look there for random or numpy.random, the clock, or state outside of the module, and leave them out "
        "unless self.training.",
    )


def _state(module: torch.nn.Module) -> dict[str, str]:
    """What a module keeps, by name, as hashes: tensors, numbers, and lists or dicts of them."""
    return {
        f"{name}.{key}".lstrip("."): _hash(value)
        for name, part in module.named_modules()
        for key, value in _attributes(part)
    }


def _attributes(part: torch.nn.Module) -> Iterable[tuple[str, Any]]:
    yield from part._parameters.items()
    yield from part._buffers.items()
    yield from ((k, v) for k, v in vars(part).items() if not k.startswith("_") or not hasattr(torch.nn.Module(), k))


def _named(module: torch.nn.Module, part: str) -> str:
    if not part:
        return f"{type(module).__name__}.forward"
    return f"{part} ({type(module.get_submodule(part)).__name__})"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
