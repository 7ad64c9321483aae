"""From a converter's exception to three lines: what could not be exported, why, and how to change the model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_lab.errors import ExportError


@dataclass(frozen=True)
class Pattern:
    """A known failure: a regular expression over the exception text, and what it means."""

    regex: str
    why: str
    fix: str


_PATTERNS = (
    Pattern(
        r"data-dependent (?:expression|branching|control flow)|GuardOnDataDependentSymNode|"
        r"Dynamic control flow|TensorBoolConversion|_local_scalar_dense|Could not extract specialized integer",
        "its Python code branches or loops on the values of a tensor, which a fixed graph cannot record{where}.",
        "replace the branch by torch.where(condition, a, b) or torch.cond, keep sizes as constants, "
        "and avoid .item(), int(tensor) and `if tensor`.",
    ),
    Pattern(
        r"Missing out variants?: \{?(?P<op>[^}\n]*)",
        "ExecuTorch has no kernel for {op}.",
        "express it with other torch functions, or register an out variant for your custom operator.",
    ),
    Pattern(
        r"No ONNX function found for (?:<OpOverload\(op=)?'?(?P<op>[\w.:]+)|"
        r"No decompositions registered.*?(?P<op2>aten[\w.:]+)",
        "the ONNX exporter has no translation for {op}.",
        "express it with other torch functions, or pass a custom translation to torch.onnx.export.",
    ),
    Pattern(
        r"Unsupported fx node (?P<op>[\w.]+)|(?:PyTorch )?convert function for op '(?P<op2>[\w.]+)' not implemented",
        "coremltools has no conversion for {op}.",
        "express it with other torch functions, or register one with @coremltools' register_torch_op.",
    ),
    Pattern(
        r"Operator (?:torch\._ops\.)?(?P<op>[\w.]+?)(?:\.default)? is not in Core ATen|Unsupported operator",
        "{op} is outside the operators that this format knows (Core ATen).",
        "express it with standard torch functions, or give it a decomposition.",
    ),
    Pattern(
        r"\bu\d+\b.*(?:unbacked|symbol)|(?:unbacked|symbol).*\bu\d+\b|nonzero|dynamic (?:shape|output)|"
        r"data.dependent (?:output|shape)",
        "a tensor's size depends on the data (nonzero, boolean indexing, NMS), and this format wants fixed shapes.",
        "move that step out of the model into postprocessing, or pad to a fixed size (top-k instead of a threshold).",
    ),
    Pattern(
        r"mutat\w+ .*input|[Ii]nplace|in-place.*input",
        "it changes its input or a buffer in place.",
        "work on a copy (x = x.clone()) and return new tensors.",
    ),
    Pattern(
        r"No module named '(?P<op>[\w.]+)'",
        "the Python package {op} is not installed.",
        "pip install {op}, or run `edge-lab doctor` for the full list.",
    ),
    Pattern(
        r"[Oo]ut of memory|bad_alloc|MemoryError|can't allocate memory",
        "there was not enough memory to convert it.",
        "close other programs, export one target at a time (--jobs 1), or use a smaller input.",
    ),
)


def diagnose(error: BaseException, model: str, target: str) -> ExportError:
    """An ExportError for a converter's exception; the original stays attached as its cause."""
    text = _chain(error)
    what = f"{model} can't be exported to {target}."
    for pattern in _PATTERNS:
        found = re.search(pattern.regex, text, re.DOTALL if "\\n" in pattern.regex else 0)
        if found:
            names = [v for v in found.groupdict().values() if v]
            values = {"op": (names[0].strip(" '.") if names else "one of its operators"), "where": _where(text)}
            return ExportError(what, pattern.why.format(**values), pattern.fix.format(**values))
    last = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return ExportError(
        what,
        f"{type(error).__name__}: {last.strip()[:300]}{_where(text)}",
        "run again with --debug for the whole trace; try the other targets, which don't share this converter.",
    )


def _chain(error: BaseException | None) -> str:
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def _where(text: str) -> str:
    """The user's own source line, where the converter's message names one."""
    places = [
        (file, line)
        for file, line in re.findall(r'File "([^"]+)", line (\d+)', text)
        if "site-packages" not in file and "/lib/python" not in file and "edge_lab/export" not in file
    ]
    return f" ({places[-1][0]}:{places[-1][1]})" if places else ""
