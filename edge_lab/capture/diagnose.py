"""From a converter's exception to three lines: what could not be exported, why, and how to change the model."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_lab.core.errors import ExportError


@dataclass(frozen=True)
class Pattern:
    """A known failure: a regular expression over the exception text, and what it means.

    `source`, if given, must also match the line of the model's code that was running.
    """

    regex: str
    why: str
    fix: str
    source: str = ""


_GUARD = (
    r"data-dependent (?:expression|branching|control flow)|GuardOnDataDependentSymNode|Data-dependent branching|"
    r"Dynamic control flow|TensorBoolConversion|_local_scalar_dense"
)

_PATTERNS = (
    Pattern(
        r"Size-like symbols: u\d|data.dependent (?:output|shape)",
        "it decides by a size that depends on the data (boolean mask, nonzero, NMS), and that size is known only when "
        "the data is there{where}.",
        "keep the shape and multiply by the mask, or return a fixed number of rows (top-k) with a count and let the "
        "app cut.",
    ),
    Pattern(
        _GUARD,
        "it asserts something about a tensor's value, which is a branch, too{where}.",
        "check inputs where they are made, not in forward.",
        source=r"^assert\b",
    ),
    Pattern(
        _GUARD,
        "it loops while a tensor has some value, and a fixed graph has a fixed length{where}.",
        "loop a fixed number of times and skip the steps that are not needed with torch.where.",
        source=r"^while\b",
    ),
    Pattern(
        r"Optional\[Generator\]|CustomObjArgument|InputKind\.CUSTOM_OBJ",
        "it draws numbers with a torch.Generator while it runs, and no format holds one{where}.",
        'draw them once, in __init__, and keep them: self.register_buffer("noise", torch.rand(shape)).',
    ),
    Pattern(
        r"Could not extract specialized integer|python_type\(\) call|Tensor\.tolist\(\)",
        "its Python code takes a number out of a tensor and branches or loops, slices or counts by it, which a fixed "
        "graph cannot record{where}.",
        "avoid .item(), int(tensor) and range(tensor): a mask (torch.arange(n) < count) instead of a slice, "
        "torch.where in a loop of fixed length, one padded output and a count instead of a varying number of outputs.",
    ),
    Pattern(
        _GUARD,
        "its Python code branches or loops on the values of a tensor, which a fixed graph cannot record{where}.",
        "replace the branch by torch.where(condition, a, b) or torch.cond, keep sizes as constants, "
        "and avoid .item(), int(tensor) and `if tensor`.",
    ),
    Pattern(
        r"Constraints violated \((?P<op>[\w, ]+)\).*?specialized it to be a constant \((?P<op2>\d+)\)",
        "the size {op} was to be dynamic, but the code fixes it to {op2}: a literal number, a Python loop over it, or "
        "a reshape to fixed numbers.",
        "take sizes from x.shape and treat the whole dimension at once; Dim.AUTO instead of a Dim accepts whatever "
        "comes out; or keep this size static.",
    ),
    Pattern(
        r"Constraints violated \((?P<op>[\w, ]+)\)|(?P<op2>[\w, ]+) (?:and \w+ )?do(?:es)? not satisfy the generated",
        "the range that was asked for {op} does not fit the code: it holds for some sizes of it only.",
        "use the range (or the multiple, such as 8*Dim) that the message suggests, or Dim.AUTO.",
    ),
    Pattern(
        r"Guard failed: (?P<op>[^\n]+)|Expected input at (?P<op2>[^\n]+)|"
        r"Got invalid dimensions for input: (?P<op3>[^\n]+)",
        "the program was made for inputs of the example's size, or of the range that was asked for: {op}.",
        "make that dimension dynamic, with a range that holds every size, or feed inputs of the right size.",
    ),
    Pattern(
        r"no fake impl registered for <CustomOpDef\((?P<op>[\w:]+)\)>|"
        r"(?P<op2>[\w:.]+): attempted to run this operator with Meta tensors, but there was no fake impl",
        "export runs the code on tensors without data, and nothing says what shape the custom operator {op} returns.",
        "register a fake for it: @your_operator.register_fake on a function that returns torch.empty_like(x) or alike.",
    ),
    Pattern(
        r"\.numpy\(\) is not supported for tensor subclasses|Cannot convert a FakeTensor to (?:a )?numpy",
        "it hands a tensor to NumPy, and while a graph is recorded there are no numbers to compute with{where}.",
        "use the torch function of the same name.",
    ),
    Pattern(
        r"format string passed to FakeTensor|FakeTensor\.__format__",
        "it prints or formats a tensor's value, which does not exist while the graph is recorded{where}.",
        "take prints and logging out of forward; look at the outputs instead.",
    ),
    Pattern(
        r"Found <class '(?P<op>[\w.]+)'> in output, which is not a known type|"
        r"unrecognized type UserDefinedObjectVariable\((?P<op2>\w+)\) at output",
        "it returns an object of the class {op}, which torch.export can't take apart.",
        "return a dict or a tuple of tensors, and build the object from them in the app.",
    ),
    Pattern(
        r"Torch var  not found in context|Returning .{1,60}? is not yet supported in the emitter",
        "one of its outputs is no tensor: None, a number or a string.",
        "return tensors only; constants belong into the app or into bundle.json.",
    ),
    Pattern(
        r"mismatched dtypes:.*?torch\.complex|[Cc]omplex (?:dtype|tensors?|type) (?:is|are) not supported",
        "it computes with complex numbers; the operators of this format take real ones{where}.",
        "write the complex arithmetic out in real numbers: (a + bi)(c + di) = (ac - bd) + (ad + bc)i.",
    ),
    Pattern(
        r"State model is supported only",
        "it updates a buffer in forward, which makes it a state; Core ML programs have states from iOS 18 on only.",
        "make the state an input and an output, and let the app carry it from call to call.",
    ),
    Pattern(
        r"Core ML only supports tensors with rank <= 5\..*?outputs a rank (?P<op>\d+) tensor",
        "it makes a tensor of {op} axes, and Core ML's have five at most{where}.",
        "permute in two steps with fewer axes each. In fp16 and fp32 coremltools rewrites some of these by itself.",
    ),
    Pattern(
        r"float output size is not supported for the upsample op _?(?P<op>\w+)",
        "Core ML resizes to a size, and {op} was given a factor that does not lead to a whole one{where}.",
        "pass size= to F.interpolate, or recompute_scale_factor=True (another answer, a little), and no antialias.",
    ),
    Pattern(
        r"error occurred when running the '(?P<op>\w+)' pass",
        "an operator is not what the step {op} of ExecuTorch expects, which prepares programs for a delegate{where}.",
        "use linux-portable-fp32 or an ONNX target, which do without that step.",
    ),
    Pattern(
        r"Missing out variants?: \{?(?P<op>[^}\n]*)",
        "ExecuTorch has no kernel for {op}: it writes results into planned memory, so it needs a form with out=.",
        "express it with other torch functions, or register an out variant for your custom operator.",
    ),
    Pattern(
        r"only 4D query, key, and value are supported",
        "the ONNX exporter translates attention of 4-D tensors only: (batch, heads, length, size).",
        "give it an axis of heads: scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), "
        "...).squeeze(1).",
    ),
    Pattern(
        r"No ONNX function found for (?:<OpOverload\(op=)?'?(?P<op>[\w.:]+)|"
        r"No decompositions registered.*?(?P<op2>aten[\w.:]+)",
        "the ONNX exporter has no translation for {op}.",
        "express it with other torch functions, or pass a custom translation to torch.onnx.export.",
    ),
    Pattern(
        r"Error when translating node %\w+ .*?target=torch\.ops\.(?P<op>[\w.]+?)(?:\.default)?\]",
        "the ONNX exporter can't translate {op} as it is used here{where}.",
        "express it with other torch functions; the .pt2 and XNNPACK targets don't share this translation.",
    ),
    Pattern(
        r"Unsupported fx node [\w.]+, kind (?P<op>[\w.:]+)|Unsupported fx node (?P<op2>[\w.]+)|"
        r"(?:PyTorch )?convert function for op '(?P<op3>[\w.]+)' not implemented|"
        r"node \w+ \((?P<op4>[\w.]+)\) got \d+ input\(s\), expected|Not support `(?P<op5>\w+)` op|"
        r"lowering for Torch `(?P<op6>\w+)` op is not supported",
        "coremltools has no conversion for {op} as it is used here.",
        "express it with other torch functions, or register one with @coremltools' register_torch_op.",
    ),
    Pattern(
        r"Node \([^)]*\) Op \((?P<op>\w+)\) \[ShapeInferenceError\]",
        "ONNX Runtime finds another shape in front of {op} than PyTorch (pooling with ceil_mode is read in two ways).",
        "leave ceil_mode out and pad by hand (F.pad), or take a target that doesn't go by way of ONNX.",
    ),
    Pattern(
        r"Got unsupported ScalarType (?P<op>\w+)|Type 'tensor\((?P<op2>bfloat16|double)\)' of input parameter",
        "a part of it computes in {op}, and integers are made of float32{where}.",
        "take torch.autocast or the cast (.bfloat16(), .half()) out of forward, and call .float() on the network.",
    ),
    Pattern(
        r"KeyError: torch\.(?P<op>u?int\d+|bfloat16|float\w+|complex\w+|bool)\b",
        "the converter has no type {op}.",
        "use float32 or int32 in its place.",
    ),
    Pattern(
        r"Operator (?:torch\._ops\.)?(?P<op>[\w.]+?)(?:\.default)? is not in Core ATen|Unsupported operator",
        "{op} is outside the operators that this format knows (Core ATen).",
        "express it with standard torch functions, or give it a decomposition.",
    ),
    Pattern(
        r"\bu\d+\b.*(?:unbacked|symbol)|(?:unbacked|symbol).*\bu\d+\b|nonzero|dynamic (?:shape|output)",
        "a tensor's size depends on the data (nonzero, boolean indexing, NMS), and this format wants fixed shapes.",
        "move that step out of the model into postprocessing, or pad to a fixed size (top-k instead of a threshold).",
    ),
    Pattern(
        r"mutat\w+ .*input|input mutation|[Ii]nplace|in-place.*input",
        "it changes its input or a buffer in place.",
        "work on a copy (x = x.clone()) and return new tensors: x = x.clamp(0, 1), not x.clamp_(0, 1).",
    ),
    Pattern(
        r"Unsupported: (?P<op>[^\n]+)",
        "strict capture (TorchDynamo) can't follow this Python: {op}{where}.",
        "capture with strict=False, as edge_lab.to does, or write that line with tensors only.",
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
    where, source = _where(error, text)
    for pattern in _PATTERNS:
        found = re.search(pattern.regex, text, re.DOTALL if ".*?" in pattern.regex else 0)
        if found and re.search(pattern.source, source):
            names = [v.strip(" '.") for v in found.groupdict().values() if v] or ["one of its operators"]
            values = {"op": names[0], "op2": names[-1], "where": where}
            return ExportError(what, pattern.why.format(**values), pattern.fix.format(**values))
    last = next((line for line in str(error).splitlines() if line.strip()), "no message")
    operator = _being_converted(error)
    if operator:
        return ExportError(
            what,
            f"coremltools can't convert {operator} as it is used here: {last.strip()[:300]}{where}",
            "express it with other torch functions; the ONNX, XNNPACK and .pt2 targets don't share this converter.",
        )
    return ExportError(
        what,
        f"{type(error).__name__}: {last.strip()[:300]}{where}",
        "run again with --debug for the whole trace; try the other targets, which don't share this converter.",
    )


def _chain(error: BaseException | None) -> str:
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def _where(error: BaseException, text: str) -> tuple[str, str]:
    """The line of the model's own code that was running, as words in brackets and as source; empty if unknown.

    Named by the converter's message, or found in the traceback.
    """
    named = [(file, int(line)) for file, line in re.findall(r'File "([^"]+)", line (\d+)', text)]
    for places in (named, list(_frames(error))):
        users = [place for place in places if _is_users(place[0])]
        if users:
            file, line = users[-1]
            source = linecache.getline(file, line).strip()
            place = f"your cell, line {line}" if "ipykernel" in file else "/".join(Path(file).parts[-2:]) + f":{line}"
            return f" ({place}: `{source[:80]}`)" if source else f" ({place})", source
    return "", ""


def _being_converted(error: BaseException | None) -> str:
    """The operator that coremltools was at; its messages seldom say."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_name == "convert_single_node":
                return str(frame.f_locals["node"].kind)
        error = error.__cause__ or error.__context__
    return ""


def _frames(error: BaseException | None) -> Iterator[tuple[str, int]]:
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            yield frame.f_code.co_filename, line
        error = error.__cause__ or error.__context__


_OWN = Path(__file__).parent


def _is_users(file: str) -> bool:
    """Whether a file is a model's code: no library, nothing generated, and no exporter (the clinic's cases are)."""
    library = "site-packages" in file or "/lib/python" in file or file.startswith("<") or "/torchinductor" in file
    return not library and Path(file).parent != _OWN
