"""Converters of the peers. A script for the environment that has the converter: numpy and that converter, no edge_lab.

    python convert.py '{"do": "openvino-int8", "source": "model.onnx", "into": "FOLDER", "shape": [1, 3, 224, 224],
                        "calibration": "32.npy"}'

Writes the program into the folder and ends with 0. What goes wrong is on standard error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# OpenVINO and nncf report each import and each call to Intel if they find this module, and do without it if they don't.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def openvino(job: dict[str, Any]) -> None:
    """ONNX to OpenVINO's model.xml and model.bin, weights as they are."""
    import openvino as ov

    ov.save_model(ov.convert_model(job["source"]), Path(job["into"]) / "model.xml", compress_to_fp16=False)


def openvino_int8(job: dict[str, Any]) -> None:
    """The same after nncf.quantize with its defaults on the calibration inputs."""
    import nncf  # type: ignore[import-not-found]
    import openvino as ov

    model = ov.convert_model(job["source"])
    rows = np.load(job["calibration"])
    data = nncf.Dataset([rows[i : i + 1] for i in range(len(rows))])
    quantized = nncf.quantize(model, data, subset_size=len(rows))
    ov.save_model(quantized, Path(job["into"]) / "model.xml", compress_to_fp16=False)


def ncnn(job: dict[str, Any]) -> None:
    """A torch.export program to ncnn by pnnx. Its default stores weights as float16; what computes is chosen at load.

    pnnx reads TorchScript. It gets a trace of the exported program, in which every size is a number already: from the
    module's own trace it keeps the arithmetic of padding as operators that ncnn does not have.
    """
    import pnnx  # type: ignore[import-not-found]
    import torch

    folder = Path(job["into"])
    module = torch.export.load(job["source"]).module(check_guards=False)
    with torch.no_grad():
        trace: Any = torch.jit.trace  # untyped
        trace(module, torch.zeros(job["shape"]), check_trace=False).save(str(folder / "model.pt"))
    shape = "[" + ",".join(map(str, job["shape"])) + "]f32"
    command = [pnnx.EXEC_PATH, str(folder / "model.pt"), f"inputshape={shape}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not (folder / "model.ncnn.bin").is_file():
        sys.exit(f"pnnx ended with {done.returncode}: {done.stderr[-500:]}")
    for file in folder.iterdir():
        if file.name not in ("model.ncnn.param", "model.ncnn.bin"):
            file.unlink()
    kinds = {line.split()[0] for line in (folder / "model.ncnn.param").read_text().splitlines()}
    if foreign := sorted(kind for kind in kinds if "." in kind):  # torch.roll and its like: pnnx left them as they were
        sys.exit(f"ncnn has no operator for {', '.join(foreign)}")


def mnn(job: dict[str, Any], *options: str) -> None:
    """ONNX to model.mnn.

    By the function that the program mnnconvert calls: around it, that program installs a package for reports with pip
    if it is missing, and reports each conversion, with the machine's id, to MNN's makers.
    """
    program = [sys.executable, "-I", "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)"]
    into = str(Path(job["into"]) / "model.mnn")
    words = ["-f", "ONNX", "--modelFile", job["source"], "--MNNModel", into, "--bizCode", "edge", *options]
    done = subprocess.run([*program, *words], capture_output=True, text=True)
    if not Path(into).is_file():
        sys.exit(f"mnnconvert ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")


def mnn_w8(job: dict[str, Any]) -> None:
    """The same with weights of 8 bits; activations stay float."""
    mnn(job, "--weightQuantBits", "8")


def litert(job: dict[str, Any]) -> None:
    """A torch.export program to model.tflite."""
    import litert_torch  # type: ignore[import-not-found]
    import torch

    module = torch.export.load(job["source"]).module()
    example = torch.zeros(job["shape"])
    litert_torch.convert(module, (example,)).export(str(Path(job["into"]) / "model.tflite"))


def litert_int8(job: dict[str, Any]) -> None:
    """model.tflite to int8 weights and activations by ai-edge-quantizer; `source` is the fp32 model.tflite."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]
    from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-not-found]

    rows = np.load(job["calibration"])
    signatures = Interpreter(job["source"]).get_signature_list()
    name, parts = next(iter(signatures.items()))
    data = [{parts["inputs"][0]: rows[i : i + 1]} for i in range(len(rows))]
    q = quantizer.Quantizer(job["source"])
    q.load_quantization_recipe(recipe.static_wi8_ai8())
    q.quantize(q.calibrate({name: data})).export_model(str(Path(job["into"]) / "model.tflite"))


CONVERTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "openvino": openvino,
    "openvino-int8": openvino_int8,
    "ncnn": ncnn,
    "mnn": mnn,
    "mnn-w8": mnn_w8,
    "litert": litert,
    "litert-int8": litert_int8,
}

if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    CONVERTERS[order["do"]](order)
