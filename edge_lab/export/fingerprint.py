"""One hash of all that goes into a bundle, so that an unchanged bundle is reused and a changed one is not."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.compress.quantized import method_of
from edge_lab.export.target import Target
from edge_lab.spec import ModelSpec

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "torchvision",
    "torchao",
    "executorch",
    "onnx",
    "onnxruntime",
    "coremltools",
    "timm",
    "numpy",
    "bakenn",
)


def fingerprint(
    module: torch.nn.Module, spec: ModelSpec, target: Target, calibration: Iterable[np.ndarray], golden: Iterable[bytes]
) -> str:
    """Hex SHA-256 over weights, module code, spec, target, all inputs, versions, and this package's own code."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        for part in _contents(value):
            digest.update(part)
    digest.update(str(method_of(module)).encode())
    digest.update(repr(module).encode())
    digest.update(str(getattr(module, "code", "")).encode())  # graph modules: scales stand in the code
    digest.update(_sources(module).encode())
    digest.update(
        json.dumps([asdict(spec), asdict(target) | {"name": target.kind}, _versions()], sort_keys=True).encode()
    )
    for x in calibration:
        digest.update(x.tobytes())
    for case in golden:
        digest.update(case)
    digest.update(_own_source().encode())
    return digest.hexdigest()


def _contents(value: Any) -> Iterator[bytes]:
    """The bytes of a state dict's entry: tensors of any kind, the legacy packed weights, and anything with a repr."""
    import torch

    if isinstance(value, torch.Tensor) and hasattr(value, "__tensor_flatten__"):  # torchao: tensors inside a tensor
        names, about = value.__tensor_flatten__()
        yield f"{type(value)} {about}".encode()
        for name in names:
            yield from _contents(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        if value.is_quantized:
            yield repr(value).encode()  # its scales; only a few of its values
            value = value.int_repr()
        yield value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _contents(part)
    elif isinstance(value, torch.ScriptObject):
        yield from _contents(value.__getstate__())  # type: ignore[no-untyped-call]
    else:
        yield repr(value).encode()


def _sources(module: torch.nn.Module) -> str:
    """Source of every user-written class in the module; libraries are covered by their versions."""
    sources = set()
    for kind in {type(m) for m in module.modules()}:
        if kind.__module__.split(".")[0] in ("torch", "torchvision", "timm"):
            continue
        try:
            file = inspect.getsourcefile(kind)
            sources.add(Path(file).read_text(encoding="utf-8") if file else repr(kind))
        except (OSError, TypeError):  # defined in a REPL
            sources.add(kind.__qualname__)
    return "".join(sorted(sources))


@cache
def _own_source() -> str:
    package = Path(__file__).parents[1]
    files = [*sorted((package / "export").glob("*.py")), *sorted((package / "compress").glob("*.py"))]
    return "".join(f.read_text(encoding="utf-8") for f in [*files, package / "spec.py", package / "bundle.py"])


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def made_by(fingerprint_: str) -> dict[str, Any]:
    """The `made_by` record of bundle.json: versions, git revision of this checkout, date (UTC), fingerprint."""
    from datetime import datetime, timezone

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "edge_lab": metadata.version("edge-lab"),
        **_versions(),
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
