"""The process that `lite.mobile_passes` starts: try one mobile pass after another and say what came of it.

    python -m edge_lab.formats.torchscript.lite_probe FOLDER NAME ...

FOLDER holds program.pt and example.pt of a model, or nothing. Before a pass it prints {"name": NAME}, afterwards the
same with the result, so that the parent knows which one the process died of. It imports torch: not for early import.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.jit.mobile
import torch.utils.mobile_optimizer
from torch import nn

from edge_lab.formats.torchscript.lite import passes

_jit: Any = torch.jit  # deprecated and hardly typed
_HIDDEN = ("prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::CallMethod", "prim::TupleConstruct")


class Sample(nn.Module):
    """Something for every pass: batch norm, dropout, add and ReLU, a clamp, a 1-d convolution, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.line = nn.Conv2d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3)
        self.drop, self.head = nn.Dropout(), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) to (1, 10)."""
        y = nn.functional.relu6(self.norm(self.first(x)))
        z = torch.relu(self.second(y) + y)
        return self.head(self.drop(self.line(z.flatten(2)).mean(2)))  # type: ignore[no-any-return]


def main(folder: Path, names: list[str]) -> int:
    """Try every name; the answers go to standard output, one JSON object a line."""
    if (folder / "program.pt").exists():
        x, want = torch.load(folder / "example.pt", weights_only=True)
        source = folder / "program.pt"
    else:
        torch.manual_seed(0)
        net, x = Sample().eval(), torch.randn(1, 3, 16, 16)
        want, source = net(x).detach(), folder / "sample.pt"
        _jit.script(net).save(str(source))
    for name in names:
        print(json.dumps({"name": name}), flush=True)
        answer = _blocklists(source) if name == "blocklists" else _try(name, source, x, want, folder / "tried.ptl")
        print(json.dumps({"name": name, "done": True} | answer), flush=True)
    return 0


def _try(name: str, source: Path, x: torch.Tensor, want: Any, out: Path) -> dict[str, Any]:
    program = _jit.load(str(source))
    if name not in ("freeze", "vulkan", "metal"):  # these freeze themselves
        program = passes()["freeze"].run(program)
    before = _operators(program)
    try:
        with torch.no_grad():
            program = passes()[name].run(program)
            after = _operators(program)
            program._save_for_lite_interpreter(str(out))
            got = _jit.mobile._load_for_lite_interpreter(str(out))(x)
    except Exception as error:  # internal asserts, unknown operators, classes that are not there
        return {"note": _reason(error)}
    pairs = zip(torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(want), strict=True)
    return {"before": before, "after": after, "error": max(float((a - b).abs().max()) for a, b in pairs), "note": ""}


def _blocklists(source: Path) -> dict[str, Any]:
    """`optimize_for_mobile` with every subset of its passes blocked."""
    optimizer: Any = torch.utils.mobile_optimizer
    members = list(optimizer.MobileOptimizerType.__members__.values())
    subsets = [set(s) for n in range(len(members) + 1) for s in itertools.combinations(members, n)]
    works, note = 0, ""
    for blocked in subsets:
        try:
            optimizer.optimize_for_mobile(_jit.load(str(source)), blocked)
            works += 1
        except Exception as error:  # see _try
            note = note or _reason(error)
    return {"works": works, "tried": len(subsets), "note": note}


def _operators(program: Any) -> dict[str, int]:
    """How often each operator stands in the code, in all its branches, calls opened."""
    kinds = Counter(node.kind() for node in _walk(program.inlined_graph))
    return {kind.split("::")[1]: n for kind, n in sorted(kinds.items()) if kind not in _HIDDEN}


def _walk(block: Any) -> Any:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _walk(inner)


def _reason(error: Exception) -> str:
    """The sentence of the message that says something."""
    text = " ".join(str(error).split())
    text = text.split("please report a bug to PyTorch. ")[-1]
    return re.split(r" Please ensure| Argument types|: graph\(", text)[0][:160].rstrip(". ")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
