"""Run a bundle without PyTorch: a client of libedge_lab that needs NumPy alone.

    with Model("artifacts/efficientnet_lite0/xnnpack-int8") as model:
        for answer in model("cat.jpg"):
            print(f"{answer.score:.1%} {answer.label}")

    with Model("artifacts/speechnet/xnnpack-fp32") as model, Listener(model) as listener:
        for block in microphone:  # float32 or int16
            for word in listener.push(block):
                print(word.label)

The library is looked for in $EDGE_LAB_LIBRARY, then beside this file in lib/, then in rpi/runner/build.
"""

from __future__ import annotations

import ctypes
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

ABI_VERSION = 2
_HERE = Path(__file__).resolve().parent


class RunnerError(Exception):
    """What the library refused, in three lines: what happened, why, what to do."""


@dataclass(frozen=True)
class Prediction:
    """One answer of a classifier: class index, label, and probability (or raw score without softmax)."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Tensor:
    """Name, fixed shape and dtype of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Word:
    """A word that was heard: its label, the mean probability, and when it was reported (seconds from the start)."""

    label: str
    probability: float
    seconds: float


class Model:
    """An open bundle.

    Args:
        bundle: its folder.
        threads: CPU threads; all models that are open in one process must ask for the same number.
        library: path of libedge_lab.so; default: see the module.

    Raises:
        RunnerError: the library is missing or another version, or the bundle is missing, damaged or for another engine.

    Warns:
        RuntimeWarning: the program differs from its PyTorch model, which was allowed when it was written.
    """

    def __init__(self, bundle: Path | str, *, threads: int = 1, library: Path | str | None = None) -> None:
        self._model: int | None = None
        self._lib = load_library(library)
        self._model = self._lib.edge_lab_open(os.fsencode(bundle), threads)
        if not self._model:
            raise _error(self._lib)
        self.info: dict[str, Any] = json.loads(self._lib.edge_lab_info(self._model))
        if self.info.get("warning"):
            warnings.warn(f"{os.fspath(bundle)}: {self.info['warning']}", RuntimeWarning, stacklevel=2)
        self.labels: tuple[str, ...] = tuple(self.info["labels"])
        self.input = _tensor(self.info["input"])
        self.outputs = tuple(_tensor(one) for one in self.info["outputs"])

    def preprocess(self, source: Path | str | np.ndarray) -> np.ndarray:
        """The input tensor of a file (JPEG, PNG, WAV, raw .bin), or of uint8 RGB pixels (height, width, 3)."""
        x = np.empty(self.input.shape, self.input.dtype)
        if isinstance(source, np.ndarray):
            pixels = _pixels(source)
            height, width = pixels.shape[:2]
            code = self._lib.edge_lab_preprocess_pixels(
                self._open, pixels.ctypes.data, height, width, x.ctypes.data, x.nbytes
            )
        else:
            code = self._lib.edge_lab_preprocess_file(self._open, os.fsencode(source), x.ctypes.data, x.nbytes)
        if code != 0:
            raise _error(self._lib)
        return x

    def run(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """All outputs for one input tensor; its shape and dtype must be `self.input`'s."""
        if x.shape != self.input.shape or x.dtype != np.dtype(self.input.dtype):
            raise RunnerError(
                f"the input is {x.dtype} {x.shape}, the model takes {self.input.dtype} {self.input.shape}.\n"
                "  why: the engine reads raw memory.\n  fix: make it with preprocess()."
            )
        x = np.ascontiguousarray(x)
        arrays = tuple(np.empty(one.shape, one.dtype) for one in self.outputs)
        places = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        sizes = (ctypes.c_size_t * len(arrays))(*(a.nbytes for a in arrays))
        if self._lib.edge_lab_run(self._open, x.ctypes.data, x.nbytes, places, sizes, len(arrays)) != 0:
            raise _error(self._lib)
        return arrays

    def predict(self, source: Path | str | np.ndarray) -> list[Prediction]:
        """The best answers for a file or for pixels, best first."""
        scores = self.run(self.preprocess(source))[0].astype(np.float64).reshape(-1)
        if self.labels and len(self.labels) != scores.size:
            raise RunnerError(
                f"the output holds {scores.size} scores, and the bundle {len(self.labels)} labels.\n"
                "  why: labels and program belong to different models.\n  fix: export the bundle again."
            )
        if self.info["softmax"]:
            scores = np.exp(scores - scores.max())
            scores = scores / scores.sum()
        best = np.argsort(-scores, kind="stable")[: int(self.info["top_k"])]
        return [Prediction(int(i), self.labels[i] if self.labels else str(i), float(scores[i])) for i in best]

    __call__ = predict

    def close(self) -> None:
        """Free the model; it can't be used afterwards."""
        if self._model:
            self._lib.edge_lab_close(self._model)
        self._model = None

    @property
    def _open(self) -> int:
        if not self._model:
            raise RunnerError("this model is closed.\n  why: close() was called.\n  fix: open the bundle again.")
        return self._model

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()


class Listener:
    """Finds words in a stream, as edge_lab.signals.recognize does: `for word in listener.push(samples)`.

    Args:
        model: an open model that takes waveforms; it may be closed before the listener.
        rate: of the samples, in Hz; default: the model's. Others are resampled as they come.

    Raises:
        RunnerError: the model does not hear, or the rate is none that can be converted.
    """

    def __init__(self, model: Model, rate: int = 0) -> None:
        self._listener: int | None = None
        self._lib = model._lib
        self._listener = self._lib.edge_lab_listen_new(model._open, rate)
        if not self._listener:
            raise _error(self._lib)

    def push(self, samples: np.ndarray) -> list[Word]:
        """The words that these samples complete; float32 from -1 to 1, or int16, of shape (N,), any number of them."""
        if samples.ndim != 1 or samples.dtype not in (np.float32, np.int16):
            raise RunnerError(
                f"the samples are {samples.dtype} {samples.shape}.\n  why: sound is float32 or int16 of shape (N,).\n"
                "  fix: of channels: x.mean(axis=1).astype(x.dtype); of float64: x.astype(np.float32)."
            )
        x = np.ascontiguousarray(samples)
        push = self._lib.edge_lab_listen_push if x.dtype == np.float32 else self._lib.edge_lab_listen_push_int16
        return self._words(push(self._open, x.ctypes.data, x.size))

    def finish(self) -> list[Word]:
        """The words in what the resampling still holds, when no more samples come."""
        return self._words(self._lib.edge_lab_listen_finish(self._open))

    @property
    def effort(self) -> tuple[int, int]:
        """Windows that were looked at, and for how many of them the network was called."""
        windows, calls = ctypes.c_int64(), ctypes.c_int64()
        self._lib.edge_lab_listen_effort(self._open, windows, calls)
        return windows.value, calls.value

    def close(self) -> None:
        """Free the listener; it can't be used afterwards."""
        if self._listener:
            self._lib.edge_lab_listen_free(self._listener)
        self._listener = None

    def _words(self, waiting: int) -> list[Word]:
        if waiting < 0:
            raise _error(self._lib)
        found, word = [], _CWord()
        while self._lib.edge_lab_listen_next(self._open, word) == 1:
            found.append(Word(word.label.decode(), word.probability, word.seconds))
        return found

    @property
    def _open(self) -> int:
        if not self._listener:
            raise RunnerError("this listener is closed.\n  why: close() was called.\n  fix: make another one.")
        return self._listener

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_listener", None):
            self.close()


class _CWord(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_int64),
        ("label", ctypes.c_char_p),
        ("probability", ctypes.c_double),
        ("seconds", ctypes.c_double),
    )


def load_library(path: Path | str | None = None) -> ctypes.CDLL:
    """Open libedge_lab and say what its functions take; see rpi/runner/include/edge_lab.h."""
    wanted = path or os.environ.get("EDGE_LAB_LIBRARY")
    places = [Path(wanted)] if wanted else [_HERE / "lib/libedge_lab.so", _HERE.parent / "runner/build/libedge_lab.so"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise RunnerError(
            f"libedge_lab.so was not found at {' or '.join(map(str, places))}.\n  why: it is not built yet.\n"
            "  fix: make runner, or set EDGE_LAB_LIBRARY to its path."
        )
    lib = ctypes.CDLL(str(found))
    if lib.edge_lab_abi_version() != ABI_VERSION:
        raise RunnerError(
            f"{found} has interface version {lib.edge_lab_abi_version()}, this client has {ABI_VERSION}.\n"
            "  why: they come from different versions.\n  fix: build the library again: make runner."
        )
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    number, whole = ctypes.c_int64, ctypes.c_int
    sizes = ctypes.POINTER(number)
    for name, result, arguments in (
        ("last_error", text, ()),
        ("open", pointer, (text, whole)),
        ("close", None, (pointer,)),
        ("info", text, (pointer,)),
        ("preprocess_file", whole, (pointer, text, pointer, size)),
        ("preprocess_pixels", whole, (pointer, pointer, number, number, pointer, size)),
        ("run", whole, (pointer, pointer, size, ctypes.POINTER(pointer), ctypes.POINTER(size), size)),
        ("decode_file", whole, (text, pointer, size, sizes, sizes)),
        ("preprocess_recipe", whole, (text, pointer, number, number, pointer, size)),
        ("read_wav", number, (text, pointer, size, ctypes.POINTER(whole))),
        ("resample", number, (pointer, size, whole, whole, pointer, size)),
        ("listen_new", pointer, (pointer, whole)),
        ("listen_free", None, (pointer,)),
        ("listen_push", number, (pointer, pointer, size)),
        ("listen_push_int16", number, (pointer, pointer, size)),
        ("listen_finish", number, (pointer,)),
        ("listen_next", whole, (pointer, ctypes.POINTER(_CWord))),
        ("listen_effort", whole, (pointer, sizes, sizes)),
        ("sha256_file", whole, (text, text)),
    ):
        function = getattr(lib, f"edge_lab_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def decode(path: Path | str, library: Path | str | None = None) -> np.ndarray:
    """The upright RGB pixels of a JPEG or PNG file, uint8 (height, width, 3)."""
    lib = load_library(library)
    height, width = ctypes.c_int64(), ctypes.c_int64()
    if lib.edge_lab_decode_file(os.fsencode(path), None, 0, height, width) != 0:
        raise _error(lib)
    rgb = np.empty((height.value, width.value, 3), np.uint8)
    if lib.edge_lab_decode_file(os.fsencode(path), rgb.ctypes.data, rgb.nbytes, height, width) != 0:
        raise _error(lib)
    return rgb


def read_wav(path: Path | str, library: Path | str | None = None) -> tuple[np.ndarray, int]:
    """Samples of a WAV file, float32 (N,) from -1 to 1, channels averaged, and their rate in Hz."""
    lib = load_library(library)
    rate = ctypes.c_int()
    count = lib.edge_lab_read_wav(os.fsencode(path), None, 0, rate)
    if count < 0:
        raise _error(lib)
    samples = np.empty(count, np.float32)
    if lib.edge_lab_read_wav(os.fsencode(path), samples.ctypes.data, count, rate) != count:
        raise _error(lib)
    return samples, rate.value


def resample(samples: np.ndarray, rate: int, wanted: int, library: Path | str | None = None) -> np.ndarray:
    """A recording (N,) at another rate, float32, as edge_lab.signals.audio.resample gives it."""
    lib = load_library(library)
    x = np.ascontiguousarray(samples, np.float32)
    count = lib.edge_lab_resample(x.ctypes.data, x.size, rate, wanted, None, 0)
    if count < 0:
        raise _error(lib)
    out = np.empty(count, np.float32)
    if lib.edge_lab_resample(x.ctypes.data, x.size, rate, wanted, out.ctypes.data, count) != count:
        raise _error(lib)
    return out


def _pixels(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise RunnerError(
            f"the image array is {array.dtype} {array.shape}.\n"
            "  why: an image is uint8 with shape (height, width, 3); normalising is this function's work.\n"
            "  fix: of 16 bits: (x >> 8).astype(np.uint8); of floats from 0 to 1: (x * 255).round().astype(np.uint8); "
            "of grey (height, width): np.repeat(x[:, :, None], 3, axis=2)."
        )
    return np.ascontiguousarray(array)


def _tensor(one: dict[str, Any]) -> Tensor:
    return Tensor(one["name"], tuple(one["shape"]), one["dtype"])


def _error(lib: ctypes.CDLL) -> RunnerError:
    return RunnerError(lib.edge_lab_last_error().decode("utf-8", "replace"))
