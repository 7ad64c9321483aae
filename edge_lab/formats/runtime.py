"""Run a bundle in its own engine: `load(bundle)` returns a Session, `session(x)` an array. One protocol for all."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.bundle.spec import ModelSpec
from edge_lab.core.errors import BundleError, InputError, MissingTool
from edge_lab.core.quiet import quiet
from edge_lab.formats.onnx.ort import Level, open_session

if TYPE_CHECKING:
    from edge_lab.formats.pte.file import PteReport
    from edge_lab.zoo import Model

Outputs = tuple[np.ndarray, ...]
Run = Callable[[np.ndarray], Outputs]


@dataclass(frozen=True)
class Session:
    """A loaded program.

    `session(x)` takes the preprocessed input, float32 of `spec.input.shape`, and returns the first output;
    `session.run(x)` returns all outputs. Both check shape and dtype first.
    """

    name: str
    spec: ModelSpec
    engine: str
    threads: int
    _run: Run

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The first output."""
        return self._run(self.spec.input.check(x))[0]

    def run(self, x: np.ndarray) -> Outputs:
        """All outputs, in the order of the bundle's `outputs`."""
        return self._run(self.spec.input.check(x))


def load(bundle: Bundle | Path | str, *, threads: int = 1, level: Level = "all") -> Session:
    """Load a bundle's program in the engine it was made for.

    Args:
        bundle: a Bundle, or the path of one (then it is verified first).
        threads: CPU threads for this engine. PyTorch's and ExecuTorch's thread counts are process-wide.
        level: how far ONNX Runtime optimises an .onnx graph (`ort.LEVELS`); it has no other formats.

    Raises:
        BundleError: the bundle is unusable, or its engine refuses the program.
        MissingTool: the engine is not installed or does not exist on this platform.
        InputError: a level for an engine that has none, or an unknown one.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    engine = _ENGINES[bundle.runtime.format]
    if level != "all":
        if engine is not _onnx:
            raise InputError(
                f"{bundle.name} has no optimisation level to choose.",
                f"levels belong to ONNX Runtime, and this is a program for {bundle.runtime.package}.",
                "leave level out.",
            )
        engine = partial(_onnx, level=level)
    try:
        run = engine(bundle, threads)
    except (BundleError, MissingTool, InputError):
        raise
    except ModuleNotFoundError as error:
        raise MissingTool(
            f"{bundle.name} needs {bundle.runtime.package}.", str(error), f"pip install {bundle.runtime.package}"
        ) from error
    except Exception as error:  # each engine has its own exception types
        raise BundleError(
            f"{bundle.runtime.package} can't load {bundle.program_path}.",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}.",
            "run `edge-lab doctor`; if all is well there, export the bundle again.",
        ) from error
    run = run if bundle.runtime.format in _ANY_BATCH else _one_batch(run, bundle)
    return Session(bundle.name, bundle.spec, bundle.runtime.package, threads, run)


def _one_batch(run: Run, bundle: Bundle) -> Run:
    """Programs have fixed sizes: another batch is one sentence here, not an error code (or worse) of the engine."""
    batch = bundle.spec.input.shape[0]

    def checked(x: np.ndarray) -> Outputs:
        if len(x) != batch:
            raise InputError(
                f"{bundle.name} takes a batch of {batch}, not of {len(x)}.",
                "the program was exported for this one size.",
                "run the inputs one by one, as x[i : i + 1], or export a model whose spec has this batch.",
            )
        return run(x)

    return checked


def eager(model: Model, *, threads: int = 1) -> Session:
    """The PyTorch module itself as a Session: the reference that every runtime is compared with."""
    from edge_lab.zoo.steady import calling, explained

    run = _torch_run(model.module.eval(), threads, calling)

    def said(x: np.ndarray) -> Outputs:
        with explained(model.spec.name):
            return run(x)

    return Session("eager", model.spec, "torch", threads, said)


def flat_arrays(value: Any) -> Outputs:
    """The tensors in a nested output (tuple, list, dict, dataclass), in pytree order, as arrays."""
    import torch

    leaves = torch.utils._pytree.tree_leaves(value)
    if any(isinstance(leaf, torch.Tensor) and leaf.dtype is torch.bfloat16 for leaf in leaves):  # unknown to NumPy
        from edge_lab.zoo.steady import readable

        readable(value)
    return tuple(leaf.detach().contiguous().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor))


def _torch_run(module: Any, threads: int, mode: Callable[[], Any] | None = None) -> Run:
    import torch

    torch.set_num_threads(threads)
    mode = mode or torch.inference_mode

    def run(x: np.ndarray) -> Outputs:
        with mode():
            return flat_arrays(module(torch.from_numpy(x.copy())))  # a module may write to its input

    return run


def _torchscript(bundle: Bundle, threads: int) -> Run:
    import torch

    from edge_lab.formats.torchscript.archive import refuse_unsafe_script

    refuse_unsafe_script(bundle.program_path)
    with warnings.catch_warnings():  # deprecated since torch 2.11, still shipped: the labs say so once
        warnings.simplefilter("ignore")
        program = torch.jit.load(str(bundle.program_path), map_location="cpu")  # type: ignore[no-untyped-call]
        return _torch_run(program, threads)


def _ptl(bundle: Bundle, threads: int) -> Run:
    import torch.jit.mobile

    from edge_lab.formats.torchscript.archive import explain_lite, read_lite

    read_lite(bundle.program_path)  # refuses what the C++ reader would trust
    mobile: Any = torch.jit.mobile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = mobile._load_for_lite_interpreter(str(bundle.program_path), map_location="cpu")
        except RuntimeError as error:
            raise explain_lite(bundle.program_path, error) from error
    return _torch_run(program, threads)


def _pt2(bundle: Bundle, threads: int) -> Run:
    import torch

    from edge_lab.formats.pt2.file import explain

    try:
        refuse_code(bundle.program_path)
        with quiet():  # what it can't load, it logs at length before it raises
            program = torch.export.load(bundle.program_path)
    except BundleError:
        raise
    except Exception:
        explain(bundle.program_path)
        raise
    return _torch_run(program.module(check_guards=False), threads)


_PT2_MEMBERS = re.compile(
    r"[^/]+/(models/[^/]+\.json|data/(weights|constants|sample_inputs)/[^/]+|extra/.+|\.data/.+|"
    r"archive_format|archive_version|byteorder|version)"
)
_PLAIN_SIZE = re.compile(r"[su\d\s+*/().<>=-]*")  # symbols s0, u1 and arithmetic; no name that could be called


def refuse_code(path: Path) -> None:
    """Raise BundleError if a .pt2 archive holds anything that would run code when it is loaded.

    torch.export.load unpickles what the archive marks as pickled, falls back to full unpickling of sample inputs,
    evaluates size expressions, and loads compiled libraries. Raw tensors, which are the rule, need none of that.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise _unsafe(path, "it holds two members of one name")
        for name in names:
            if not _PT2_MEMBERS.fullmatch(name):
                raise _unsafe(path, f"it holds {name}, which is no part of an exported program")
            if name.endswith(".pt") and not _only_tensors(archive.read(name)):
                raise _unsafe(path, f"{name} holds a pickle that is more than tensors")
            if name.endswith("_config.json") and "/data/" in name:
                _check_payloads(path, archive, name)
            elif "/models/" in name:
                sizes = re.findall(r'"expr_str":\s*"((?:[^"\\]|\\.)*)"', archive.read(name).decode("utf-8"))
                if not all(_PLAIN_SIZE.fullmatch(size) for size in sizes):
                    raise _unsafe(path, f"{name} holds a size that is not plain arithmetic")


def _check_payloads(path: Path, archive: zipfile.ZipFile, config: str) -> None:
    folder = config.rsplit("/", 1)[0]
    for entry in json.loads(archive.read(config))["config"].values():
        name = str(entry["path_name"])
        if not re.fullmatch(r"(weight|tensor)_\w+", name):
            raise _unsafe(path, f"{folder}/{name} is a pickled object")
        if entry["use_pickle"] and not _only_tensors(archive.read(f"{folder}/{name}")):
            raise _unsafe(path, f"{folder}/{name} holds a pickle that is more than tensors")


def _only_tensors(content: bytes) -> bool:
    import torch

    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # the restricted unpickler raises many kinds
        return False
    return True


def _unsafe(path: Path, what: str) -> BundleError:
    return BundleError(
        f"{path} was refused: {what}.",
        "loading it would run whatever code the file names.",
        "export the model again from its source; never load such a file from elsewhere.",
    )


def _onnx(bundle: Bundle, threads: int, level: Level = "all") -> Run:
    session = open_session(bundle.program_path, threads=threads, level=level)
    name = session.get_inputs()[0].name
    return lambda x: tuple(session.run(None, {name: x}))


def _pte(bundle: Bundle, threads: int) -> Run:
    import torch

    from edge_lab.formats.pte.file import read_pte, refuse_unrunnable

    if bundle.runtime.backend == "coreml-pte":
        _need_apple(bundle)
    if bundle.runtime.backend == "vulkan":
        _need_vulkan(bundle)
    buffer = bundle.program_path.read_bytes()
    report = read_pte(bundle.program_path, buffer)  # the C++ loader says a number, and trusts most of what it reads
    with quiet():
        executorch = executorch_bindings()
        refuse_unrunnable(
            report, executorch._get_registered_backend_names(), executorch._get_operator_names(), weights=False
        )
        executorch._unsafe_reset_threadpool(threads)
        program = executorch._load_for_executorch_from_buffer(buffer)

    safe = _copied_by_engine(report)

    def run(x: np.ndarray, _keep: bytes = buffer) -> Outputs:
        # A copy of 0.6 MB is 2 % of a 5 ms call: made only where the program could write to the caller's array.
        inside = torch.from_numpy(x if safe and x.flags.writeable else x.copy())
        return tuple(out.numpy().copy() for out in program.forward((inside,)))  # the next call reuses the arena

    return run


def _copied_by_engine(report: PteReport) -> bool:
    """Whether ExecuTorch copies the inputs of `forward` into planned memory before it runs: the exporter's default."""
    for method in report.methods:
        if method.name == "forward":
            return len(method.inputs) == sum(place.made_by == "input" for place in method.planned)
    return False


def executorch_bindings() -> Any:
    """ExecuTorch's Python bindings.

    The documented module, portable_lib, imports the whole exporter first: seconds and 200 MB that a runtime does not
    need. The extension module underneath has the same functions.
    """
    import torch  # noqa: F401  # its libraries must be loaded first

    try:
        from executorch.extension.pybindings import _C as bindings
    except ImportError:
        from executorch.extension.pybindings import portable_lib as bindings
    return bindings


def _need_apple(bundle: Bundle) -> None:
    if sys.platform != "darwin":
        raise MissingTool(
            f"{bundle.name} can't run here.",
            "Core ML programs run on macOS and iOS only; elsewhere they can be converted, not executed.",
            "run this on a Mac, compare another target, or interpret it: edge_lab.measure.interpret(bundle).",
        )


def _need_vulkan(bundle: Bundle) -> None:
    if "VulkanBackend" not in executorch_bindings()._get_registered_backend_names():
        raise MissingTool(
            f"{bundle.name} can't run here.",
            "it is for the GPU of an Android phone; ExecuTorch's Python package has no Vulkan runtime.",
            "run it in an Android app that links ExecuTorch's Vulkan backend, or compare another target here.",
        )


def _mlpackage(bundle: Bundle, threads: int) -> Run:
    _need_apple(bundle)
    import coremltools

    model = coremltools.models.MLModel(str(bundle.program_path))
    name = bundle.spec.input.name
    return lambda x: tuple(np.asarray(model.predict({name: x})[out.name]) for out in bundle.outputs)


def _aoti(bundle: Bundle, threads: int) -> Run:
    import torch

    from edge_lab.formats.pt2.native import refuse_foreign

    refuse_foreign(bundle)
    with quiet():
        program = torch._inductor.aoti_load_package(str(bundle.program_path))
    torch.set_num_threads(threads)

    def run(x: np.ndarray) -> Outputs:  # without a copy: the exporter refuses programs that write to their input
        x = x if x.flags.writeable else x.copy()  # PyTorch has no read-only tensors
        with torch.inference_mode():
            outputs = flat_arrays(program(torch.from_numpy(x)))
        return tuple(out.copy() if np.may_share_memory(out, x) else out for out in outputs)

    return run


def _c(bundle: Bundle, threads: int) -> Run:
    from edge_lab.formats.c.run import open_library

    library = open_library(bundle)  # int8 inside, on one thread
    shape = bundle.outputs[0].shape

    def run(x: np.ndarray) -> Outputs:
        flat = library(x)
        if len(shape) != 4:
            return (flat.reshape(shape),)
        n, c, h, w = shape  # C code keeps the channels of a pixel together
        return (np.ascontiguousarray(flat.reshape(n, h, w, c).transpose(0, 3, 1, 2)),)

    return run


_ANY_BATCH = ("torchscript", "ptl")  # interpreters: they take what the operators take
_ENGINES: dict[str, Callable[[Bundle, int], Run]] = {
    "torchscript": _torchscript,
    "pt2": _pt2,
    "onnx": _onnx,
    "pte": _pte,
    "mlpackage": _mlpackage,
    "aoti": _aoti,
    "ptl": _ptl,
    "c": _c,
    "ort": _onnx,  # the same engine; it sees which of its two formats it is
}
