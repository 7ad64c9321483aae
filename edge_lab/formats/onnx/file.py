"""What an .onnx file says about itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_lab.formats.onnx.ort import refusal

_FLOATS_AND_INTEGERS = {1: "float32", 10: "float16", 11: "float64", 6: "int32", 7: "int64", 2: "uint8", 3: "int8"}


@dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph. A dimension is a number, or a name where its size is free ("batch")."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """An .onnx file that passed onnx.checker.

    Attributes:
        path: the file.
        producer: the program that wrote it.
        ir_version: version of the container format.
        opsets: version of each set of operators that it uses; "" is the standard one.
        inputs: of the graph, weights not among them.
        outputs: of the graph.
        operators: how often each occurs; those from another set are written `domain::Name`.
        bytes: size of the file.
    """

    path: Path
    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    operators: dict[str, int]
    bytes: int

    @property
    def nodes(self) -> int:
        """How many operators the graph has."""
        return sum(self.operators.values())


def read_onnx(path: Path | str) -> OnnxFile:
    """Check a file with onnx.checker and say what is in it.

    Raises:
        BundleError: not a whole .onnx file, written for a newer ONNX, an unknown operator, or weights that should lie
            beside it and do not.
    """
    import onnx

    path = Path(path)
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's, the checker's, the operating system's
        raise refusal(path, error) from error
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:  # the checker only knows what is in a file, not what its reader knows
        if opset.domain == "" and opset.version > newest:
            raise refusal(path, ValueError(f"Opset {opset.version}; support for domain ai.onnx is till opset {newest}"))
    return described(path, model)


def described(path: Path, model: Any) -> OnnxFile:
    """The same for a ModelProto that came from `path`, unchecked."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return OnnxFile(
        path,
        f"{model.producer_name} {model.producer_version}".strip(),
        model.ir_version,
        {opset.domain: opset.version for opset in model.opset_import},
        tuple(_value(v) for v in model.graph.input if v.name not in weights),
        tuple(_value(v) for v in model.graph.output),
        dict(Counter(operator(node) for node in model.graph.node).most_common()),
        path.stat().st_size,
    )


def operator(node: Any) -> str:
    """Name of a node's operator, with its domain unless that is the standard one."""
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def _value(value: Any) -> OnnxValue:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return OnnxValue(value.name, _FLOATS_AND_INTEGERS.get(tensor.elem_type, f"type {tensor.elem_type}"), shape)
