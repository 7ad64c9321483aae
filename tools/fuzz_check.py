"""Right or refused: what `edge_lab.to` makes of one network.

A network that says nothing is passed over: one that gives NaN, whose outputs do not depend on the input, or whose
answers in float32 are mostly rounding (compared with float64).
"""

from __future__ import annotations

import copy
import math
import re
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

TARGETS = (
    "linux-onnx-fp32",
    "linux-xnnpack-fp32",
    "linux-onnx-int8",
    "linux-xnnpack-int8",
    "linux-pt2-fp32",
    "ios-coreml-fp32",
)
FLOOR_DB = {"fp32": 60.0, "int8": 8.0}  # of every output, on inputs that edge_lab has not seen
LOOK_DB = {"fp32": 80.0, "int8": 15.0}  # right, but worth a look
STEADY_DB = 90.0  # of float32 against float64, else nothing can be said

Verdict = Literal[
    "right", "low", "refused", "gate", "not compared", "wrong", "unexplained", "traceback", "crash", "hang"
]
FINDINGS = ("wrong", "unexplained", "traceback", "crash", "hang")
_EMPTY_WORDS = ("please report", "--debug", "did not expect", "Traceback")


@dataclass(frozen=True)
class Cell:
    """What became of one network on one target.

    "gate": refused since the program, once written, differed from PyTorch; "low": right, but worth a look. `db` is the
    worst output's, `text` the refusal or what went wrong.
    """

    verdict: Verdict
    text: str = ""
    db: float | None = None
    seconds: float = 0.0


def flat(value: Any) -> list[np.ndarray]:
    """Every tensor of an output, in the order of the code."""
    if isinstance(value, torch.Tensor):
        return [value.detach().numpy()]
    return [a for v in (value.values() if isinstance(value, dict) else value) for a in flat(v)]


def answers(net: nn.Module, inputs: Sequence[np.ndarray], dtype: torch.dtype = torch.float32) -> list[list[np.ndarray]]:
    """Per input: every output of PyTorch."""
    with torch.no_grad():
        return [[a.copy() for a in flat(net(torch.from_numpy(x.copy()).to(dtype)))] for x in inputs]


def worst_db(wanted: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> float:
    """SQNR in dB of the worst output, each taken over all inputs; -inf: another number or shape of outputs."""
    if any(len(w) != len(f) for w, f in zip(wanted, found, strict=True)):
        return -math.inf
    return min(_db([w[i] for w in wanted], [f[i] for f in found]) for i in range(len(wanted[0])))


def _within(seen: list[list[np.ndarray]], outputs: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Cut every output to the range that the calibration showed: an int8 program knows no other numbers."""
    ranges = [(min(a.min() for a in arrays), max(a.max() for a in arrays)) for arrays in zip(*seen, strict=True)]
    return [[np.clip(a, *r) for a, r in zip(arrays, ranges, strict=True)] for arrays in outputs]


def _db(wanted: list[np.ndarray], found: list[np.ndarray]) -> float:
    if any(w.shape != f.shape for w, f in zip(wanted, found, strict=True)):
        return -math.inf
    reference, other = (np.concatenate([a.ravel() for a in arrays]).astype(np.float64) for arrays in (wanted, found))
    noise = float(np.square(reference - other).sum())
    if not math.isfinite(noise):
        return -math.inf
    return 200.0 if noise == 0 else min(200.0, 10 * math.log10(float(np.square(reference).sum()) / noise + 1e-20))


def says_nothing(net: nn.Module, inputs: Sequence[np.ndarray]) -> str | None:
    """Why no verdict on this network would mean anything, or None."""
    known = answers(net, inputs)
    if not all(np.isfinite(a).all() for outs in known for a in outs):
        return "not finite"
    for i in range(len(known[0])):
        rows = np.stack([outs[i].ravel() for outs in known]).astype(np.float64)
        if rows.std(0).max() <= 1e-4 * np.abs(rows).max():
            return "does not depend on its input"
        if not 1e-7 < np.abs(rows).max() < 1e7:
            return "too small or too large"
    if worst_db(answers(_double(net), inputs, torch.float64), known) < STEADY_DB:
        return "mostly rounding"
    return None


def _double(net: nn.Module) -> nn.Module:
    twin = copy.deepcopy(net).double()
    for part in twin.modules():  # plain tensors are no parameters
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(part, name, value.double())
    return twin


def check(net: nn.Module, inputs: Sequence[np.ndarray], shape: tuple[int, ...], target: str) -> Cell:
    """Export, and compare the program with PyTorch on the last eight inputs, which `to` did not get."""
    import edge_lab
    from edge_lab.core.errors import DivergenceError
    from edge_lab.formats.coreml.mil.run import run_or_interpret

    start = time.perf_counter()

    def cell(verdict: Verdict, text: str = "", db: float | None = None) -> Cell:
        return Cell(verdict, text, db, round(time.perf_counter() - start, 2))

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            model = edge_lab.from_module(net, shape, name="net", task="tensor")
            bundle = edge_lab.to(model, target, golden=inputs[:5], calibration=inputs[5:16], out=folder)
            if bundle.parity is None or bundle.parity.compared == "no":
                return cell("not compared", _unknown(bundle))
            session = run_or_interpret(bundle)
            wanted, found = answers(net, inputs[16:]), [list(session.run(x)) for x in inputs[16:]]
            if target.endswith("int8"):
                seen = answers(net, inputs[5:16])
                wanted, found = _within(seen, wanted), _within(seen, found)
            db = worst_db(wanted, found)
        except DivergenceError as error:
            return cell("unexplained" if badly_said(error) else "gate", str(error), round(error.sqnr_db, 1))
        except edge_lab.EdgeLabError as error:
            return cell("unexplained" if badly_said(error) else "refused", str(error))
        except MemoryError:
            return cell("crash", "more memory than a small network may take")
        except Exception:
            return cell("traceback", traceback.format_exc(limit=-6))
    precision = target.rsplit("-", 1)[1]
    # The gate lowers its limit where PyTorch itself loses as much in this precision.
    allowed = min(output.limit_db for output in bundle.parity.outputs) - 3
    if db < (min(FLOOR_DB[precision], allowed) if precision == "int8" else FLOOR_DB[precision]):
        if precision == "int8" and db > shaken(net, inputs[16:]) - 3:
            return cell("low", "PyTorch answers as differently to inputs that differ by 5 %", round(db, 1))
        return cell("wrong", f"{db:.1f} dB", round(db, 1))
    return cell("low" if db < LOOK_DB[precision] else "right", "", round(db, 1))


def shaken(net: nn.Module, inputs: Sequence[np.ndarray], draws: int = 8) -> float:
    """SQNR in dB of PyTorch's worst answer when inputs differ by 5 % of their spread: what has a jump, has little."""
    rng, known = np.random.default_rng(0), answers(net, inputs)
    noisy = ([x + rng.normal(0, 0.05 * x.std(), x.shape).astype(np.float32) for x in inputs] for _ in range(draws))
    return min(worst_db(known, answers(net, others)) for others in noisy)


def badly_said(error: Any) -> bool:
    """Whether a refusal lacks a line, or sends the reader away."""
    return not all(line.strip() for line in (error.what, error.why, error.fix)) or any(
        word in str(error) for word in _EMPTY_WORDS
    )


def _unknown(bundle: Any) -> str:
    from edge_lab.core.errors import EdgeLabError
    from edge_lab.formats.coreml.mil.run import run_or_interpret

    try:
        run_or_interpret(bundle)
    except EdgeLabError as error:
        return error.why
    return ""


def cause(cell: Cell) -> str:
    """A refusal or failure without what differs from network to network: its numbers and names."""
    text = cell.text.strip()
    if cell.verdict in ("traceback", "crash"):
        text = text.splitlines()[-1] if text else ""
    elif "\n" in text:
        what, why = text.split("\n  why: ")[0], text.split("\n  why: ")[-1].split("\n  fix: ")[0]
        text = why if cell.verdict in ("refused", "gate") else f"{what} | {why}"
    text = re.sub(r"/\S+|'?<fuzz[^>]*>'?:?\d*", "~", text)
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", text)[:160]
