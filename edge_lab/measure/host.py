"""What a measurement was taken on: without this, a latency means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("edge-lab", "torch", "torchvision", "torchao", "executorch", "onnx", "onnxruntime", "coremltools", "numpy")


def machine() -> dict[str, str]:
    """Facts about this computer, as text: cpu, arch, cores, memory, os, python, governor, load, container.

    No host name, user name or path is included, so that a report can be shared. What the system does not tell is left
    out, not guessed.
    """
    import psutil

    facts = {
        "cpu": _cpu(),
        "arch": platform.machine(),
        "cores": f"{psutil.cpu_count(logical=False) or '?'} physical, {psutil.cpu_count() or '?'} logical",
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "os": _system(),
        "python": platform.python_version(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "container": _container(),
    }
    return {name: value for name, value in facts.items() if value}


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number; a package that is absent is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance() -> str:
    """Three lines for the end of a lab: when, on what, with which versions."""
    import datetime

    facts = machine()
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    box = facts["container"] + ", " if "container" in facts else ""
    return "\n".join(
        (
            f"measured {when}, load {facts.get('load', '?')}",
            f"on       {facts['cpu']}, {facts['cores']} cores, {facts['memory']}, {box}{facts['os']}",
            f"with     Python {facts['python']}, " + ", ".join(f"{k} {v}" for k, v in versions().items()),
        )
    )


def _cpu() -> str:
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    info: dict[str, str] = {}
    for key, _, value in (line.partition(":") for line in lines):
        info.setdefault(key.strip().lower(), value.strip())
    name = info.get("model name") or info.get("hardware") or platform.processor() or platform.machine()
    if "cpu family" in info:  # virtual machines often hide the model's name: family and model still tell it
        name += f" (family {info['cpu family']}, model {info.get('model', '?')})"
    return name


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return f"{name or platform.system()}, kernel {platform.release().split('-')[0]}"


def _container() -> str:
    """A hint, not a proof: clocks, memory limits and neighbours differ inside one."""
    if Path("/.dockerenv").exists():
        return "in a container"
    if Path("/run/.containerenv").exists():
        return "in a container (podman)"
    return ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
