"""Recurrent layers of Core ML programs (definitions: see `mil_layers`). x is (steps, batch, features).

Import this file lazily: it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lab.formats.coreml.mil.table import Inputs, operator

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]


@operator("lstm")
def _lstm(p: Inputs) -> tuple[Tensor, ...]:
    """Gates in MIL's order: input, forget, output, cell."""
    _refuse(p, {"recurrent_activation": "sigmoid", "cell_activation": "tanh", "activation": "tanh"})

    def cell(ending: str) -> Step:
        def step(x: Tensor, state: State) -> State:
            h, c = state
            gates = F.linear(x, p["weight_ih" + ending], p.get("bias" + ending)) + F.linear(h, p["weight_hh" + ending])
            i, f, o, g = gates.chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c

        return step

    if p.get("direction") != "bidirectional":
        return _run(p, cell(""), (p["initial_h"], p["initial_c"]))
    states = zip(p["initial_h"].chunk(2, -1), p["initial_c"].chunk(2, -1), strict=True)
    ahead, back = states
    there = _run(p | {"direction": "forward"}, cell(""), ahead)
    home = _run(p | {"direction": "reverse"}, cell("_back"), back)
    return tuple(torch.cat(pair, -1) for pair in zip(there, home, strict=True))


@operator("gru")
def _gru(p: Inputs) -> tuple[Tensor, ...]:
    """Gates in MIL's order: reset, output, update. Not PyTorch's GRU: the reset gate leaves the bias alone."""
    _refuse(p, {"recurrent_activation": "sigmoid", "activation": "tanh"})

    def step(x: Tensor, state: State) -> State:
        (h,) = state
        xr, xo, xz = F.linear(x, p["weight_ih"], p.get("bias")).chunk(3, -1)
        hr, ho, hz = F.linear(h, p["weight_hh"]).chunk(3, -1)
        z = torch.sigmoid(xz + hz)
        return ((1 - z) * torch.tanh(xo + torch.sigmoid(xr + hr) * ho) + z * h,)

    return _run(p, step, (p["initial_h"],))


@operator("rnn")
def _rnn(p: Inputs) -> tuple[Tensor, ...]:
    function = {"tanh": torch.tanh, "relu": torch.relu}[p.get("activation", "tanh")]

    def step(x: Tensor, state: State) -> State:
        return (function(F.linear(x, p["weight_ih"], p.get("bias")) + F.linear(state[0], p["weight_hh"])),)

    return _run(p, step, (p["initial_h"],))


def _refuse(p: Inputs, usual: dict[str, str]) -> None:
    settings = [p.get(name, value) for name, value in usual.items()]
    if settings != list(usual.values()) or p.get("clip") is not None:
        raise NotImplementedError(f"a recurrent layer with clipping or the activations {settings}")
    if p.get("peephole") is not None or p.get("peephole_back") is not None:
        raise NotImplementedError("a recurrent layer with peepholes")


def _run(p: Inputs, step: Step, state: State) -> tuple[Tensor, ...]:
    """All hidden states (or the last), then the last states."""
    backwards, rows = p.get("direction", "forward") == "reverse", []
    for x in p["x"].flip(0) if backwards else p["x"]:
        state = step(x, state)
        rows.append(state[0])
    if not p.get("output_sequence"):
        rows = rows[-1:]
    return (torch.stack(rows[::-1] if backwards else rows), *state)
