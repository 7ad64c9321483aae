"""docs/coverage.md from the lines that `tools/coverage.py run` wrote."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edge_lab.core.numbers import EQUAL_DB

Row = dict[str, Any]
COLUMNS = ("linux-onnx-fp32", "linux-xnnpack-fp32", "linux-pt2-fp32", "ios-coreml-fp16")
LIMITS = {"linux-onnx-fp32": 60, "linux-xnnpack-fp32": 60, "linux-pt2-fp32": 60, "ios-coreml-fp16": 35}


def page(rows: list[Row]) -> str:
    """The whole document."""
    causes: list[str] = []
    nets = {row["network"]: row for row in rows}
    cells = {(row["network"], row["target"]): row for row in rows}
    table = [_line(about, [cells.get((name, target)) for target in COLUMNS], causes) for name, about in nets.items()]
    head = "| network | pixels | ONNX | .pte, XNNPACK | .pt2 | Core ML fp16, interpreted | PyTorch fp16 |"
    parts = [
        _INTRO.format(nets=len(nets), versions=_versions(rows)),
        _counts(rows),
        "\n".join([head, "|---|---:|---|---|---|---|---:|", *table]),
        "## Why not\n\n"
        + ("\n".join(f"{i}. {text}" for i, text in enumerate(causes, 1)) or "Every cell has a program."),
        _outside(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _line(about: Row, cells: list[Row | None], causes: list[str]) -> str:
    half = next((c["half_db"] for c in cells if c and c.get("half_db") is not None), None)
    texts = ["–" if cell is None else _cell(cell, causes) for cell in cells]
    control = "–" if half is None else f"{half:.0f} dB"
    return f"| `{about['network']}` | {about['size']} | {' | '.join(texts)} | {control} |"


def _cell(cell: Row, causes: list[str]) -> str:
    if cell["sqnr_db"] is None:
        text = f"{cell['why']} {cell['fix'][:1].upper()}{cell['fix'][1:]}"
        if text not in causes:
            causes.append(text)
        return f"{'not compared' if cell['exported'] else 'no'} ({causes.index(text) + 1})"
    words = ["equal" if cell["sqnr_db"] >= EQUAL_DB else f"{cell['sqnr_db']:.0f} dB"]
    if cell["agreement"] is not None and cell["agreement"] < 100:
        words.append(f"{cell['agreement']:.1f} % of answers")
    if cell["delegated"] is not None:
        words.append(f"{100 * cell['delegated']:.0f} % inside")
    return ", ".join(words)


def _counts(rows: list[Row]) -> str:
    lines = ["| format | programs | compared | at least | reach it | lowest |", "|---|---:|---:|---:|---:|---:|"]
    for target, limit in LIMITS.items():
        mine = [row for row in rows if row["target"] == target]
        values = [row["sqnr_db"] for row in mine if row["sqnr_db"] is not None]
        written = sum(row["exported"] for row in mine)
        good = sum(value >= limit for value in values)
        lowest = f"{min(values):.0f} dB" if values else "–"
        numbers = f"{written} of {len(mine)} | {len(values)} | {limit} dB | {good} | {lowest}"
        lines.append(f"| `{target}` | {numbers} |")
    return "\n".join(lines)


def _outside(rows: list[Row]) -> str:
    names = Counter(name for row in rows for name in row["left"])
    owners = {name: [row["network"].partition(":")[2] for row in rows if name in row["left"]] for name in names}
    whole = sum(row["delegated"] == 1 and not row["left"] for row in rows if row["delegated"] is not None)
    lines = [
        f"| `{n}` | {count} | {', '.join(owners[n][:4])}{', …' if count > 4 else ''} |"
        for n, count in names.most_common()
    ]
    intro = f"## What stays outside XNNPACK\n\n{whole} networks are inside from end to end. Of the others:\n\n"
    return intro + "\n".join(["| operator | networks | such as |", "|---|---:|---|", *lines])


def _versions(rows: list[Row]) -> str:
    found = rows[-1]["versions"] if rows else {}
    return ", ".join(f"{name} {value}" for name, value in found.items())


_INTRO = """# Which architectures go where

    make coverage

{nets} networks of torchvision and timm, each exported to four formats, each program compared with eager PyTorch on eight real
photos, one process per network. {versions}. Your own model: `edge-lab coverage my_model.py:build --input 1x3x224x224`.

**What the numbers mean.** A cell is the signal to noise ratio of the outputs in dB; "equal" is equal bit for bit. Answers (argmax, per
pixel for segmentation) agree to 100 % unless the cell says otherwise. "Inside" is the share of operators that XNNPACK executes.
Weights are random: no download is needed, and whether a converter translates an operator right does not depend on training. But random
networks hide mistakes: branches start multiplied by zero, norms pass everything through, and every picture gets one answer. So
every scale that starts at (almost) zero is set to 0.5, batch norms get their statistics from photos, and the outputs must differ
from photo to photo. Agreement on such a network says little, because its best two classes are close; the dB say it.

**Core ML** is fp16 and computed by a reference interpretation of the saved file, not by a device. Rounding to 16 bits costs more on
random weights than on trained ones, so the last column has a control where it was measured: the same network in PyTorch's own float16,
no converter involved. A Core ML cell that is as low as its control is float16, not a mistake of the converter.

**What it found.** EfficientFormerV2-S0 first came out of XNNPACK at 16 dB with 87.5 % of its answers: softmax over the width of a feature map ran
over its channels. The export now writes it as a 3-D view, and a test keeps it so; see
[results/accelerators.md](results/accelerators.md).

Detectors are covered up to their filter of boxes (backbone and head); the filter returns another size for every picture."""  # noqa: E501
