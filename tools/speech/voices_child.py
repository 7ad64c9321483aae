"""Speaks words with espeak-ng and writes the samples: `python voices_child.py REQUEST.json OUT.npz`.

A program of its own, run as a process of its own: espeak-ng is under the GPL, edge_lab is not, and neither is
linked with the other. It needs the optional package espeakng-loader and NumPy, nothing of edge_lab.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

_RETRIEVAL, _UTF8, _CHARACTERS = 1, 1, 1  # espeak-ng's constants: keep the audio; text is UTF-8; positions in letters
_PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}


def speak_all(jobs: list[dict[str, Any]]) -> tuple[list[np.ndarray], int]:
    """int16 samples of every job {voice, text, rate, pitch, range}, empty where nothing is said; and the rate in Hz."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    parts: list[np.ndarray] = []
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def heard(samples: Any, count: int, _: int | None) -> int:
        if samples and count:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = kind(heard)  # kept by this name: the library calls it while it speaks

    folder = str(Path(espeakng_loader.get_data_path()).parent)
    hertz = library.espeak_Initialize(_RETRIEVAL, 0, folder.encode(), 0)
    if hertz <= 0:
        raise SystemExit(f"espeak-ng could not be started ({hertz}): its data is not in {folder}")
    library.espeak_SetSynthCallback(callback)
    found = []
    for job in jobs:
        parts.clear()
        text = str(job["text"]).encode()
        if library.espeak_SetVoiceByName(str(job["voice"]).encode()) == 0:
            for name, number in _PARAMETERS.items():
                library.espeak_SetParameter(number, int(job[name]), 0)
            library.espeak_Synth(text, len(text) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
            library.espeak_Synchronize()
        found.append(np.concatenate(parts) if parts else np.zeros(0, np.int16))
    return found, hertz


def main() -> None:
    """Read the request, speak, write `samples` (all one after another), `lengths` and `rate`."""
    request, out = map(Path, sys.argv[1:3])
    spoken, rate = speak_all(json.loads(request.read_text(encoding="utf-8")))
    lengths = np.array([len(s) for s in spoken], np.int64)
    np.savez(out, samples=np.concatenate([*spoken, np.zeros(0, np.int16)]), lengths=lengths, rate=rate)


if __name__ == "__main__":
    main()
