"""What a firmware needs to know of a generated model: edge_lab_model.h for C, model.mk for make."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lab.core.errors import ExportError

HEADER, FRAGMENT = "edge_lab_model.h", "model.mk"
_ARRAY = re.compile(r"const (u?int(?:8|16|32)_t) (\w+)\[(\d+)\] = \{([^}]*)\}")
_LIST = re.compile(r"set\((\w+)\n(.*?)\n\)", re.DOTALL)


@dataclass(frozen=True)
class Sources:
    """What the generated sources don't say: backend, the compiler's name of the core, multiply-adds, labels."""

    backend: str
    cpu: str
    macs: int
    labels: tuple[str, ...]


def write_sources(folder: Path, facts: Sources) -> None:
    """Write both files beside `net` (for the core) and `host` (portable)."""
    net = folder / "net"
    manifest = json.loads(next(net.glob("*_manifest.json")).read_text(encoding="utf-8"))
    weights = next(net.glob("*_weights.c")).read_text(encoding="utf-8")
    (folder / HEADER).write_text(_header(manifest, weights, facts), encoding="utf-8")
    (folder / FRAGMENT).write_text(_fragment(net, facts), encoding="utf-8")


def constants(source: str) -> dict[str, np.ndarray]:
    """The arrays of a generated weights file by name, in order of appearance, little-endian."""
    found = {}
    for kind, name, count, body in _ARRAY.findall(source):
        dtype = np.dtype(kind.removesuffix("_t")).newbyteorder("<")
        values = np.array([int(v) for v in body.replace("\n", " ").split(",") if v.strip()], np.int64).astype(dtype)
        if len(values) != int(count):
            raise ExportError(
                f"the generated weights {name} have {len(values)} values, not {count}.",
                "bakenn writes them in a form that edge_lab does not know.",
                "install the version of requirements.lock: pip install bakenn==1.0.0",
            )
        found[name] = values
    return found


def _header(manifest: dict[str, object], weights: str, facts: Sources) -> str:
    model = str(manifest["model"])
    upper = model.upper()
    arrays = constants(weights)
    stored, known = manifest["constant_payload_bytes"], sum(values.nbytes for values in arrays.values())
    if stored != known:
        raise ExportError(
            f"the checksum would cover {known} of {stored} bytes of weights.",
            "bakenn writes some of them in a form that edge_lab does not know.",
            "install the version of requirements.lock: pip install bakenn==1.0.0",
        )
    crc = 0
    for values in arrays.values():
        crc = zlib.crc32(values.tobytes(), crc)
    listed = " \\\n".join(f"  X({name})" for name in arrays)
    labels = ", ".join(json.dumps(label) for label in facts.labels) or '""'
    return f"""/* What a firmware needs to know of this model. Written by edge_lab; the model itself is in net/. */
#ifndef EDGE_LAB_MODEL_H
#define EDGE_LAB_MODEL_H

#include "{model}.h"
#include "{model}_weights.h"

#define EL_NAME "{model.removeprefix("bknn_")}"
#define EL_BACKEND "{facts.backend}"
#define EL_CPU "{facts.cpu}"
#define EL_MACS {facts.macs}u /* multiply-adds of one inference */

#define EL_INPUT_SIZE {upper}_INPUT_SIZE /* int8 values, NHWC */
#define EL_INPUT_SCALE {upper}_INPUT_SCALE
#define EL_INPUT_ZERO {upper}_INPUT_ZERO_POINT
#define EL_OUTPUT_SIZE {upper}_OUTPUT_SIZE
#define EL_OUTPUT_SCALE {upper}_OUTPUT_SCALE
#define EL_OUTPUT_ZERO {upper}_OUTPUT_ZERO_POINT
#define EL_ARENA_SIZE {upper}_ARENA_SIZE
#define EL_ARENA_ALIGN {upper}_ARENA_ALIGNMENT

#define EL_LABEL_COUNT {len(facts.labels)}u
#define EL_LABELS {{ {labels} }}

/* CRC-32 (as in zlib) over the bytes of these constants, one after another, little-endian. */
#define EL_WEIGHTS_CRC32 0x{crc:08x}u
#define EL_WEIGHTS(X) \\
{listed}

/* Runs the model: `arena` of EL_ARENA_SIZE bytes, aligned to EL_ARENA_ALIGN. */
#define el_infer(arena, input, output) {model}_infer((arena), (input), (output))

#endif
"""


def _fragment(net: Path, facts: Sources) -> str:
    lists = _cmake_lists(net)
    sources = " \\\n  ".join(f"net/{path}" for path in lists["BAKENN_MODEL_SOURCES"])
    includes = " ".join("net" if path == "." else f"net/{path}" for path in lists["BAKENN_MODEL_INCLUDE_DIRS"])
    defines = " ".join(lists.get("BAKENN_MODEL_COMPILE_DEFINITIONS", []))
    return f"""# What make needs to know of this model; paths are relative to this file. Written by edge_lab.
EL_CPU := {facts.cpu}
EL_SOURCES := {sources}
EL_INCLUDES := . {includes}
EL_DEFINES := {defines}
"""


def _cmake_lists(net: Path) -> dict[str, list[str]]:
    """The lists of bakenn_sources.cmake, with paths relative to its folder."""
    text = (net / "bakenn_sources.cmake").read_text(encoding="utf-8")
    found = {}
    for name, body in _LIST.findall(text):
        entries = [line.strip().strip('"') for line in body.splitlines()]
        found[name] = [entry.removeprefix("${CMAKE_CURRENT_LIST_DIR}/") for entry in entries if entry]
    return found
