"""A bundle of C sources as a firmware: built for a board, run in QEMU, compared with its recorded answers by byte."""

from edge_lab.devices.firmware.by_layer import LayerCost, layers
from edge_lab.devices.firmware.cases import Case, cases_of, golden_cases
from edge_lab.devices.firmware.emulator import Answer, Run, execute, for_a_board, link, run
from edge_lab.devices.firmware.image import Image, Machine, build, machine, machines

__all__ = [
    "Answer",
    "Case",
    "Image",
    "LayerCost",
    "Machine",
    "Run",
    "build",
    "cases_of",
    "execute",
    "for_a_board",
    "golden_cases",
    "layers",
    "link",
    "machine",
    "machines",
    "run",
]
