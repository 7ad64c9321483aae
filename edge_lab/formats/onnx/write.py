"""Writing .onnx files: from an exported program, from a model with free axes or another opset, and in float16."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edge_lab.capture.diagnose import diagnose
from edge_lab.capture.expand import drop_ceil_mode, narrow_squeezes
from edge_lab.compress.static.onnx_float import too_large_for_half
from edge_lab.core.errors import EdgeLabError, ExportError, InputError
from edge_lab.core.files import writing_file
from edge_lab.core.quiet import quiet
from edge_lab.formats.onnx.file import OnnxFile, read_onnx

if TYPE_CHECKING:
    import torch

    from edge_lab.zoo import Model

Axis = Literal["batch", "height", "width"]
_PLACE: dict[Axis, int] = {"batch": 0, "height": 2, "width": 3}


def write_program(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int | None = None,
) -> None:
    """Translate an exported program to one checked .onnx file.

    The exporter notes for every operator which module it came from (`pkg.torch.onnx.name_scopes`), which stays, and
    which line of which file, with the path on this computer, which does not.
    """
    import onnx
    import torch

    with quiet():
        written: Any = torch.onnx.export(
            drop_ceil_mode(narrow_squeezes(program)),
            (),
            dynamo=True,
            verbose=False,
            input_names=[f"{_OWN}input_{i}" for i in range(len(inputs))],
            output_names=[f"{_OWN}output_{i}" for i in range(len(outputs))],
            opset_version=opset,
        )
        _rename(written.model.graph, inputs, outputs)
        for graph in (written.model.graph, *written.model.functions.values()):
            for node in graph:
                node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
                _name_cubic(node)
        written.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))


_OWN = "edge_lab_"  # no value of a network begins like this


def _rename(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names; a value inside that has one of them (a Split makes "first") gets another."""
    wanted = {*inputs, *outputs}
    inside = [value for node in graph for value in node.outputs] + list(graph.initializers.values())
    for value in inside:
        if value.name in wanted:
            value.name = f"{_OWN}{value.name}"
    for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name


def _name_cubic(node: Any) -> None:
    """PyTorch's bicubic kernel is Keys' with a = -0.75, and -0.5 with antialias; the exporter writes one for both."""
    import onnx_ir as ir

    attributes = node.attributes
    if node.op_type == "Resize" and "antialias" in attributes and attributes["antialias"].value:
        attributes["cubic_coeff_a"] = ir.AttrFloat32("cubic_coeff_a", -0.5)


def write_onnx(model: Model, path: Path | str, *, opset: int | None = None, dynamic: Sequence[Axis] = ()) -> OnnxFile:
    """Write a model to one .onnx file with free axes, or with another opset than `to` takes.

    Bundles have fixed shapes, which every phone runtime wants. A server that answers several requests at once wants a
    free batch, a segmentation network free pictures.

    Args:
        model: a module with one input; its outputs are named output, output_1, ...
        path: the file to write.
        opset: version of the operators; None: what the exporter prefers. An older reader wants a lower one.
        dynamic: axes of the input that stay free: "batch", and for pictures "height", "width".

    Raises:
        InputError: an axis that the input does not have.
        ExportError: the model computes with the size of that axis, so that it can't be free; the opset can't be
            reached; or the model has no translation.
    """
    import torch

    from edge_lab.capture.wrap import flatten

    path, shape = Path(path), model.spec.input.shape
    unknown = [axis for axis in dynamic if axis not in get_args(Axis) or _PLACE[axis] >= len(shape)]
    if unknown:
        raise InputError(
            f"the input of {model.spec.name} has no axis {unknown[0]!r}.",
            f"its shape is {shape}; free axes are called {', '.join(get_args(Axis))}.",
            'pass some of them, such as dynamic=("batch",).',
        )
    what = f"{path.name} with free {', '.join(dynamic)}" if dynamic else path.name
    example = np.zeros(shape, model.spec.input.dtype)
    module, outputs = flatten(model.module, example, (model.spec.input.name,))
    if "batch" in dynamic:  # the exporter takes a size of 1 for a constant
        example = np.repeat(example, 2, 0)
    # From 2 pictures, and from a side of 16: below, sizes after several strides shrink to 1, which is another graph.
    axes = {
        _PLACE[axis]: torch.export.Dim(axis, min=2 if axis == "batch" else min(16, shape[_PLACE[axis]]))
        for axis in dynamic
    }
    try:
        with quiet():
            program = torch.export.export(
                module, (torch.from_numpy(example),), dynamic_shapes=(axes,) if axes else None, strict=False
            )
        with writing_file(path) as temporary:
            write_program(program, temporary, [model.spec.input.name], [out.name for out in outputs], opset)
            _name_axes(temporary, {place: axis for axis, place in _PLACE.items() if place in axes})
            _check_opset(temporary, opset)
    except EdgeLabError:
        raise
    except Exception as error:  # converters raise whatever they like
        if dynamic and any(word in str(error) for word in ("Constraints violated", "specialized", "dynamic_shapes")):
            raise ExportError(
                f"{model.spec.name} can't be exported to {what}.",
                "its code computes with that size (a fixed reshape, a padding, a position table), or needs a multiple.",
                "free fewer axes, or write such sizes relative to x.shape in the model.",
            ) from error
        raise diagnose(error, model.spec.name, what) from error
    return read_onnx(path)


def _name_axes(path: Path, names: dict[int, Axis]) -> None:
    """Call free sizes "batch", "height" and "width" instead of s77, in every shape that the file states."""
    import onnx

    if not names:
        return
    model = onnx.load(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    renamed = {dims[place].dim_param: name for place, name in names.items()}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), dim.dim_param)
    onnx.save(model, path)


def _check_opset(path: Path, opset: int | None) -> None:
    reached = read_onnx(path).opsets.get("", 0)
    if opset is not None and reached != opset:
        raise ExportError(
            f"opset {opset} can't be reached; the file came out with opset {reached}.",
            "the exporter translates to opset 18 and later ones that it knows, and has no way from there to others.",
            "leave opset out, or pass 18.",
        )


def keep_scopes(source: Path, target: Path) -> None:
    """Note in a quantized file what the exported one says about its operators; ONNX Runtime's tools may drop it."""
    import onnx

    notes = {node.name: node.metadata_props for node in onnx.load(source).graph.node if node.name}
    model = onnx.load(target)
    for node in model.graph.node:
        if node.name in notes and not node.metadata_props:
            node.metadata_props.extend(notes[node.name])
    onnx.save(model, target)


def to_float16(source: Path, target: Path, example: np.ndarray) -> None:
    """Store the weights of a float32 .onnx file in float16 and compute in it; inputs and outputs stay float32.

    Nodes that meet numbers past float16's range on the example stay float32: the converter would clip them.

    ONNX Runtime's own converter, on the exported file: batch norms are folded already, in float32, so that each weight
    is rounded once. Casting the module before the export rounds them first and folds then, and loses
    some of what little is lost (docs/results/onnx.md).
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    with quiet():
        kept = too_large_for_half(model, example)
        model = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    _drop_repeated_casts(model.graph)
    _join_floats(model.graph)
    _sort(model.graph)
    onnx.save(model, target)
    onnx.checker.check_model(str(target))


def _drop_repeated_casts(graph: Any) -> None:
    """The converter casts a value once for each float32 node that reads it, to one and the same name."""
    written = set[str]()
    for node in [n for n in graph.node if n.op_type == "Cast"]:
        if node.output[0] in written:
            graph.node.remove(node)
        written.add(node.output[0])


def _join_floats(graph: Any) -> None:
    """Hand float32 values from one float32 node to the next: the converter casts each to float16 and back between."""
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    to = {name: next(a.i for a in node.attribute if a.name == "to") for name, node in makers.items()}
    before = {}
    for name, node in makers.items():
        if to[name] == 1 and to.get(node.input[0]) == 10:
            before[name] = makers[node.input[0]].input[0]
    floats = {name for name, kind in to.items() if kind == 10}
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in before:
                node.input[i] = before[name]
    used = {name for node in graph.node for name in node.input} | outputs
    for _ in range(2):  # the casts back, then those to float16 that nothing else reads
        for node in [n for n in graph.node if n.op_type == "Cast" and n.output[0] not in used]:
            if node.output[0] in before or node.output[0] in floats:
                graph.node.remove(node)
        used = {name for node in graph.node for name in node.input} | outputs


def _sort(graph: Any) -> None:
    """Nodes in an order in which every value is known before it is used: the converter appends its casts."""
    known = {"", *(v.name for v in graph.input), *(t.name for t in graph.initializer)}
    waiting, ordered = list(graph.node), list[Any]()
    while waiting:
        late = []
        for node in waiting:
            if known.issuperset(node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ExportError(
                "the float16 graph has a value that nothing computes.",
                f"ONNX Runtime's converter broke it at {late[0].name or late[0].op_type}.",
                "use the fp32 target.",
            )
        waiting = late
    del graph.node[:]
    graph.node.extend(ordered)
