"""Data sets: what comes with the package, well-known sets by name, and your own folders."""

from edge_lab.data.catalog import load, sets
from edge_lab.data.combine import concat
from edge_lab.data.folders import folder
from edge_lab.data.images import ImageSet
from edge_lab.data.sounds import SoundSet
from edge_lab.data.spoken import load_sounds, sound_folder, sound_sets

__all__ = ["ImageSet", "SoundSet", "concat", "folder", "load", "load_sounds", "sets", "sound_folder", "sound_sets"]
