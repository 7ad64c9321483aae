"""The package behind the labs: from a PyTorch model to a bundle that a device can run.

Everything in `__all__` is imported on first use, so that `import edge_lab` costs milliseconds and never loads torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# ONNX Runtime's Linux builds report to their maker unless this stands in the environment before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# The Hugging Face hub, where weights of timm are fetched when they are asked for, learns PyTorch's version and which
# program runs this unless this stands there. (Ray and the engines of edge_lab.peers: see where they are imported.)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edge_lab import compress, data, export, flow, measure, report, train, zoo
    from edge_lab.bundle import spec
    from edge_lab.bundle.folder import Bundle
    from edge_lab.bundle.spec import ModelSpec, Postprocess, Prediction, Preprocess, TensorSpec, postprocess, preprocess
    from edge_lab.clinic import doctor
    from edge_lab.core import errors
    from edge_lab.core.errors import EdgeLabError
    from edge_lab.export import Target, targets, to
    from edge_lab.flow import check, run
    from edge_lab.formats import runtime
    from edge_lab.formats.runtime import Session, eager, load
    from edge_lab.signals.image import read_image
    from edge_lab.zoo import Model, create, from_module, list_models, register

    __version__: str

_HOME = {
    "Bundle": "bundle.folder",
    "EdgeLabError": "core.errors",
    "Model": "zoo",
    "ModelSpec": "bundle.spec",
    "Postprocess": "bundle.spec",
    "Prediction": "bundle.spec",
    "Preprocess": "bundle.spec",
    "Session": "formats.runtime",
    "Target": "export",
    "TensorSpec": "bundle.spec",
    "create": "zoo",
    "eager": "formats.runtime",
    "from_module": "zoo",
    "list_models": "zoo",
    "load": "formats.runtime",
    "postprocess": "bundle.spec",
    "preprocess": "bundle.spec",
    "read_image": "signals.image",
    "register": "zoo",
    "run": "flow",
    "targets": "export",
    "to": "export",
}
_MODULES = {
    "check": "flow.check",
    "compress": "compress",
    "data": "data",
    "doctor": "clinic.doctor",
    "errors": "core.errors",
    "export": "export",
    "flow": "flow",
    "measure": "measure",
    "report": "report",
    "runtime": "formats.runtime",
    "spec": "bundle.spec",
    "train": "train",
    "zoo": "zoo",
}

__all__ = [
    "Bundle",
    "EdgeLabError",
    "Model",
    "ModelSpec",
    "Postprocess",
    "Prediction",
    "Preprocess",
    "Session",
    "Target",
    "TensorSpec",
    "__version__",
    "check",
    "compress",
    "create",
    "data",
    "doctor",
    "eager",
    "errors",
    "export",
    "flow",
    "from_module",
    "list_models",
    "load",
    "measure",
    "postprocess",
    "preprocess",
    "read_image",
    "register",
    "report",
    "run",
    "runtime",
    "spec",
    "targets",
    "to",
    "train",
    "zoo",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value: object = getattr(import_module(f"edge_lab.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"edge_lab.{_MODULES[name]}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("edge-lab")
    else:
        raise AttributeError(f"module 'edge_lab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
