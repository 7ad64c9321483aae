"""Other ways to a microcontroller, each labelled for what it is: what they make of digitnet, as a table.

    python tools/accelerators.py env ethos-u        once: an environment for Arm's tools (260 MB)
    python tools/mcu_others.py env esp-ppq          once: an environment for Espressif's quantizer
    python tools/mcu_others.py table                runs what is there; prints docs/results/microcontrollers.md's table

ExecuTorch's Cortex-M path: operators of CMSIS-NN in a .pte; its wheel has their Python bindings (so answers can be
checked here) but no runtime to link into a firmware. Ethos-U: vela, Arm's compiler, estimates cycles; nothing is run.
ESP-PPQ: an .espdl file for Espressif's ESP-DL; its own simulator answers here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import venv
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ESP_PINS = ("esp-ppq==1.3.12",)
IMAGES = 200


def folder(name: str) -> Path:
    return ROOT / f".venv-{name}"


def make_esp() -> None:
    """An environment with ESP-PPQ and the packages of this one behind it."""
    import sysconfig

    place = folder("esp-ppq")
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    run([python, "-m", "pip", "install", "--quiet", *ESP_PINS], check=True)
    (Path(own) / "edge_lab_main.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    print(place)


def inputs(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits and their classes: float32 (n, 1, 28, 28), int64 (n,)."""
    from edge_lab import data, zoo
    from edge_lab.measure import prepare

    images = data.load("handwriting", split, count)
    return prepare(images, zoo.create("digitnet").spec).x, images.y


def cortex_m() -> dict[str, Any]:
    """Lower digitnet for ExecuTorch's Cortex-M operators and run the lowered graph with CMSIS-NN's Python bindings."""
    import torch
    from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
    from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
    from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
    from executorch.backends.cortex_m.target_config import CortexM, CortexMTargetConfig
    from executorch.exir import EdgeProgramManager, to_edge
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from edge_lab import zoo

    net = zoo.create("digitnet").module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    some, (test, y) = inputs("train", 64)[0], inputs("test", IMAGES)

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x.copy()).to(memory_format=torch.channels_last)

    example = (tensor(some[:1]),)
    prepared = prepare_pt2e(torch.export.export(net, example).module(check_guards=False), CortexMQuantizer())
    for i in range(len(some)):
        prepared(tensor(some[i : i + 1]))
    edge = to_edge(torch.export.export(convert_pt2e(prepared), example), compile_config=cortex_m_edge_compile_config())
    target = CortexMTargetConfig(cpu=CortexM.M4)
    passes = CortexMPassManager(edge.exported_program(), CortexMPassManager.pass_list, target_config=target)
    lowered = EdgeProgramManager(passes.transform(), compile_config=cortex_m_edge_compile_config())
    module = lowered.exported_program().module(check_guards=False)
    answers = [int(module(tensor(test[i : i + 1])).argmax()) for i in range(len(test))]
    buffer = lowered.to_executorch().buffer
    with torch.inference_mode():
        floats = net(tensor(test)).argmax(1).numpy()
    names = {str(n.target) for n in lowered.exported_program().graph.nodes if n.op == "call_function"}
    return {
        "bytes": len(buffer),
        "top1": 100 * float((np.array(answers) == y).mean()),
        "agreement": 100 * float((np.array(answers) == floats).mean()),
        "operators": sorted(n.split(".")[1] for n in names if n.startswith("cortex_m.")),
    }


def esp() -> dict[str, Any]:
    """Quantize digitnet for an ESP32-S3 and ask ESP-PPQ's own simulator."""
    import torch
    from esp_ppq.api import espdl_quantize_torch
    from esp_ppq.executor import TorchExecutor

    from edge_lab import zoo

    net = zoo.create("digitnet").module
    some, (test, y) = inputs("train", 64)[0], inputs("test", IMAGES)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "digitnet.espdl"
        graph = espdl_quantize_torch(
            model=net,
            espdl_export_file=str(file),
            calib_dataloader=[torch.from_numpy(some[i : i + 1].copy()) for i in range(len(some))],
            calib_steps=len(some),
            input_shape=[1, 1, 28, 28],
            target="esp32s3",
            num_of_bits=8,
            device="cpu",
            verbose=0,
        )
        size = file.stat().st_size
    executor = TorchExecutor(graph=graph, device="cpu")
    answers = [int(executor(torch.from_numpy(test[i : i + 1].copy()))[0].argmax()) for i in range(len(test))]
    with torch.inference_mode():
        floats = net(torch.from_numpy(test.copy())).argmax(1).numpy()
    return {
        "bytes": size,
        "top1": 100 * float((np.array(answers) == y).mean()),
        "agreement": 100 * float((np.array(answers) == floats).mean()),
    }


def child(name: str, python: Path) -> dict[str, Any]:
    """What `name` found, in a process of the environment that it needs."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run([python, __file__, "child", name], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table() -> None:
    """Rows of everything whose environment is there."""
    from edge_lab import zoo
    from edge_lab.formats.pte.delegates import delegates

    print(f"| way | what it is | file | right of {IMAGES} digits | as float32 | more |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    arm, espressif = (folder(name) / "bin" / "python" for name in ("ethos-u", "esp-ppq"))
    if arm.is_file():
        found = child("cortex_m", arm)
        operators = ", ".join(found["operators"])
        print(
            f"| ExecuTorch Cortex-M | .pte, answers by CMSIS-NN's Python bindings; no firmware runtime in the wheel "
            f"| {found['bytes']:,} B | {found['top1']:.1f} % | {found['agreement']:.1f} % | {operators} |"
        )
        for row in delegates([zoo.create("digitnet")], ["ethos-u"], python=arm):
            estimate = ", ".join(f"{name} {value:.10g}" for name, value in row.estimate)
            print(f"| Ethos-U55-128 | vela's estimate, nothing was run | – | – | – | {estimate or row.why} |")
    else:
        print("no .venv-ethos-u here: python tools/accelerators.py env ethos-u", file=sys.stderr)
    if espressif.is_file():
        found = child("esp", espressif)
        print(
            f"| ESP-PPQ | .espdl for ESP-DL on an ESP32-S3, answers by its own simulator "
            f"| {found['bytes']:,} B | {found['top1']:.1f} % | {found['agreement']:.1f} % | scales are powers of two |"
        )
    else:
        print("no .venv-esp-ppq here: python tools/mcu_others.py env esp-ppq", file=sys.stderr)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("env", "table", "child"))
    p.add_argument("name", nargs="?", choices=("esp-ppq", "cortex_m", "esp"))
    a = p.parse_args()
    if a.what == "env":
        make_esp()
    elif a.what == "table":
        table()
    else:
        print(json.dumps({"cortex_m": cortex_m, "esp": esp}[a.name]()))


if __name__ == "__main__":
    main()
