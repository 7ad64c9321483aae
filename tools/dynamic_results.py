"""Dynamic int8 target by target, against the float32 program of the same engine: layers, size, speed, SQNR.

    python tools/dynamic_results.py [--inductor] [OUT]

Two networks with random weights (this is about size and time, not answers) and EfficientNet-Lite0, where dynamic int8
has one layer to work on. One thread, batch 1, 30 interleaved rounds. --inductor also compiles (minutes).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edge_lab
from edge_lab import measure
from edge_lab.zoo import Model


class Speech(nn.Module):
    """The network of lab 03."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(80, 512, num_layers=2, batch_first=True)
        self.head = nn.Linear(512, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 20, 80) to (1, 40)."""
        y: torch.Tensor = self.head(self.cells(x)[0][:, -1])
        return y


def models() -> dict[str, Model]:
    """The three networks."""
    torch.manual_seed(0)
    linear = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(1024, 1024), nn.ReLU())])
    return {
        "LSTM 2 x 512, 20 frames": edge_lab.from_module(Speech(), (1, 20, 80), name="speech", task="tensor"),
        "Linear 4 x 1024": edge_lab.from_module(linear, (1, 1024), name="linear", task="tensor"),
        "EfficientNet-Lite0": edge_lab.create("efficientnet_lite0"),
    }


def row(name: str, model: Model, backend: str, precision: str, out: Path) -> str:
    """One line of the table."""
    full = edge_lab.to(model, f"linux-{backend}-fp32", out=out)
    small = edge_lab.to(model, f"linux-{backend}-{precision}", out=out)
    x = np.random.default_rng(0).standard_normal(model.spec.input.shape).astype(np.float32)
    a, b = edge_lab.load(full), edge_lab.load(small)
    times = measure.interleaved({"a": lambda: a(x), "b": lambda: b(x)}, rounds=30)
    ratio = measure.ratio(times["a"], times["b"])
    layers = f"{small.quantization.quantized} of {small.quantization.layers}"
    size = f"{full.program_bytes / 1e6:.2f} | {small.program_bytes / 1e6:.2f}"
    quality = float(small.metrics["sqnr_db"] or 0)
    return f"| {name} | {backend}-{precision} | {layers} | {size} | {ratio.value:.2f} | {quality:.1f} |"


def convolutions(model: Model, out: Path) -> str:
    """What ONNX Runtime does if it is asked for convolutions too (ConvInteger)."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    full = edge_lab.to(model, "linux-onnx-fp32", out=out)
    path = out / "all.onnx"
    graph = onnx.load(full.program_path)
    del graph.graph.value_info[:]  # see edge_lab/formats/onnx/onnx.py
    quantize_dynamic(graph, path)
    x = np.random.default_rng(0).standard_normal(model.spec.input.shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    name, a = session.get_inputs()[0].name, edge_lab.load(full)
    times = measure.interleaved({"a": lambda: a(x), "b": lambda: session.run(None, {name: x})}, rounds=30)
    ratio = measure.ratio(times["a"], times["b"])
    sizes = f"{full.program_bytes / 1e6:.2f} | {path.stat().st_size / 1e6:.2f}"
    return f"| {model.spec.name} | onnx, convolutions too | all | {sizes} | {ratio.value:.2f} | – |"


def main() -> None:
    """Print the table."""
    words = sys.argv[1:]
    inductor = "--inductor" in words
    rest = [word for word in words if not word.startswith("--")]
    out = Path(rest[0]) if rest else Path(tempfile.mkdtemp())
    print("| network | target | layers | float32 MB | int8 MB | times as fast | SQNR dB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, model in models().items():
        kinds = [(backend, "int8-dynamic") for backend in ("torchscript", "onnx", "xnnpack", "pt2")]
        if name.startswith("Linear"):
            kinds += [("xnnpack", "int4-dynamic")] + ([("inductor", "int8-dynamic")] if inductor else [])
        if name.startswith("Eff"):
            kinds = kinds[:3]
        for backend, precision in kinds:
            try:
                print(row(name, model, backend, precision, out), flush=True)
            except edge_lab.EdgeLabError as error:
                print(f"| {name} | {backend}-{precision} | {str(error).splitlines()[0]} | | | | |", flush=True)
    print(convolutions(models()["EfficientNet-Lite0"], out))


if __name__ == "__main__":
    main()
