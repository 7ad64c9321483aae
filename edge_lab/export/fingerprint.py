"""One hash of all that goes into a bundle, so that an unchanged bundle is reused and a changed one is not."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lab.bundle.spec import ModelSpec
from edge_lab.capture.target import Target
from edge_lab.compress.graphs.quantized import method_of
from edge_lab.export.contents import Contents
from edge_lab.export.sources import files_digest, own_source, versions

if TYPE_CHECKING:
    import numpy as np
    import torch


def fingerprint(
    module: torch.nn.Module, spec: ModelSpec, target: Target, calibration: Iterable[np.ndarray], golden: Iterable[bytes]
) -> str:
    """Hex SHA-256 over all that a bundle rests on.

    That is the module (its tensors, whether a state dict holds them or not, every other attribute, its hooks, the code
    of the user's classes and functions and what they read elsewhere, the user's files that they stand in or import),
    spec, target, all inputs, versions, and this package's own code. Comments and docstrings do not count. A module that
    holds something which can't be read (an open file, a generator) gets another fingerprint every time.
    """
    from torch.nn.modules import module as hooks

    contents = Contents()
    digest = hashlib.sha256()
    everywhere = (*hooks._global_forward_pre_hooks.values(), *hooks._global_forward_hooks.values())
    for part in (module, method_of(module), everywhere):
        digest.update(contents.digest(part))
    digest.update(files_digest(contents.modules))
    digest.update(
        json.dumps([asdict(spec), asdict(target) | {"name": target.kind}, versions()], sort_keys=True).encode()
    )
    for x in calibration:
        digest.update(contents.digest(x))
    for case in golden:
        digest.update(case)
    digest.update(own_source())
    return digest.hexdigest()


def made_by(fingerprint_: str) -> dict[str, Any]:
    """The `made_by` record of bundle.json: versions, git revision of this checkout, date (UTC), fingerprint."""
    from datetime import datetime, timezone

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "edge_lab": metadata.version("edge-lab"),
        **versions(),
        "git": _revision(),
        "date": now,
        "fingerprint": fingerprint_,
    }


@cache
def _revision() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
