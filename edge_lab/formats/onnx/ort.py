"""ONNX Runtime's sessions, and in one sentence what is wrong with a file that it can't load."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edge_lab.core.errors import BundleError, InputError

Level = Literal["disable", "basic", "extended", "all"]
LEVELS: tuple[Level, ...] = get_args(Level)


def open_session(
    source: Path | bytes, *, threads: int = 1, level: Level = "all", save: Path | None = None, name: Path | None = None
) -> Any:
    """An onnxruntime.InferenceSession on the CPU.

    Args:
        source: an .onnx or .ort file, or the bytes of one.
        threads: for one operator; operators run one after the other.
        level: "disable": the graph as it is. "basic": what is right on every device (constants folded, batch norms
            folded into convolutions). "extended": also ONNX Runtime's own operators for the CPU (Conv + ReLU as one,
            QLinearConv out of int8). "all": also memory layouts made for this processor.
        save: write the optimised graph to this .onnx file.
        name: the file that bytes came from, for messages.

    Raises:
        InputError: no such level.
        BundleError: the file can't be used; says why.
    """
    import onnxruntime

    if level not in LEVELS:
        raise InputError(
            f"ONNX Runtime has no optimisation level {level!r}.",
            f"its levels are {', '.join(LEVELS)}.",
            f"pass one of them; each includes those before it, and {LEVELS[-1]!r} is what apps use.",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what fails is raised, and said once
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _NAMES[level])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves other processes
    if save is not None:
        options.optimized_model_filepath = str(save)
    program = source if isinstance(source, bytes) else str(source)
    try:
        options.add_session_config_entry(_EXACT, "1" if sums_overflow() else "0")
        try:
            return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if _SHARED not in str(error):
                raise
        options.add_session_config_entry(_EXACT, "0")
        return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every status
        where = name or (source if isinstance(source, Path) else Path("model.onnx"))
        raise refusal(where, error) from error


# On x86-64 without VNNI, sums of 16 bits overflow in int8 kernels unless this is set. With VNNI it costs more than half
# of the speed. It rewrites weights, and where two operators share one (programs of other tools;
# `compress.static.onnx_weights` separates ours) it says the sentence below.
_EXACT = "session.x64quantprecision"
_SHARED = "Attempt to replace the existing tensor"

# MatMulInteger(a: uint8 (1, 4), 127: int8 (4, 1)) as an ONNX file of 98 bytes.
PROBE = bytes.fromhex(
    "08083a580a180a01610a0162120163220d4d61744d756c496e74656765721201672a0f0804080110034201624a047f7f7f7f5a130a0161120e0a0c"
    "080212080a0208010a02080462130a0163120e0a0c080612080a0208010a02080142040a00100d"
)


@cache
def sums_overflow() -> bool:
    """Whether ONNX Runtime's kernels for int8 weights add wrongly on this processor; the engine itself is asked."""
    import onnxruntime

    session = onnxruntime.InferenceSession(PROBE, providers=["CPUExecutionProvider"])
    found = session.run(None, {"a": np.full((1, 4), 255, np.uint8)})[0]
    return int(found[0, 0]) != 4 * 255 * 127


_NAMES: dict[Level, str] = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


_AGAIN = "export it again with edge_lab.to(model, target), or copy the whole file again."


@dataclass(frozen=True)
class _Pattern:
    regex: str
    what: str
    why: str
    fix: str


_PATTERNS = (
    _Pattern(
        r"model IR version: (?P<a>\d+), max supported IR version: (?P<b>\d+)|"
        r"ir_version (?P<a2>\d+) is higher than the checker's \((?P<b2>\d+)\)",
        "is too new for this reader",
        "it was written in IR version {a}, and the installed version reads up to {b}.",
        "pip install --upgrade onnx onnxruntime, or export it again here.",
    ),
    _Pattern(
        r"Opset (?P<a>\d+).*till opset (?P<b>\d+)",
        "is too new for this reader",
        "it uses operators of opset {a}, and the installed version knows them up to {b}.",
        "pip install --upgrade onnx onnxruntime, or export with a lower opset: write_onnx(model, path, opset=18).",
    ),
    _Pattern(
        r"No Op registered for (?P<a>\w+)|(?:error: |Fatal error: )(?P<a2>[\w.]+:\w+)\S* is not a registered|"
        r"Could not find an implementation for (?P<a3>\w+)",
        "has an operator that ONNX Runtime does not know",
        "{a} is no standard operator; it needs the library of whoever defined it.",
        "express it with standard operators before exporting, or run the file in the tool that it was made for.",
    ),
    _Pattern(
        r"ORT format model version \[?(?P<a>[\w.]+)|ORT model version (?P<a2>\S+)",
        "is too new for this ONNX Runtime",
        "its .ort format version is {a}.",
        "pip install --upgrade onnxruntime, or convert the .onnx file again here: to_ort(path, folder).",
    ),
    _Pattern(
        r"Protobuf parsing failed|Unable to parse proto|Error parsing message|No graph was found|"
        r"ir_version set properly|ORT model verification failed|Wrong wire type|Truncated message|DecodeError",
        "is not a whole {suffix} file",
        "it was cut off, or is another kind of file.",
        _AGAIN,
    ),
)


def refusal(path: Path, error: BaseException) -> BundleError:
    """One sentence for what onnx or ONNX Runtime said about a file, with cause and remedy."""
    text = str(error)
    if not path.is_file():
        return BundleError(f"there is no file {path}.", "it was moved, or never written.", "check the path.")
    missing = [] if path.suffix == ".ort" else _missing(path)
    if missing:
        return BundleError(
            f"{path} is only half of a model.",
            f"its weights lie in {missing[0]}, which is not there (or outside of its folder).",
            "copy that file too, or export with torch.onnx.export(..., external_data=False).",
        )
    for pattern in _PATTERNS:
        found = re.search(pattern.regex, text, re.DOTALL)
        if found:
            names = {key[0]: value for key, value in found.groupdict().items() if value}
            what = pattern.what.format(suffix=path.suffix)
            return BundleError(f"{path} {what}.", pattern.why.format(**names), pattern.fix)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return BundleError(f"{path} can't be used.", f"{type(error).__name__}: {line[:300]}", _AGAIN)


def _missing(path: Path) -> list[str]:
    """Names of files with weights that a model refers to and that are not in its folder."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # not a model at all: the patterns say so
        return []
    places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    root = path.parent.resolve()
    there = {p for p in places if (root / p).is_file() and root in (root / p).resolve().parents}
    return sorted(places - there)
