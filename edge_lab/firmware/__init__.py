"""A bundle of C sources as a firmware: built for a board, run in QEMU, compared with its recorded answers by byte."""

from edge_lab.firmware.build import Image, Machine, build, machine, machines
from edge_lab.firmware.cases import Case, cases_of, golden_cases
from edge_lab.firmware.run import Answer, Run, execute, run

__all__ = [
    "Answer",
    "Case",
    "Image",
    "Machine",
    "Run",
    "build",
    "cases_of",
    "execute",
    "golden_cases",
    "machine",
    "machines",
    "run",
]
