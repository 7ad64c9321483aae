"""The program of each peer: a bundle of ours, or what its own converter makes of one. Made once, kept by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.compress.static.inputs import arrays
from edge_lab.core.errors import EdgeLabError
from edge_lab.core.files import locked, sha256, size_of, writing_folder
from edge_lab.data import ImageSet, SoundSet
from edge_lab.peers.client import CONVERTER, WorkerFailed, convert, reason
from edge_lab.peers.engines import PEERS, Peer, unsupported
from edge_lab.peers.places import interpreter, remedy
from edge_lab.zoo import Model

_TIMEOUT_S = 900.0
_FORMATS = {"openvino": "openvino", "litert": "tflite", "ncnn": "ncnn", "mnn": "mnn"}


@dataclass(frozen=True)
class Program:
    """A program and its engine's interpreter, or `missing`: why there is none."""

    peer: Peer
    path: Path | None = None
    python: Path | None = None
    size_bytes: int = 0
    format: str = ""
    delegated: float | None = None
    missing: str = ""


def programs(
    model: Model,
    peers: Sequence[Peer],
    calibration: ImageSet | SoundSet | Sequence[np.ndarray],
    *,
    out: Path,
    log: Callable[[str], None],
) -> list[Program]:
    """One Program for each peer, in their order. What can't be made says why, and the rest still comes out.

    Args:
        model: what to compare.
        peers: the rows.
        calibration: images, or preprocessed inputs: the same for everyone's int8. Empty: there are no int8 programs.
        out: bundles go to out/NAME/BACKEND-PRECISION as ever, converted programs to out/NAME/peers/.
        log: gets a line for each step that can take time.
    """
    maker = _Maker(model, calibration, out, log, {}, {})
    return [maker.program(peer) for peer in peers]


@dataclass(frozen=True)
class _Maker:
    model: Model
    calibration: ImageSet | SoundSet | Sequence[np.ndarray]
    out: Path
    log: Callable[[str], None]
    bundles: dict[str, Bundle | str]
    done: dict[str, Program]

    def program(self, peer: Peer) -> Program:
        if peer.name not in self.done:
            self.done[peer.name] = self._make(peer)
        return self.done[peer.name]

    def _make(self, peer: Peer) -> Program:
        python = interpreter(peer.environment)
        if python is None:
            return Program(peer, missing=remedy(peer.environment))
        if no := unsupported(peer):
            return Program(peer, missing=no)
        if peer.precision == "int8-static" and not len(self.calibration):
            return Program(peer, missing="the model takes ready tensors, so nothing calibrates int8")
        if peer.after:
            before = self.program(next(p for p in PEERS if p.name == peer.after))
            if before.path is None:
                return Program(peer, missing=f"{peer.after}: {before.missing}")
            return self._converted(peer, python, before.path, sha256(before.path))
        bundle = self._bundle(peer.target)
        if isinstance(bundle, str):
            return Program(peer, missing=bundle)
        if peer.convert:
            return self._converted(peer, python, bundle.program_path, sha256(bundle.program_path))
        runtime = bundle.runtime
        path = bundle.program_path.absolute()
        return Program(peer, path, python, bundle.program_bytes, runtime.format, runtime.delegated)

    def _bundle(self, target: str) -> Bundle | str:
        """The bundle, or the reason why there is none."""
        if target not in self.bundles:
            from edge_lab.export import build

            try:
                images = self.calibration if target.endswith("-int8") else None
                built = build(self.model, target, calibration=images, out=self.out)
                self.bundles[target] = built.bundle
                self.log(f"{target}: {'as it was' if built.reused else 'exported'}")
            except EdgeLabError as error:
                self.bundles[target] = reason(error)
                self.log(f"{target}: {error.what}")
        return self.bundles[target]

    def _rows(self) -> np.ndarray:
        return np.concatenate(arrays(self.calibration, self.model, "calibration"))

    def _converted(self, peer: Peer, python: Path, source: Path, content: str) -> Program:
        calibration = self._rows() if peer.convert.endswith("int8") else None
        name = self.model.spec.name.replace("/", "_").replace(":", "_")
        folder = self.out / name / "peers" / f"{peer.convert}-{_key(peer, python, content, calibration)}"
        try:
            with locked(folder):
                if not folder.is_dir():
                    self.log(f"{peer.name}: converting")
                    _convert(peer, python, source, self.model.spec.input.shape, calibration, folder)
        except WorkerFailed as error:
            return Program(peer, missing=str(error))
        path = (folder / peer.file).absolute()
        return Program(peer, path, python, size_of(folder), _FORMATS[peer.engine])


def _convert(
    peer: Peer, python: Path, source: Path, shape: tuple[int, ...], calibration: np.ndarray | None, folder: Path
) -> None:
    with writing_folder(folder) as temporary:
        order = {"do": peer.convert, "source": str(source.absolute()), "into": str(temporary.absolute())}
        if calibration is not None:
            np.save(temporary / "calibration.npy", calibration)
            order["calibration"] = str((temporary / "calibration.npy").absolute())
        convert(python, order | {"shape": list(shape)}, _TIMEOUT_S)
        (temporary / "calibration.npy").unlink(missing_ok=True)
        if not (temporary / peer.file).is_file():
            raise WorkerFailed(f"converting wrote no {peer.file}")


def _key(peer: Peer, python: Path, content: str, calibration: np.ndarray | None) -> str:
    """A hash of all that the result depends on: what is converted, by which packages, calibrated with what."""
    packages = sorted(p.name for p in python.parents[1].glob("lib/python*/site-packages/*.dist-info"))
    data = "" if calibration is None else hashlib.sha256(np.ascontiguousarray(calibration).tobytes()).hexdigest()
    text = json.dumps([peer.convert, content, packages, data, sha256(CONVERTER)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
