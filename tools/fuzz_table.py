"""What the fuzzer knows of an operator: which options it has, and how to write a call of it.

An operator is one function: it gets the options that were drawn and the shapes of its inputs, and returns the line of
`__init__` and the expression of `forward` that a user would write. What the operator itself refuses (a kernel larger
than its picture) needs no rule here: the line is tried on a real tensor, and dropped if PyTorch refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Code:
    """`call`: an expression of the inputs {x}, {y} and the layer {m}; `init`: what {m} is, if anything."""

    call: str
    init: str = ""


@dataclass(frozen=True)
class Op:
    """An operator that can be drawn.

    Attributes:
        options: name -> the values that can be drawn, simplest first (the shrinker goes there).
        write: from options and input shapes to code; it may raise, then this draw does not fit.
        ranks: of the first input; empty: any.
        inputs: one or two values.
        fits: whether two shapes go together.
    """

    name: str
    options: Mapping[str, tuple[Any, ...]]
    write: Callable[..., Code]
    ranks: tuple[int, ...] = ()
    inputs: int = 1
    fits: Callable[[Shape, Shape], bool] = lambda x, y: True


OPS: dict[str, Op] = {}


def op(
    *ranks: int, fits: Callable[[Shape, Shape], bool] | None = None, **options: tuple[Any, ...]
) -> Callable[[Callable[..., Code]], Callable[..., Code]]:
    """Put a function into the table under its name."""

    def enter(write: Callable[..., Code]) -> Callable[..., Code]:
        name = write.__name__.rstrip("_")
        OPS[name] = (
            Op(name, options, write, ranks) if fits is None else Op(name, options, write, ranks, inputs=2, fits=fits)
        )
        return write

    return enter


def arguments(**values: Any) -> str:
    """`a=1, b=2`, without what is None."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)


def broadcast(x: Shape, y: Shape) -> bool:
    """Whether two shapes can be added."""
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(x), reversed(y), strict=False))
