"""The lite interpreter (.ptl): what PyTorch Mobile ran on phones until ExecuTorch replaced it.

Apps in the field still read it, so its bundles are real. `mobile_passes` says which of its optimizations this PyTorch
has: the wheels for desktops come without XNNPACK, and `optimize_for_mobile` fails there or takes the process with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.ready import ready
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.compress.weights.dynamic import DynamicInt8
from edge_lab.core.errors import ExportError, InputError
from edge_lab.core.made_with import version_of
from edge_lab.formats.torchscript.archive import read_lite
from edge_lab.formats.torchscript.torchscript import extra_files, record

if TYPE_CHECKING:
    from edge_lab.zoo import Model


@exporter("lite", "ptl", ("android", "ios", "linux"), ("fp32", "int8-dynamic"), takes=("torch.ao",))
def export_lite(job: Job) -> Program:
    """Write model.ptl: traced or scripted as for TorchScript, frozen, compiled to bytecode.

    `job.target.lite` says which mobile passes to run and which version of the bytecode to write.
    """
    import torch

    module, report = ready(job, DynamicInt8("eager") if job.target.precision == "int8-dynamic" else None)
    options, path = job.target.lite, job.folder / "model.ptl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.jit.freeze(record(module, job.example, job))  # type: ignore[no-untyped-call]
        for name in options.passes:
            program = _offered(name)(program)
        program._save_for_lite_interpreter(str(path), _extra_files=extra_files(job.spec))
    if options.bytecode is not None:
        backport(path, options.bytecode)
    if options.slim:
        slim(path)
    torch_version = version_of("torch")
    return Program("model.ptl", Runtime("ptl", "lite", "torch", torch_version, torch_version), report)


def backport(path: Path | str, version: int) -> None:
    """Rewrite a .ptl with an older bytecode, for apps whose runtime is older. Operators stay as they are.

    Raises:
        InputError: PyTorch can't go from the file's version to this one.
        BundleError: the file is no .ptl.
    """
    import torch.jit.mobile

    mobile: Any = torch.jit.mobile
    path = Path(path)
    own = read_lite(path).version
    if own == version:
        return
    older = path.with_name(path.name + ".part-older")
    try:
        done = version < own and mobile._backport_for_mobile(str(path), str(older), version)
    except RuntimeError:
        done = False
    if not done:
        older.unlink(missing_ok=True)
        raise InputError(
            f"bytecode {own} can't be rewritten as bytecode {version}.",
            "PyTorch has a way back to version 4 only, and none forward.",
            f"ask for a version from 4 to {own}.",
        )
    older.replace(path)


def slim(path: Path | str) -> None:
    """Rewrite a .ptl without what only `torch.jit.load` reads; the lite interpreter computes the same.

    That is the model as TorchScript: its source code with your file names and lines, and the packed int8 weights, which
    are stored once for either reader. `torch.jit.load` and `backport` refuse the result.
    """
    import torch

    read_lite(path)
    torch_c: Any = torch._C
    source = torch_c.PyTorchFileReader(str(path))
    tables = source.get_record("bytecode.pkl") + source.get_record("data.pkl")
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        smaller = Path(folder) / Path(path).name  # its name becomes the name of the folder inside
        writer = torch_c.PyTorchFileWriter(str(smaller))
        for name in source.get_all_records():
            own = name.split("/")[0] in ("bytecode.pkl", "data.pkl", "data", "extra")
            if own or (name.startswith("constants/") and name.removeprefix("constants/").encode() in tables):
                content = source.get_record(name)
                writer.write_record(name, content, len(content))
        writer.write_end_of_file()
        smaller.replace(path)


@dataclass(frozen=True)
class Pass:
    """One step of `optimize_for_mobile`: its member of MobileOptimizerType if it has one, what it does, its call."""

    member: str
    what: str
    run: Callable[[Any], Any]


@cache
def passes() -> Mapping[str, Pass]:
    """Every mobile pass that PyTorch has a binding for, by name, in the order in which to run them."""
    import torch

    jit: Any = torch._C
    script: Any = torch.jit

    def on_graph(name: str) -> Callable[[Any], Any]:
        return lambda program: (getattr(jit, name)(program.graph), program)[1]

    def on_module(name: str) -> Callable[[Any], Any]:
        return lambda program: (getattr(jit, name)(program._c), program)[1]

    return {
        "freeze": Pass(
            "", "weights become constants; branches on them go", lambda p: script.freeze(p, optimize_numerics=False)
        ),
        "conv_bn": Pass("CONV_BN_FUSION", "batch norm into convolution", on_graph("_jit_pass_fold_frozen_conv_bn")),
        "dropout": Pass("REMOVE_DROPOUT", "dropout out", on_module("_jit_pass_remove_dropout")),
        "add_relu": Pass("FUSE_ADD_RELU", "add and ReLU as one", on_graph("_jit_pass_fuse_add_relu")),
        "conv1d": Pass("", "conv1d as conv2d", on_graph("_jit_pass_transform_conv1d_to_conv2d")),
        "prepack": Pass(
            "INSERT_FOLD_PREPACK_OPS", "weights in XNNPACK's order", on_module("_jit_pass_insert_prepacked_ops")
        ),
        "clamp": Pass("", "clamp into XNNPACK's layers", on_module("_jit_pass_fuse_clamp_w_prepacked_linear_conv")),
        "mkldnn": Pass("", "oneDNN's layers (desktops)", on_graph("_jit_pass_convert_frozen_ops_to_mkldnn")),
        "vulkan": Pass(
            "VULKAN_AUTOMATIC_GPU_TRANSFER",
            "all, for Vulkan",
            lambda p: script._recursive.wrap_cpp_module(jit._jit_pass_vulkan_optimize_for_mobile(p._c, set(), [])),
        ),
        "metal": Pass(
            "",
            "all, for Metal",
            lambda p: script._recursive.wrap_cpp_module(jit._jit_pass_metal_optimize_for_mobile(p._c, [])),
        ),
    }


OFFERED = ("dropout", "add_relu", "conv1d")  # what `freeze` has not done already, and needs no other build


def _offered(name: str) -> Callable[[Any], Any]:
    if name not in OFFERED:
        raise InputError(
            f"there is no mobile pass {name!r} for the lite export.",
            "freeze and conv_bn always run; the others need a PyTorch with XNNPACK, Vulkan or Metal inside.",
            f"choose from {', '.join(OFFERED)}; mobile_passes() of edge_lab.formats.torchscript.lite says what works.",
        )
    return passes()[name].run


@dataclass(frozen=True)
class Probed:
    """What one pass did to a program: operators before and after, and the error of the .ptl written from it.

    `error` is the largest difference from the module's output, None if the pass failed; `note` says how it failed.
    """

    name: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    error: float | None
    note: str

    @property
    def works(self) -> bool:
        """It ran, its result was saved and loaded again, and the answer is the same up to rounding."""
        return self.error is not None and self.error < 1e-3

    @property
    def change(self) -> str:
        """The operators whose count changed: `batch_norm 2 → 0`."""
        names = [n for n in {**self.before, **self.after} if self.before.get(n, 0) != self.after.get(n, 0)]
        return ", ".join(f"{n} {self.before.get(n, 0)} → {self.after.get(n, 0)}" for n in sorted(names))


@dataclass(frozen=True)
class MobilePasses:
    """The answer of `mobile_passes`. `blocklists` of `tried` blocklists let `optimize_for_mobile` through."""

    results: tuple[Probed, ...]
    blocklists: int
    tried: int
    note: str

    @property
    def working(self) -> tuple[str, ...]:
        """Names of the passes that work here."""
        return tuple(r.name for r in self.results if r.works)

    def __getitem__(self, name: str) -> Probed:
        return next(r for r in self.results if r.name == name)

    def __str__(self) -> str:
        lines = [
            f"{r.name:10}{'works' if r.works else 'fails':7}{(r.change if r.works else r.note) or 'no change'}"
            for r in self.results
        ]
        lines.append(f"optimize_for_mobile: {self.blocklists} of {self.tried} blocklists work. {self.note}".rstrip())
        return "\n".join(lines)


def mobile_passes(model: Model | None = None) -> MobilePasses:
    """Which steps of `optimize_for_mobile` work with this PyTorch, and what they change in a program.

    Everything runs in child processes, because some steps end the process. Takes about five seconds.

    Args:
        model: default: a small net on which every step has something to do.

    Raises:
        ExportError: the model can't become TorchScript at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        if model is not None:
            import torch

            x = np.random.default_rng(0).standard_normal(model.spec.input.shape).astype(np.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                record(model.module, x).save(f"{folder}/program.pt")
            with torch.no_grad():
                torch.save((torch.from_numpy(x), model.module(torch.from_numpy(x))), f"{folder}/example.pt")
        return _collect(Path(folder), ["blocklists", *passes()])


def _collect(folder: Path, todo: list[str]) -> MobilePasses:
    """Run the child until it has said something about every name; the one during which it died is the culprit."""
    results: list[Probed] = []
    blocklists, tried, note = 0, 0, ""
    while todo:
        command = [sys.executable, "-W", "ignore", "-m", "edge_lab.formats.torchscript.lite_probe", str(folder), *todo]
        child = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        said = [json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"name"')]
        if not said:
            raise ExportError(
                "the mobile passes can't be probed.",
                (child.stderr.strip().splitlines() or ["the child process said nothing"])[-1][:300],
                "run `edge-lab doctor`; PyTorch itself may be broken.",
            )
        if child.returncode and not said[-1].get("done"):
            end = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
            said.append({"name": said[-1]["name"], "done": True, "note": f"it ends the process ({end})"})
        for answer in (a for a in said if a.get("done")):
            todo.remove(answer["name"])
            if answer["name"] == "blocklists":
                blocklists, tried, note = answer.get("works", 0), answer.get("tried", 0), answer["note"]
            else:
                counts = answer.get("before", {}), answer.get("after", {})
                results.append(Probed(answer["name"], *counts, answer.get("error"), answer["note"]))
    return MobilePasses(tuple(results), blocklists, tried, note)
