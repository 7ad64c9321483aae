"""Export the default bundle of mcu/Makefile: digitnet for a Cortex-M4, with real handwriting as golden inputs."""

from pathlib import Path

import edge_lab
from edge_lab import data, zoo

bundle = edge_lab.to(
    zoo.create("digitnet"),
    "mcu-cortex-m4-int8",
    calibration=data.load("handwriting", "train", limit=128),
    golden=data.load("handwriting", "test"),
    out=Path(__file__).resolve().parent.parent / "artifacts",
)
print(f"exported {bundle.name}")
