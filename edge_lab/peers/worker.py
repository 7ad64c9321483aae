"""One engine in a process of its own: orders come as JSON lines on standard input, answers go out as JSON lines.

    python worker.py ENGINE [EXTRA.py]

It needs numpy and the engine, nothing of edge_lab, so it runs in any environment. EXTRA.py may define further engines
(a function of that name, as below). The orders, each with "do":

    load     program, threads, options     loads the engine, then the program: versions, milliseconds, memory
    first    input (.npy of one input)     runs it once, then `warmup` times more: milliseconds, memory
    run      count, ready_s                runs it for `ready_s` seconds, then `count` times: the seconds of each
    outputs  inputs (.npy), file (.npy)    runs every input, writes the first output of each: how many
    quit

Every answer has "ok"; where that is false, "error" says what the engine said. What engines print is sent to stderr.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], Any]  # one input with its batch axis to the first output, as an array
Load = Callable[[str, int, dict[str, Any]], Run]
# An engine imports itself and returns its loader and its version; that way import and load are timed apart.
Engine = Callable[[], tuple[Load, str]]


def executorch() -> tuple[Load, str]:
    """ExecuTorch with XNNPACK; its pool is the process's."""
    import torch
    from executorch.extension.pybindings import _C as runtime

    def load(program: str, threads: int, options: dict[str, Any]) -> Run:
        runtime._unsafe_reset_threadpool(threads)
        with open(program, "rb") as file:
            held = file.read()
        method = runtime._load_for_executorch_from_buffer(held)

        def run(x: np.ndarray, _keep: bytes = held) -> Any:
            return method.forward((torch.from_numpy(x),))[0].numpy()

        return run

    return load, importlib.metadata.version("executorch")


def _has_vnni() -> bool:
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and "vnni" in cpu.read_text(encoding="utf-8", errors="replace")


def onnxruntime() -> tuple[Load, str]:
    """ONNX Runtime on the CPU."""
    import onnxruntime as ort

    def load(program: str, threads: int, options: dict[str, Any]) -> Run:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        if not _has_vnni():  # sums of 16 bits overflow there; edge_lab.load asks the engine instead
            settings.add_session_config_entry("session.x64quantprecision", "1")
        for key, value in options.items():
            settings.add_session_config_entry(key, str(value))
        session = ort.InferenceSession(program, settings, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]

    return load, str(ort.__version__)


def openvino() -> tuple[Load, str]:
    """OpenVINO on the CPU. Left alone it computes in bfloat16 where the CPU can: the precision is always stated."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # reports this import to Intel if it is there
    import openvino as ov

    def load(program: str, threads: int, options: dict[str, Any]) -> Run:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = ov.Core().compile_model(program, "CPU", {**settings, **options})
        request = compiled.create_infer_request()
        return lambda x: request.infer([x], share_inputs=True, share_outputs=True)[0]

    return load, importlib.metadata.version("openvino")


def litert() -> tuple[Load, str]:
    """LiteRT with its own XNNPACK. Integer inputs and outputs are scaled here, as an app has to."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

    def load(program: str, threads: int, options: dict[str, Any]) -> Run:
        model = Interpreter(program, num_threads=threads)
        model.allocate_tensors()
        source, sink = model.get_input_details()[0], model.get_output_details()[0]

        def run(x: np.ndarray) -> Any:
            model.set_tensor(source["index"], _to_integers(x, source))
            model.invoke()
            return _from_integers(model.get_tensor(sink["index"]), sink)

        return run

    return load, importlib.metadata.version("ai-edge-litert")


def _to_integers(x: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    kind = np.dtype(tensor["dtype"])
    if kind.kind == "f":
        return x
    scale, zero = tensor["quantization"]
    limits = np.iinfo(kind)
    return np.asarray(np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(kind))


def _from_integers(y: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    if y.dtype.kind == "f":
        return y
    scale, zero = tensor["quantization"]
    return np.asarray((y.astype(np.int32) - zero) * scale, np.float32)


def ncnn() -> tuple[Load, str]:
    """ncnn; float32 arithmetic unless the options switch something on."""
    import ncnn as nc

    def load(program: str, threads: int, options: dict[str, Any]) -> Run:
        net = nc.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, bool(options.get(name, False)))
        if net.load_param(program) or net.load_model(program.removesuffix(".param") + ".bin"):
            raise RuntimeError("ncnn can't read " + program)
        source, sink = net.input_names()[0], net.output_names()[0]

        def run(x: np.ndarray) -> Any:
            call = net.create_extractor()
            call.input(source, nc.Mat(x[0]))
            code, answer = call.extract(sink)
            if code:
                raise RuntimeError(f"ncnn's extract returned {code}")
            return np.array(answer)[None]

        return run

    return load, importlib.metadata.version("ncnn")


def mnn() -> tuple[Load, str]:
    """MNN on the CPU in high precision, so that float32 stays float32."""
    import MNN

    def load(program: str, threads: int, options: dict[str, Any]) -> Run:
        settings = {"backend": "CPU", "numThread": threads, "precision": "high", **options}
        runtime = MNN.nn.create_runtime_manager((settings,))
        net = MNN.nn.load_module_from_file(program, [], [], runtime_manager=runtime)
        expr = MNN.expr

        def run(x: np.ndarray) -> Any:
            source = expr.const(x, list(x.shape), expr.NCHW)  # type: ignore[arg-type]
            answer = net.forward([expr.convert(source, expr.NC4HW4)])
            answer = answer[0] if isinstance(answer, (list, tuple)) else answer
            return expr.convert(answer, expr.NCHW).read()

        return run

    return load, importlib.metadata.version("MNN")


def _torch(load: Callable[[Any, str], Any]) -> tuple[Load, str]:
    import torch

    def start(program: str, threads: int, options: dict[str, Any]) -> Run:
        torch.set_num_threads(threads)
        module = load(torch, program)

        def run(x: np.ndarray) -> Any:
            with torch.inference_mode():
                answer = module(torch.from_numpy(x))
            return (answer[0] if isinstance(answer, (list, tuple)) else answer).numpy()

        return run

    return start, str(torch.__version__).split("+")[0]


def eager() -> tuple[Load, str]:
    """PyTorch operator by operator: the module that torch.export wrote down, not compiled."""
    import torch.export  # noqa: F401  # importing is timed apart from loading

    return _torch(lambda torch, program: torch.export.load(program).module(check_guards=False))


def torchscript() -> tuple[Load, str]:
    """TorchScript's interpreter."""
    return _torch(lambda torch, program: torch.jit.load(program, map_location="cpu"))


def aoti() -> tuple[Load, str]:
    """A shared library that PyTorch's Inductor compiled for this CPU."""
    import torch._inductor.package  # noqa: F401

    return _torch(lambda torch, program: torch._inductor.aoti_load_package(program))


ENGINES: dict[str, Engine] = {
    f.__name__: f for f in (executorch, onnxruntime, openvino, litert, ncnn, mnn, eager, torchscript, aoti)
}


class Worker:
    """What a loaded program needs between two orders."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run: Run | None = None
        self.x = np.zeros(0)

    def load(self, order: dict[str, Any]) -> dict[str, Any]:
        """Import the engine, then load the program; each in CPU and in wall milliseconds."""
        begin = _clocks()
        load, version = self.engine()
        imported, baseline = _clocks(), memory("VmRSS")
        self.run = load(order["program"], order["threads"], order.get("options", {}))
        done = _clocks()
        return {
            "version": version,
            "import_ms": _ms(begin, imported),
            "load_ms": _ms(imported, done),
            "baseline_mb": baseline,
            "loaded_mb": memory("VmRSS"),
        }

    def first(self, order: dict[str, Any]) -> dict[str, Any]:
        """The first answer, then as many more as bring caches and clocks to where they stay."""
        self.x = np.load(order["input"], allow_pickle=False)
        begin = _clocks()
        shape = list(np.shape(self.call(self.x)))
        done = _clocks()
        for _ in range(order["warmup"]):
            self.call(self.x)
        return {"first_ms": _ms(begin, done), "peak_mb": memory("VmHWM"), "shape": shape}

    def samples(self, order: dict[str, Any]) -> dict[str, Any]:
        """Wall and CPU seconds of each call; what runs before them brings the caches back from the other engines."""
        ready = time.perf_counter() + order["ready_s"]
        self.call(self.x)
        while time.perf_counter() < ready:
            self.call(self.x)
        pairs = []
        for _ in range(order["count"]):
            begin = _clocks()
            self.call(self.x)
            pairs.append([b - a for a, b in zip(begin, _clocks(), strict=True)])
        return {"wall_s": [p[0] for p in pairs], "cpu_s": [p[1] for p in pairs]}

    def outputs(self, order: dict[str, Any]) -> dict[str, Any]:
        """The first output of every input, as one array in a .npy file."""
        x = np.load(order["inputs"], mmap_mode="r", allow_pickle=False)
        rows = [np.array(self.call(np.ascontiguousarray(x[i : i + 1])))[0] for i in range(len(x))]
        np.save(order["file"], np.stack(rows).astype(np.float32))
        return {"count": len(rows)}

    def call(self, x: np.ndarray) -> Any:
        """One run of the program."""
        if self.run is None:
            raise RuntimeError("nothing is loaded")
        return self.run(x)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _ms(begin: tuple[float, float], end: tuple[float, float]) -> list[float]:
    return [1e3 * (b - a) for a, b in zip(begin, end, strict=True)]


def memory(key: str) -> float | None:
    """VmRSS (now) or VmHWM (peak) of this process in MB (1e6 bytes); None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next((int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith(key + ":")), None)
    except OSError:
        return None


def main(argv: list[str]) -> int:
    """Obey orders until "quit" or the end of the input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # engines print to standard output; nothing of that may reach the answers
    engines = dict(ENGINES)
    for extra in argv[1:]:
        found: dict[str, Any] = {}
        with open(extra, encoding="utf-8") as file:
            exec(compile(file.read(), extra, "exec"), found)  # the tests' engines that crash and hang
        engines.update({name: f for name, f in found.items() if callable(f)})
    worker = Worker(engines[argv[0]])
    work = {"load": worker.load, "first": worker.first, "run": worker.samples, "outputs": worker.outputs}
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "quit":
            break
        try:
            answer = {"ok": True} | work[order["do"]](order)
        except Exception as error:  # engines raise whatever they like
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # some engines crash while they take themselves apart
