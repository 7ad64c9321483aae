"""`python -m edge_lab.devices.firmware BUNDLE BOARD FOLDER`: images for a real board, for mcu/Makefile."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_lab.core.errors import EdgeLabError
from edge_lab.devices.firmware import for_a_board


def main() -> int:
    """0, or 2 with a message."""
    if len(sys.argv) != 4:
        print("usage: python -m edge_lab.devices.firmware BUNDLE BOARD FOLDER", file=sys.stderr)
        return 2
    try:
        images = for_a_board(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except EdgeLabError as error:
        print(error, file=sys.stderr)
        return 2
    for image in images:
        print(
            f"{image.path.with_suffix('.bin')}: {image.flash:,} bytes of flash, {image.ram:,} bytes of RAM and a stack"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
