"""ExecuTorch's accelerators, each of them tried: does it export here, does it run here, which operators are left over?

Everything happens in a child process, because some of these libraries end the process that calls them, and because two
of them need versions of other packages that this one must not have (`tools/accelerators.py env` makes environments for
them). The child gets no network: QNN's export would otherwise download gigabytes by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edge_lab.core.errors import InputError
from edge_lab.core.numbers import finite_db, sqnr_between
from edge_lab.core.quiet import quiet

if TYPE_CHECKING:
    from edge_lab.zoo import Model

State = Literal["ran", "written", "refused", "crashed"]
_CLOSED = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Accelerator:
    """An accelerator that ExecuTorch, or PyTorch before it, exports to.

    Attributes:
        name: as `delegates` takes it.
        hardware: where its programs run.
        needs: what its export needs besides ExecuTorch.
        precision: of the program that `delegates` writes.
        environment: the Python environment that `tools/accelerators.py env NAME` makes for it; "": none is needed.
    """

    name: str
    hardware: str
    needs: str
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    environment: str = ""


ACCELERATORS = (
    Accelerator("xnnpack", "ARM and x86 CPUs", "nothing"),
    Accelerator("openvino", "Intel CPUs, GPUs and NPUs", "openvino 2025.4.1 and nncf 3.1.0", environment="openvino"),
    Accelerator("vulkan", "GPUs of Android phones", "nothing"),
    Accelerator("coreml", "Apple's CPUs, GPUs and Neural Engine", "coremltools", "fp16"),
    Accelerator("ethos-u", "Arm's Ethos-U in microcontrollers", "ethos-u-vela and tosa-tools", "int8", "ethos-u"),
    Accelerator("qnn", "Qualcomm's Hexagon NPU", "Qualcomm's QNN SDK, and QNN_SDK_ROOT that points to it", "fp16"),
    Accelerator("mediatek", "MediaTek's NPU", "MediaTek's NeuroPilot SDK (mtk_converter, mtk_neuron)"),
    Accelerator("samsung", "Samsung's Exynos NPU", "Samsung's ENN SDK, and ExecuTorch built from source with it"),
    Accelerator("nxp", "NXP's eIQ Neutron NPU", "NXP's eIQ Neutron SDK", "int8"),
    Accelerator("nnapi", "Android's NNAPI, until Android 14", "nothing; TorchScript's converter, not ExecuTorch"),
    Accelerator("mps", "Apple's GPUs", "an ExecuTorch that still has the backend: 1.5 does not"),
)


NAMES = tuple(known.name for known in ACCELERATORS)


@dataclass(frozen=True)
class Lowered:
    """What became of one model on the way to one accelerator.

    Attributes:
        model: its name.
        accelerator: its name.
        state: "ran" here; "written", but it can't run here; "refused" by the export; "crashed": it ended its process.
        why: of what is not "ran": the reason, as the library said it.
        delegated: share of the operators inside the delegate, 0 to 1; None where there is no program or no such notion.
        left: names of the operators outside.
        pieces: how many programs the delegate holds: every operator left in the middle cuts one in two.
        size_mb: of the file, in 1e6 bytes.
        sqnr_db: of the outputs against PyTorch, in dB, at most 200; None if it did not run.
        estimate: what the accelerator's own compiler estimates, by name; a model of the chip, not a measurement.
    """

    model: str
    accelerator: str
    state: State
    why: str = ""
    delegated: float | None = None
    left: tuple[str, ...] = ()
    pieces: int = 0
    size_mb: float | None = None
    sqnr_db: float | None = None
    estimate: tuple[tuple[str, float], ...] = ()


def accelerator(name: str) -> Accelerator:
    """An accelerator by name; InputError if there is none."""
    for known in ACCELERATORS:
        if known.name == name:
            return known
    raise InputError(
        f"there is no accelerator {name!r}.",
        f"known are {', '.join(NAMES)}.",
        "take one of these names.",
    )


def delegates(
    models: Model | Iterable[Model] = (),
    accelerators: Sequence[str] = NAMES,
    *,
    python: Path | str = sys.executable,
    timeout: float = 900,
) -> tuple[Lowered, ...]:
    """Lower each model for each accelerator, run it where that is possible, and say what came out.

    Args:
        models: one or several; none: a small network of seven layers.
        accelerators: names from `ACCELERATORS`.
        python: interpreter of the child process: an environment of its own for OpenVINO and Ethos-U.
        timeout: seconds for one process.

    Returns:
        One Lowered for each pair, model by model. Nothing that goes wrong in the child is an exception.

    Raises:
        InputError: no such accelerator or interpreter. ExportError: torch.export itself can't read the model.
    """
    from edge_lab.zoo import Model

    names = [accelerator(name).name for name in accelerators]
    if not Path(python).is_file():
        raise InputError(
            f"there is no Python at {python}.",
            "the environment was not made, or it was deleted.",
            "python tools/accelerators.py env openvino",
        )
    chosen = (models,) if isinstance(models, Model) else tuple(models) or (small_net(),)
    with tempfile.TemporaryDirectory(prefix="edge-lab-") as folder:
        places = [Path(folder) / str(i) for i in range(len(chosen))]
        for place, model in zip(places, chosen, strict=True):
            _write(model, place)
        todo = [(i, name) for i in range(len(chosen)) for name in names]
        answers: dict[tuple[int, str], dict[str, Any]] = {}
        while missing := [pair for pair in todo if pair not in answers]:
            answers |= _child(Path(folder), missing, Path(python), timeout)
        return tuple(_lowered(chosen[i], name, answers[i, name], places[i]) for i, name in todo)


def small_net() -> Model:
    """Convolution, batch norm, ReLU6, depthwise convolution, ReLU, pooling, linear; seeded weights; 32 x 32 inputs."""
    import torch
    from torch import nn

    from edge_lab.zoo import from_module

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6()
        second = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU()
        net = nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return from_module(net, (1, 3, 32, 32), name="small_net", task="tensor")


def _write(model: Model, place: Path) -> None:
    """What the child reads: the exported program, inputs (4, 1, ...), and the outputs of PyTorch."""
    import torch

    from edge_lab.capture.diagnose import diagnose
    from edge_lab.capture.wrap import flatten

    inputs = np.stack(_inputs(model))
    module, _ = flatten(model.module, inputs[0])
    place.mkdir()
    with torch.no_grad():
        first = [module(torch.from_numpy(x.copy())) for x in inputs]
    rows = [y[0] if isinstance(y, tuple) else y for y in first]
    np.savez(place / "arrays.npz", inputs=inputs, reference=np.stack([y.numpy() for y in rows]))
    try:
        with quiet():
            program = torch.export.export(module, (torch.from_numpy(inputs[0]),), strict=False)
            torch.export.save(program, place / "program.pt2")
    except Exception as error:  # torch raises many kinds
        raise diagnose(error, model.spec.name, "torch.export") from error


def _inputs(model: Model) -> list[np.ndarray]:
    from edge_lab.bundle.spec import preprocess

    if model.spec.preprocess is None:
        rng = np.random.default_rng(0)
        return [rng.standard_normal(model.spec.input.shape).astype(model.spec.input.dtype) for _ in range(4)]
    from edge_lab.data import load

    photos = load("photos").take(4)
    return [preprocess(photos[i], model.spec) for i in range(4)]


def _child(
    folder: Path, todo: list[tuple[int, str]], python: Path, timeout: float
) -> dict[tuple[int, str], dict[str, Any]]:
    """Answers of one process; if it died, the pair that ended it is among them."""
    package = Path(__file__).parents[3]
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _CLOSED)
    environment = os.environ | proxies | {"PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore"}
    words = [f"{i}:{name}" for i, name in todo]
    command = [str(python), "-m", "edge_lab.formats.pte.delegates_child", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment
        )
        stdout, how = done.stdout, f"exit code {done.returncode}"
        if done.returncode < 0:
            how = f"signal {-done.returncode}"
        said = [line for line in done.stderr.splitlines() if line.strip()]
        how += f": {said[-1].strip()[:160]}" if said and done.returncode > 0 else ""
    except subprocess.TimeoutExpired as error:
        stdout = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        how = f"no answer within {timeout:.0f} s"
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    for line in stdout.splitlines():
        if line.startswith('{"delegate"'):
            answer = json.loads(line)
            place, _, name = answer.pop("delegate").partition(":")
            answers[int(place), name] = answers.get((int(place), name), {}) | answer
    unfinished = [pair for pair in todo if "state" not in answers.get(pair, {})]
    if unfinished:  # the first is the one that ended it; the rest go to another process
        first = unfinished[0]
        stage = "running it" if "size_mb" in answers.get(first, {}) else "the export"
        answers = {pair: a for pair, a in answers.items() if pair not in unfinished[1:]}
        answers[first] = answers.get(first, {}) | {"state": "crashed", "why": f"{stage} ended its process: {how}"}
    return answers


def _lowered(model: Model, name: str, answer: dict[str, Any], place: Path) -> Lowered:
    decibels = None
    if answer["state"] == "ran":
        with np.load(place / "arrays.npz") as stored:
            decibels = finite_db(sqnr_between(stored["reference"], np.load(place / f"{name}.npy")))
    return Lowered(
        model.spec.name,
        name,
        answer["state"],
        answer.get("why", ""),
        answer.get("delegated"),
        tuple(answer.get("left", ())),
        answer.get("pieces", 0),
        answer.get("size_mb"),
        decibels,
        tuple(sorted(answer.get("estimate", {}).items())),
    )
