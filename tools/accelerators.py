"""Accelerators: environments for the two that need their own, and the table of all of them.

    python tools/accelerators.py env openvino        makes .venv-openvino (about 210 MB)
    python tools/accelerators.py env ethos-u         makes .venv-ethos-u (about 260 MB)
    python tools/accelerators.py table               tries every accelerator and prints a table as Markdown

Each environment holds only what differs and sees the packages of this one behind it: OpenVINO 2025.4.1 asks for
numpy < 2.4, and Ethos-U's tools for older numpy, ml_dtypes, flatbuffers and jsonschema than the lock has. They work
with the lock's numpy all the same; `table` shows it by running them. openvino-telemetry is left out: see
tools/peers.py.

The networks have random weights: which operators an accelerator takes does not depend on them.
"""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path
from subprocess import run

import torch
from torch import nn

import edge_lab
from edge_lab.formats.pte.delegates import ACCELERATORS, Lowered, delegates, small_net
from edge_lab.zoo import Model

ROOT = Path(__file__).resolve().parent.parent
PINS = {
    "openvino": (
        "openvino==2025.4.1",
        "nncf==3.1.0",
        "networkx==3.4.2",
        "ninja==1.13.2",
        "pydot==3.0.4",
        "rich==15.0.0",
        "markdown-it-py==4.3.0",
        "mdurl==0.1.2",
    ),
    "ethos-u": (
        "ethos-u-vela==5.1.0",
        "tosa-tools==2026.5.0",
        "ml_dtypes==0.5.1",
        "flatbuffers==25.2.10",
        "jsonschema==4.24.0",
        "semver==3.0.4",
    ),
}


def folder(name: str) -> Path:
    """Where an environment is."""
    return ROOT / f".venv-{name}"


def make(name: str) -> None:
    """Create an environment with the pinned packages, in front of the packages of this one."""
    place = folder(name)
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "edge_lab_main.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PINS[name]], check=True)
    print(place)


class Shifted(nn.Module):
    """Two convolutions with a shift of the picture between them and the largest values behind: few know these."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 3, 32, 32) to (1, 10)."""
        x = torch.relu(self.first(x)).roll(1, 3)
        x = nn.functional.gelu(self.second(x)).flatten(2).topk(8).values.mean(2)
        y: torch.Tensor = self.head(x)
        return y


def networks() -> list[Model]:
    """A small one, one with operators that few know, a mobile net, a transformer."""
    torch.manual_seed(0)
    shifted = edge_lab.from_module(Shifted(), (1, 3, 32, 32), name="shifted", task="tensor")
    names = "torchvision:mobilenet_v3_small", "timm:deit_tiny_patch16_224"
    return [
        small_net(),
        shifted,
        *(edge_lab.create(name, weights="random", input_shape=(1, 3, 96, 96)) for name in names),
    ]


def table() -> None:
    """Every network on every accelerator: one process for each environment."""
    rows: list[Lowered] = []
    models = networks()
    for environment in ("", *PINS):
        own = folder(environment) / "bin" / "python" if environment else Path(sys.executable)
        names = [a.name for a in ACCELERATORS if a.environment == environment]
        rows += delegates(models, names, python=own if own.is_file() else Path(sys.executable))
    print("| network | accelerator | result | inside | pieces | left outside | MB | SQNR dB |")
    print("| --- | --- | --- | ---: | ---: | --- | ---: | ---: |")
    order = [a.name for a in ACCELERATORS]
    for model in models:
        mine = [row for row in rows if row.model == model.spec.name]
        print("\n".join(line(row) for row in sorted(mine, key=lambda row: order.index(row.accelerator))))


def line(row: Lowered) -> str:
    """One row of the table."""
    estimate = ", ".join(f"{name} {value:.10g}" for name, value in row.estimate)
    said = "; ".join(text for text in (row.why, f"vela's estimate: {estimate}" if estimate else "") if text)
    cells = (
        row.model,
        row.accelerator,
        f"{row.state}: {said}" if said else row.state,
        "–" if row.delegated is None else f"{100 * row.delegated:.0f} %",
        str(row.pieces or "–"),
        ", ".join(name.removeprefix("aten_").removesuffix("_default") for name in row.left) or "–",
        "–" if row.size_mb is None else f"{row.size_mb:.3f}",
        "–" if row.sqnr_db is None else f"{row.sqnr_db:.0f}",
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main() -> None:
    """See the top of this file."""
    words = sys.argv[1:]
    if words[:1] == ["env"] and len(words) == 2 and words[1] in PINS:
        make(words[1])
    elif words == ["table"]:
        table()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
