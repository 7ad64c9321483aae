"""Which engines are compared, in which precision, and what each of them is given to run."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_lab.core.errors import InputError
from edge_lab.peers.places import MAIN


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: unique; engine and precision.
        label: for people.
        engine: its function in worker.py.
        precision: what it computes in, as a measurement file states it.
        target: the bundle that the program is, or is converted from.
        roof: the kind of arithmetic whose measured peak it is held against: "fp32", "bf16" or "int8".
        environment: where the engine is (see places.py).
        convert: what convert.py has to do with the bundle's program; "" for nothing.
        after: the peer whose program is converted, instead of the bundle's.
        file: the converted program, inside its folder.
        bits: of a weight and of an activation, for the estimate of the bytes it moves.
        options: for the engine.
        notes: what to know about this row.
    """

    name: str
    label: str
    engine: str
    precision: str
    target: str
    roof: str = "fp32"
    environment: str = MAIN
    convert: str = ""
    after: str = ""
    file: str = ""
    bits: tuple[int, int] = (32, 32)
    options: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_TORCH = ("the process holds all of PyTorch, which is most of its memory",)
PEERS = (
    Peer("executorch-fp32", "ExecuTorch", "executorch", "fp32", "linux-xnnpack-fp32", notes=_TORCH),
    Peer(
        "executorch-int8",
        "ExecuTorch",
        "executorch",
        "int8-static",
        "linux-xnnpack-int8",
        roof="int8",
        bits=(8, 8),
        notes=_TORCH,
    ),
    Peer("onnxruntime-fp32", "ONNX Runtime", "onnxruntime", "fp32", "linux-onnx-fp32"),
    Peer(
        "onnxruntime-int8",
        "ONNX Runtime",
        "onnxruntime",
        "int8-static",
        "linux-onnx-int8",
        roof="int8",
        bits=(8, 8),
    ),
    Peer(
        "openvino-fp32",
        "OpenVINO",
        "openvino",
        "fp32",
        "linux-onnx-fp32",
        environment="peers",
        convert="openvino",
        file="model.xml",
    ),
    Peer(
        "openvino-bf16",
        "OpenVINO",
        "openvino",
        "bf16",
        "linux-onnx-fp32",
        roof="bf16",
        environment="peers",
        convert="openvino",
        file="model.xml",
        bits=(16, 16),
        options={"INFERENCE_PRECISION_HINT": "bf16"},
        notes=("the fp32 file, told to compute in bfloat16",),
    ),
    Peer(
        "openvino-int8",
        "OpenVINO",
        "openvino",
        "int8-static",
        "linux-onnx-fp32",
        roof="int8",
        environment="peers",
        convert="openvino-int8",
        file="model.xml",
        bits=(8, 8),
        notes=("quantized by nncf with its defaults",),
    ),
    Peer(
        "litert-fp32",
        "LiteRT",
        "litert",
        "fp32",
        "linux-pt2-fp32",
        environment="litert",
        convert="litert",
        file="model.tflite",
    ),
    Peer(
        "litert-int8",
        "LiteRT",
        "litert",
        "int8-static",
        "linux-pt2-fp32",
        roof="int8",
        environment="litert",
        convert="litert-int8",
        after="litert-fp32",
        file="model.tflite",
        bits=(8, 8),
        notes=("quantized by ai-edge-quantizer, recipe static_wi8_ai8: its scores are int8 too",),
    ),
    Peer(
        "ncnn-fp32",
        "ncnn",
        "ncnn",
        "fp32",
        "linux-pt2-fp32",
        environment="peers",
        convert="ncnn",
        file="model.ncnn.param",
        notes=("weights stored as float16, computed with in float32",),
    ),
    Peer("mnn-fp32", "MNN", "mnn", "fp32", "linux-onnx-fp32", environment="peers", convert="mnn", file="model.mnn"),
    Peer(
        "mnn-int8-weights",
        "MNN",
        "mnn",
        "int8-weights",
        "linux-onnx-fp32",
        environment="peers",
        convert="mnn-w8",
        file="model.mnn",
        bits=(8, 32),
        notes=("weights of 8 bits, arithmetic in float32",),
    ),
    Peer("inductor-fp32", "AOTInductor", "aoti", "fp32", "linux-inductor-fp32", notes=_TORCH),
    Peer("torchscript-fp32", "TorchScript", "torchscript", "fp32", "linux-torchscript-fp32", notes=_TORCH),
    Peer(
        "eager-fp32",
        "PyTorch eager",
        "eager",
        "fp32",
        "linux-pt2-fp32",
        notes=("the exported graph, operator by operator", *_TORCH),
    ),
)


def choose(names: Sequence[str] | None = None) -> tuple[Peer, ...]:
    """The peers of these names, engines or shell patterns, in the table's order; all of them for None.

    Raises:
        InputError: a name that is none of them; the nearest are offered.
    """
    if names is None:
        return PEERS
    if not names:
        raise InputError("--engines names no engine.", "it is empty.", "leave it out to compare all of them.")
    chosen: set[str] = set()
    for word in names:
        found = {p.name for p in PEERS if word == p.engine or fnmatch.fnmatchcase(p.name, word)}
        found |= {p.name for p in PEERS if p.name.rsplit("-", 1)[0] == word}
        if not found:
            known = sorted({p.name for p in PEERS} | {p.engine for p in PEERS})
            near = difflib.get_close_matches(word, known, n=3, cutoff=0.4)
            raise InputError(
                f"there is no engine {word!r} to compare.",
                f"the nearest are {', '.join(near)}." if near else f"there are {', '.join(p.name for p in PEERS)}.",
                "name engines (openvino), rows (openvino-int8) or patterns ('*-int8'), separated by commas.",
            )
        chosen |= found
    return tuple(p for p in PEERS if p.name in chosen)


def unsupported(peer: Peer, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Why this CPU has no use for a peer; "" if it has. Unknown counts as no."""
    if peer.roof != "bf16":
        return ""
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        flags = ""
    words = set(flags.replace(",", " ").split())
    return "" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "this CPU has no bfloat16 arithmetic"
