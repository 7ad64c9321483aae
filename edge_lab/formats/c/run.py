"""The C of a microcontroller bundle on this machine: compiled once as a shared library, called with NumPy arrays.

The same integers as on the device: both builds come from one quantized graph. What differs is which kernels compute
them (portable C here), and how long that takes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, MissingTool
from edge_lab.core.files import locked, sha256, writing_file

_FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-ffp-contract=off")
_NUMBER = re.compile(r"#define BKNN_\w*?_((?:IN|OUT)PUT_(?:SIZE|SCALE|ZERO_POINT|DIM_\d)|ARENA_SIZE) (\S+)")
_HOST = "host"


@dataclass(frozen=True)
class Numbers:
    """Sizes and scales of a generated model. A value is `scale * (q - zero)`."""

    input_shape: tuple[int, ...]
    input_scale: float
    input_zero: int
    output_size: int
    output_scale: float
    output_zero: int
    arena: int


@dataclass(frozen=True)
class CLibrary:
    """A compiled model: `run` takes int8 NHWC, returns int8."""

    numbers: Numbers
    run: Callable[[np.ndarray], np.ndarray]

    def quantized(self, x: np.ndarray) -> np.ndarray:
        """int8 NHWC of a float32 (1, C, H, W) input; halves go away from zero, as bakenn rounds."""
        n = self.numbers
        scaled = np.ascontiguousarray(x.transpose(0, 2, 3, 1), np.float32) / np.float32(n.input_scale)
        half = np.float32(0.5)
        rounded = np.where(scaled >= 0, np.floor(scaled + half), np.ceil(scaled - half)) + n.input_zero
        q: np.ndarray = np.clip(rounded, -128, 127).astype(np.int8)
        return q

    def floats(self, q: np.ndarray) -> np.ndarray:
        """float32 (1, outputs) of int8 outputs."""
        n = self.numbers
        return ((q.astype(np.int32) - n.output_zero).astype(np.float32) * np.float32(n.output_scale)).reshape(1, -1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 (1, C, H, W) in, float32 (1, outputs) out."""
        return self.floats(self.run(self.quantized(x)))


def open_library(bundle: Bundle) -> CLibrary:
    """Compile the portable sources of a bundle (kept in the cache folder by their content) and load them.

    Raises:
        MissingTool: no C compiler. BundleError: the sources are incomplete or don't compile.
    """
    folder = bundle.program_path / _HOST
    headers = sorted(h for h in folder.glob("bknn_*.h") if not h.stem.endswith(("_weights", "_kernels")))
    sources = sorted(folder.glob("*.c"))
    if len(headers) != 1 or not sources:
        raise _broken(bundle, f"{folder} should hold one model in C.")
    numbers = _numbers(headers[0].read_text(encoding="utf-8"), bundle)
    path = _compiled(folder, sources, bundle)
    function = getattr(ctypes.CDLL(str(path)), f"{headers[0].stem}_infer")
    function.restype = None
    return CLibrary(numbers, _runner(function, numbers))


def _runner(function: Callable[..., None], numbers: Numbers) -> Callable[[np.ndarray], np.ndarray]:
    arena = np.zeros(max(numbers.arena, 1) + 64, np.uint8)
    start = arena.ctypes.data + (-arena.ctypes.data) % 64  # aligned for any kernel
    size = int(np.prod(numbers.input_shape))
    lock = threading.Lock()  # one arena, and ctypes lets other threads run

    def run(q: np.ndarray, _keep: np.ndarray = arena) -> np.ndarray:
        if q.dtype != np.int8 or q.size != size:
            raise ValueError(f"int8 with {size} values is needed, not {q.dtype} with {q.size}")
        q = np.ascontiguousarray(q)
        out = np.empty(numbers.output_size, np.int8)
        places = (start if numbers.arena else None, q.ctypes.data, out.ctypes.data)
        with lock:
            function(*map(ctypes.c_void_p, places))
        return out

    return run


def _numbers(header: str, bundle: Bundle) -> Numbers:
    found = dict(_NUMBER.findall(header))
    try:
        shape = tuple(int(found[f"INPUT_DIM_{i}"].rstrip("u")) for i in range(4))
        return Numbers(
            shape,
            float.fromhex(found["INPUT_SCALE"].rstrip("f")),
            int(found["INPUT_ZERO_POINT"]),
            int(found["OUTPUT_SIZE"].rstrip("u")),
            float.fromhex(found["OUTPUT_SCALE"].rstrip("f")),
            int(found["OUTPUT_ZERO_POINT"]),
            int(found["ARENA_SIZE"].rstrip("u")),
        )
    except (KeyError, ValueError) as error:
        raise _broken(bundle, f"its header does not state the model's sizes: {error!r}.") from error


def _compiled(folder: Path, sources: list[Path], bundle: Bundle) -> Path:
    from edge_lab.data.download import cache_folder

    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise MissingTool(
            f"{bundle.name} needs a C compiler to run on this machine.",
            "its program is C source, and neither cc, gcc nor clang is installed.",
            "on Debian: sudo apt install gcc libc6-dev. The device itself needs nothing of it.",
        )
    parts = [*_FLAGS, compiler, platform.machine(), *(f"{f.name} {sha256(f)}" for f in sorted(folder.glob("*.[ch]")))]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    path = cache_folder() / "c" / f"{key}.so"
    if not path.exists():
        with locked(path):
            if not path.exists():
                _compile(compiler, folder, sources, path, bundle)
    return path


def _compile(compiler: str, folder: Path, sources: list[Path], path: Path, bundle: Bundle) -> None:
    with writing_file(path) as temporary:
        command = [*shlex.split(compiler), *_FLAGS, f"-I{folder}", *map(str, sources), "-o", str(temporary)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise MissingTool(
                f"the C compiler {compiler!r} could not be started.", str(error), "set CC to one that is installed."
            ) from error
        if done.returncode != 0:
            said = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise _broken(bundle, f"{compiler} says: {said}.")


def _broken(bundle: Bundle, why: str) -> BundleError:
    return BundleError(
        f"the C sources of {bundle.path} can't be used.", why, "make the bundle again with edge_lab.to(model, target)."
    )
