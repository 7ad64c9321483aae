"""What is wrong with a .pt2 file that could not be loaded, in one sentence.

torch.export.load answers most damage with "please check the warnings above", and prints pages of them.
"""

from __future__ import annotations

import json
import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_lab.core.errors import BundleError

_ARCHIVE_VERSION = 0  # of the container; the schema of the graph inside has a version of its own


def explain(path: Path) -> None:
    """Read a .pt2 file's directory and graph as plain zip and JSON. Returns if nothing is wrong with them.

    Raises:
        BundleError: it is no whole archive, a part is missing, another PyTorch wrote it, or it calls an operator that
            does not exist here.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_parts(path, archive)
            for name in archive.namelist():
                if posixpath.basename(posixpath.dirname(name)) == "models" and name.endswith(".json"):
                    program = json.loads(archive.read(name))
                    _check_version(path, program)
                    _check_operators(path, program)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = "no zip archive, or its end is missing" if isinstance(error, zipfile.BadZipFile) else "damaged inside"
        raise BundleError(
            f"torch can't load {path}: it is not a whole .pt2 file.",
            f"it is {kind} ({type(error).__name__}: {error}).",
            "copy it again, or export the model again.",
        ) from error


def _check_parts(path: Path, archive: zipfile.ZipFile) -> None:
    names = set(archive.namelist())
    missing = [] if any("/models/" in name for name in names) else ["the graph (models/*.json)"]
    for name in sorted(names):
        if name.endswith("/archive_version") and int(archive.read(name)) > _ARCHIVE_VERSION:
            raise _newer(path, f"its container has version {int(archive.read(name))}", f"{_ARCHIVE_VERSION}", None)
        if name.endswith("_config.json") and "/data/" in name:
            parts = json.loads(archive.read(name))["config"].values()
            wanted = (f"{posixpath.dirname(name)}/{part['path_name']}" for part in parts)
            missing += [part for part in wanted if part not in names]
    if missing:
        raise BundleError(
            f"torch can't load {path}: parts of it are missing.",
            f"it does not hold {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}.",
            "copy it again, or export the model again.",
        )


def _check_version(path: Path, program: dict[str, Any]) -> None:
    from torch._export.serde.schema import SCHEMA_VERSION

    ours: int = SCHEMA_VERSION[0]  # type: ignore[index]
    theirs = int(program["schema_version"]["major"])
    if theirs != ours:
        raise _newer(path, f"its graph has schema version {theirs}", str(ours), program.get("torch_version"))


def _newer(path: Path, what: str, ours: str, writer: object) -> BundleError:
    by = f"PyTorch {writer}" if writer else "another PyTorch"
    return BundleError(
        f"torch can't load {path}: another version of PyTorch wrote it.",
        f"{what}, written by {by}; this PyTorch reads {ours}.",
        "export the model again with this PyTorch, or install the one that wrote it.",
    )


def _check_operators(path: Path, program: dict[str, Any]) -> None:
    unknown = sorted({target for target in _targets(program["graph_module"]["graph"]) if not _exists(target)})
    if unknown:
        names = ", ".join(target.removeprefix("torch.ops.") for target in unknown[:3])
        raise BundleError(
            f"torch can't load {path}: it calls an operator that does not exist here.",
            f"nothing is registered as {names}.",
            "import the package that registers it first; if it is PyTorch's own, install the one that wrote this.",
        )


def _targets(graph: dict[str, Any]) -> Iterator[str]:
    for node in graph["nodes"]:
        target = str(node["target"])
        if target.startswith("torch.ops.") and not target.startswith("torch.ops.higher_order."):
            yield target


def _exists(target: str) -> bool:
    import torch

    found: Any = torch.ops
    for part in target.split(".")[2:]:
        found = getattr(found, part, None)
    return found is not None
