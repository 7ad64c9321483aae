"""The smallest network that still fails in the same way, and the script that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fuzz_check import FLOOR_DB
from fuzz_modules import FORMS, DoesNotFit, Net, settled, trace, used
from fuzz_table import OPS

_SMALL = (2, 3, 4, 6, 8)
_PLAIN: dict[str, Any] = {
    "form": FORMS[0],
    "names": "plain",
    "spread": (1.0, 0.0),
    "calibrated": False,
    "second_input": False,
}


def smallest(net: Net, fails: Callable[[Net], bool], seconds: float = 180) -> Net:
    """Take away whatever can go while `fails` stays true; stops when nothing more goes, or after `seconds`."""
    end = time.monotonic() + seconds
    tried = {repr(net)}
    found = True
    while found:
        found = False
        for smaller in candidates(net):
            if time.monotonic() > end:
                return net
            if repr(smaller) in tried or not _runs(smaller):
                continue
            tried.add(repr(smaller))
            if fails(smaller):
                net, found = smaller, True
                break
    return net


def _runs(net: Net) -> bool:
    try:
        trace(net)
    except DoesNotFit:
        return False
    return True


def candidates(net: Net) -> Iterator[Net]:
    """Networks that are a little simpler, boldest first."""
    if len(net.outputs) > 1:
        yield from (used(replace(net, outputs=(output,))) for output in net.outputs)
    yield from (used(replace(net, outputs=(value,), form="tensor")) for value in range(1, len(net.steps)))
    yield from (without(net, i) for i in reversed(range(len(net.steps))))
    plain: dict[str, Any] = {
        "form": FORMS[0],
        "names": "plain",
        "spread": (1.0, 0.0),
        "calibrated": False,
        "second_input": False,
    }
    for name, value in plain.items():
        if getattr(net, name) != value and (name != "form" or len(net.outputs) == 1):
            yield replace(net, **{name: value})
    for axis, size in enumerate(net.shape):
        for smaller in (1,) if axis == 0 else _SMALL:
            if smaller < size:
                yield replace(net, shape=(*net.shape[:axis], smaller, *net.shape[axis + 1 :]))
    for i, step in enumerate(net.steps):
        for name, values in OPS[step.op].options.items() if step.op in OPS else ():
            for value in values[: values.index(step.options[name])]:
                simpler = replace(step, options=step.options | {name: value})
                yield replace(net, steps=(*net.steps[:i], simpler, *net.steps[i + 1 :]))


def without(net: Net, index: int) -> Net:
    """The network without one step: whoever used its value takes its first input."""
    gone, instead = index + 1, net.steps[index].inputs[0]

    def moved(value: int) -> int:
        value = instead if value == gone else value
        return value - 1 if value > gone else value

    steps = tuple(
        replace(step, inputs=tuple(map(moved, step.inputs))) for i, step in enumerate(net.steps) if i != index
    )
    return replace(net, steps=steps, outputs=tuple(map(moved, net.outputs)))


def script(net: Net, target: str) -> str:
    """A Python file that shows a failure, with nothing but torch and edge_lab."""
    floor = FLOOR_DB[target.rsplit("-", 1)[1]]
    load = "edge_lab.load(bundle)"
    extra = ""
    if target.startswith("ios"):
        extra, load = "from edge_lab.formats.coreml.mil.run import run_or_interpret\n", "run_or_interpret(bundle)"
    return f'''import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import edge_lab
{extra}

{settled(net)}

def flat(value):
    if isinstance(value, torch.Tensor):
        return [value.detach().numpy()]
    return [a for v in (value.values() if isinstance(value, dict) else value) for a in flat(v)]


model = edge_lab.from_module(net, {net.shape}, name="net", task="tensor")
bundle = edge_lab.to(model, "{target}", golden=inputs[:5], calibration=inputs[5:16], out="fuzz-out", force=True)
session = {load}
wanted = [flat(net(torch.from_numpy(x.copy()))) for x in inputs[16:]]
found = [session.run(x) for x in inputs[16:]]
for i in range(len(wanted[0])):
    reference = np.concatenate([w[i].ravel() for w in wanted]).astype(np.float64)
    noise = reference - np.concatenate([f[i].ravel() for f in found])
    db = 10 * np.log10((reference**2).sum() / max((noise**2).sum(), 1e-300))
    print(f"output {{i}}: {{db:.1f}} dB, floor {floor:g}")
'''
