"""Data sets: what comes with the package, well-known sets by name, and your own folders."""

from edge_lab.data.catalog import load, sets
from edge_lab.data.combine import concat
from edge_lab.data.folders import folder
from edge_lab.data.images import ImageSet

__all__ = ["ImageSet", "concat", "folder", "load", "sets"]
