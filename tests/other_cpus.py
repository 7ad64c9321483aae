"""Other machines on this one: older processors (by variables, by a faulting `cpuid`, by qemu-user), and busy ones."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHIM = Path(__file__).parent / "cpuid_cap.c"
MARK = "EDGE_LAB_CPU_ISA"

# What `cpuid` no longer says, newest first, as LEAF.SUBLEAF.REGISTER.BITS (see cpuid_cap.c).
_SAPPHIRE_RAPIDS = "7.0.3.3c00100,7.1.0.ffffffff,7.1.3.ffffffff"  # AMX, float16 and bfloat16 arithmetic, AVX-VNNI
_ICE_LAKE = "7.0.2.5f42,7.0.1.200000"  # VNNI
_SKYLAKE = "7.0.1.dc030000,7.0.3.c"  # AVX-512
_HASWELL = "7.0.1.128,1.0.2.30001000"  # AVX2, and AVX, FMA and F16C of its predecessors

# (bits, oneDNN's name, ATen's name, MKL's name). PyTorch's libraries read variables; XNNPACK and ONNX Runtime's MLAS
# have none, they ask `cpuid`.
ISAS = {
    "icelake": (_SAPPHIRE_RAPIDS, "AVX512_CORE_VNNI", "avx512", "AVX512"),
    "skylake": (f"{_SAPPHIRE_RAPIDS},{_ICE_LAKE}", "AVX512_CORE", "avx512", "AVX512"),
    "haswell": (f"{_SAPPHIRE_RAPIDS},{_ICE_LAKE},{_SKYLAKE}", "AVX2", "avx2", "AVX2"),
    "nehalem": (f"{_SAPPHIRE_RAPIDS},{_ICE_LAKE},{_SKYLAKE},{_HASWELL}", "SSE41", "default", "SSE4_2"),
}

# Half of them calculate, half of them move memory. They end with their parent, however that ends.
_BUSY = """
import os, sys, time
parent, block = int(sys.argv[1]), bytes(1 << 25)
while os.getppid() == parent:
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        bytearray(block) if sys.argv[2] == "memory" else sum(range(9999))
"""


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Keep `count` processes busy meanwhile; yields their numbers."""
    commands = [[sys.executable, "-c", _BUSY, str(os.getpid()), ("sums", "memory")[i % 2]] for i in range(count)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, start_new_session=True))  # Ctrl-C is for the tests
        yield [process.pid for process in started]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def capped(name: str) -> dict[str, str]:
    """Variables that make new processes, and those that they start, see a CPU of this generation."""
    off, onednn, aten, mkl = ISAS[name]
    found = {MARK: name, "ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten, "MKL_ENABLE_INSTRUCTIONS": mkl}
    if library := shim():
        found |= {"LD_PRELOAD": str(library), "EDGE_LAB_CPUID_OFF": off}
    return found


def shim() -> Path | None:
    """cpuid_cap.c as a library; None where `cpuid` can't be made to fault (AMD, ARM, no Linux), or without gcc."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    library = SHIM.parents[1] / ".pytest_cache" / f"cpuid_cap-{SHIM.stat().st_mtime_ns}.so"
    part = library.with_suffix(f".{os.getpid()}.part")
    try:
        if not library.exists():
            library.parent.mkdir(exist_ok=True)
            subprocess.run(["gcc", "-O1", "-shared", "-fPIC", SHIM, "-o", part, "-ldl"], check=True)
            part.replace(library)
        environment = os.environ | {"LD_PRELOAD": str(library), "EDGE_LAB_CPUID_OFF": ISAS["haswell"][0]}
        subprocess.run(["true"], check=True, env=environment, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return library
