"""Where the limits of `to` come from: what each precision costs many networks, in PyTorch alone and in programs.

    python tools/limits.py control [--out artifacts/limits] [PATTERN]    PyTorch in each precision: seconds a network
    python tools/limits.py programs [--out artifacts/limits] [PATTERN]   real programs: minutes a network
    python tools/limits.py write [--out artifacts/limits] [DOC]          docs/results/limits.md from the results

The networks are those of tools/coverage.py with random weights, made alive there: the hardest to round, since
nothing was trained to survive it. Results are lines of OUT/limits.jsonl; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coverage import ARCHITECTURES, ROOT, Architecture, build

import edge_lab
from edge_lab import data
from edge_lab.bundle.folder import Scheme
from edge_lab.core.errors import EdgeLabError
from edge_lab.export import target as target_of
from edge_lab.export.gate import LIMITS, own_precision
from edge_lab.quality.accuracy import prepare
from edge_lab.zoo import Model

OUT = Path("artifacts/limits")
INPUTS = 5  # as many as a bundle records
CONTROLS: tuple[Scheme, ...] = ("fp32", "fp16", "bf16", "int8-static", "int8-weights", "int4-weights")
PROGRAMS = (
    "linux-xnnpack-int8",
    "linux-onnx-int8",
    "linux-xnnpack-fp16",
    "linux-onnx-fp16",
    "linux-pt2-bf16",
    "linux-onnx-int8-weights",
    "linux-onnx-int4-weights",
    "linux-xnnpack-int8-dynamic",
    "linux-xnnpack-int4-dynamic",
)


def control(model: Model) -> Iterator[tuple[str, str, float | None]]:
    """(what, precision, dB of the furthest output) of PyTorch itself."""
    x = [row[None] for row in prepare(data.load("photos").take(INPUTS), model.spec).x]
    reference = [edge_lab.eager(model).run(row) for row in x]
    for scheme in CONTROLS:
        found = own_precision(model, scheme, x, reference)
        yield "control", scheme, min(found) if found else None


def programs(model: Model) -> Iterator[tuple[str, str, float | None]]:
    """The same of real programs; None: the target does not take the network."""
    with tempfile.TemporaryDirectory() as folder:
        for target in PROGRAMS:
            try:
                bundle = edge_lab.to(model, target, out=folder, allow_divergence=True)
            except EdgeLabError:
                yield target, target_of(target).scheme, None
                continue
            assert bundle.parity is not None
            yield target, bundle.quantization.scheme, min(output.sqnr_db for output in bundle.parity.outputs)


def run(
    nets: list[Architecture], measure: Callable[[Model], Iterator[tuple[str, str, float | None]]], out: Path
) -> None:
    """Every network that is not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "limits.jsonl"
    have = {(row["network"], row["kind"]) for row in rows(file)}
    for number, net in enumerate(nets, 1):
        if (net.name, measure.__name__) in have:
            continue
        found = list(measure(build(net)))
        with file.open("a", encoding="utf-8") as handle:
            for what, scheme, db in found:
                line = {"network": net.name, "kind": measure.__name__, "what": what, "scheme": scheme, "db": db}
                handle.write(json.dumps(line) + "\n")
        print(f"[{number}/{len(nets)}] {net.name}", flush=True)


def rows(file: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


_HEAD = """# What each precision costs

    python tools/limits.py control && python tools/limits.py programs && python tools/limits.py write

SQNR in dB of the output that is furthest from eager PyTorch, on {inputs} shipped photos. The networks are those of
[coverage.md](../coverage.md), with random weights that were made alive: nothing was trained to survive rounding, so
they are the hardest case. The control is PyTorch in that precision, without a converter (`edge_lab/export/control.py`).

| precision | what | networks | least | a tenth below | median | most | limit | floor | below the limit |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"""

_GAPS = """
How far real programs are below the control of the same network (a negative number: nearer than the control):

| precision | programs | median | a tenth above | most | margin |
|---|---:|---:|---:|---:|---:|"""


def page(found: list[dict[str, Any]]) -> str:
    """The distribution of each precision beside its limit, and how near programs come to their control."""
    lines = [_HEAD.format(inputs=INPUTS)]
    for scheme in CONTROLS + tuple(s for s in LIMITS if s not in CONTROLS):
        for what in dict.fromkeys(row["what"] for row in found if row["scheme"] == scheme):
            values = sorted(
                r["db"] for r in found if r["what"] == what and r["scheme"] == scheme and r["db"] is not None
            )
            if not values:
                continue
            limit = LIMITS[scheme]
            shown = (values[0], values[len(values) // 10], statistics.median(values), values[-1])
            cells = " | ".join(f"{value:.0f}" for value in shown)
            below = sum(value < limit.db for value in values)
            lines.append(f"| {scheme} | {what} | {len(values)} | {cells} | {limit.db:g} | {limit.floor:g} | {below} |")
    gaps = list(_gaps(found))
    if gaps:
        lines.append(_GAPS)
        for scheme, values in gaps:
            high = values[-1 - len(values) // 10]
            cells = f"{statistics.median(values):.1f} | {high:.1f} | {values[-1]:.1f}"
            lines.append(f"| {scheme} | {len(values)} | {cells} | {LIMITS[scheme].margin:g} |")
    return "\n".join(lines) + "\n"


def _gaps(found: list[dict[str, Any]]) -> Iterator[tuple[Scheme, list[float]]]:
    own = {(r["network"], r["scheme"]): r["db"] for r in found if r["kind"] == "control" and r["db"] is not None}
    for scheme in CONTROLS:
        pairs = [
            own[r["network"], scheme] - r["db"]
            for r in found
            if r["kind"] == "programs"
            and r["scheme"] == scheme
            and r["db"] is not None
            and (r["network"], scheme) in own
        ]
        if pairs:
            yield scheme, sorted(pairs)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("control", "programs", "write"))
    parser.add_argument("word", nargs="?")
    parser.add_argument("--out", type=Path, default=OUT)
    a = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    if a.verb == "write":
        doc = Path(a.word) if a.word else ROOT / "docs" / "results" / "limits.md"
        doc.write_text(page(rows(a.out / "limits.jsonl")), encoding="utf-8")
        print(doc)
        return
    nets = [net for net in ARCHITECTURES if fnmatch.fnmatch(net.name, a.word or "*")]
    run(nets, control if a.verb == "control" else programs, a.out)


if __name__ == "__main__":
    main()
