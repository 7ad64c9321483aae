"""What a case of the clinic is: a broken module, and the version that works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Converter = Literal["torch.export", "executorch", "onnx", "coreml"]
CONVERTERS: tuple[Converter, ...] = ("torch.export", "executorch", "onnx", "coreml")
Tensors = tuple["torch.Tensor", ...]
App = Callable[[Callable[..., Tensors], Sequence["torch.Tensor"]], list[Tensors]]


def call_each(program: Callable[..., Tensors], inputs: Sequence[torch.Tensor]) -> list[Tensors]:
    """The plainest app: one call for each input, and the answers as they come."""
    return [program(x) for x in inputs]


@dataclass(frozen=True)
class Case:
    """A broken module, and the version that works.

    Attributes:
        name: such as "boolean-mask".
        refuses: the converter that refuses the broken module; None: it is taken, and the program is silently wrong.
        cause: in one plain sentence.
        remedy: in one plain sentence.
        broken: makes the broken module (a class).
        fixed: makes the repaired one, with the same weights.
        inputs: float32 tensors; the first is the example for export. They reach every branch of the broken module.
        dims: the dimensions of the input that are to be dynamic, as torch.export's `dynamic_shapes` wants them.
        state: what the fixed program takes beyond the input, at the first call.
        app: calls a program on all inputs and returns the broken module's answers: where the fixed one pads, it cuts;
            where the fixed one returns a state, it carries it along.
    """

    name: str
    refuses: Converter | None
    cause: str
    remedy: str
    broken: Callable[[], torch.nn.Module]
    fixed: Callable[[], torch.nn.Module]
    inputs: tuple[torch.Tensor, ...]
    dims: dict[int, Any] | None = None
    state: tuple[torch.Tensor, ...] = ()
    app: App = call_each
