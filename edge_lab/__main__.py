"""`python -m edge_lab` is `edge-lab`."""

import sys

from edge_lab.cli.main import main

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())
