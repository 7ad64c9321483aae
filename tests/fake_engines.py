"""Engines that crash, hang, lie and chatter, for the workers of `edge_lab.peers`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nets import SHAPE

from edge_lab.peers import PeerTable, compare_programs
from edge_lab.peers.engines import Peer
from edge_lab.peers.inputs import Tried
from edge_lab.peers.prepare import Program
from edge_lab.zoo import Model

FAKES = """
import os, signal, sys, time
import numpy as np

def engine(run):
    def start():
        def load(program, threads, options):
            return lambda x: run(x, program, threads)
        return load, "1.0"
    return start

def answer(x):
    return np.full((1, 10), x.mean(), np.float32)

@engine
def good(x, program, threads):
    return answer(x)

@engine
def diary(x, program, threads):
    with open(program, "a") as file:
        print(os.getpid(), threads, file=file)
    time.sleep(0.011)  # longer than a turn's calls before the timed ones
    return answer(x)

@engine
def chatty(x, program, threads):
    os.write(1, b'{"ok": true, "wall_s": [0.0]}\\n')
    print("loading took 3 s")
    return answer(x)

@engine
def crash(x, program, threads, calls=[]):
    calls.append(0)
    if len(calls) > 7:
        print("the pool is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    return answer(x)

@engine
def leave(x, program, threads):
    print("licence not found", file=sys.stderr, flush=True)
    os._exit(7)

@engine
def hang(x, program, threads):
    time.sleep(3600)

@engine
def wrong(x, program, threads):
    return np.zeros((1, 3), np.float32)

@engine
def nan(x, program, threads):
    return answer(x) * np.nan

@engine
def coarse(x, program, threads):
    return np.zeros((1, 10), np.float32)

@engine
def refuse(x, program, threads):
    raise ValueError("no kernel for\\nGatherElements")
"""


def fakes(model: Model, tmp_path: Path, names: Sequence[str], program: Path | None = None, **options: Any) -> PeerTable:
    """The table of these engines of FAKES."""
    extra = tmp_path / "fakes.py"
    extra.write_text(FAKES, encoding="utf-8")
    file = program or extra
    made = [
        Program(Peer(f"{name}-fp32", name, name, "fp32", ""), file, Path(sys.executable), 10, "onnx") for name in names
    ]
    inputs = Tried(np.ones((3, *SHAPE[1:]), np.float32), ((),) * 3, "ones")
    settings: dict[str, Any] = {"threads": (1,), "rounds": 2, "command": "a test"} | options
    return compare_programs(model, made, inputs, "nothing", extra=[extra], **settings)
