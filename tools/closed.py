"""Closed: a command's connections and written files as the kernel sees them, on a machine without a network.

    python tools/closed.py flow             `make run`'s command: EfficientNet-Lite0 to every format
    python tools/closed.py labs [NAME ...]  every lab, executed as `make labs` does, its outputs thrown away
    python tools/closed.py cells [NAME ...] every take-home cell, each alone in an empty folder
    python tools/closed.py peers            `edge-lab compare` with every engine that tools/peers.py installed
    python tools/closed.py -- COMMAND ...   any command

Each command gets an empty home, an environment of four variables, and a network that has a loopback and nothing else;
strace notes each address that it turns to and each file that it makes, opens to write, renames or deletes. Printed is
what lies outside: an address that is not this machine's, a name that is looked up, a file that belongs to neither the
project, the given folders, nor the temporary folder. Exit code 1 if there is any. Linux only; needs strace.
"""

from __future__ import annotations

import fcntl
import importlib.util
import ipaddress
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LABS = Path(__file__).with_name("labs.py")

_TALK = ("connect", "sendto", "sendmsg", "sendmmsg")
_OPEN = ("open", "openat", "openat2", "creat")
_CHANGE = (
    *("mkdir", "mkdirat", "mknod", "mknodat", "rmdir", "unlink", "unlinkat", "truncate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
)
_FORK = ("clone", "clone3", "fork", "vfork")
_CALLS = (*_TALK, *_OPEN, *_CHANGE, *_FORK, "chdir", "fchdir", "io_uring_setup")
# io_uring passes calls by that no tracer sees: it is answered as on a kernel that has none (QEMU would use it).
_NO_RING = ("-e", "inject=?io_uring_setup:error=ENOSYS")

# The machine's address in a network that is not there (RFC 5737 keeps it for documents).
_OWN = "192.0.2.1"

# What libraries keep in the home, each with its reason; README.md names them as well.
AT_HOME = {
    ".cache/edge-lab": "downloads and built firmware ($EDGE_LAB_CACHE)",
    ".cache/matplotlib": "matplotlib's list of the fonts that are installed",
    ".config/matplotlib": "an empty folder of matplotlib's",
    ".ipython": "IPython's profile: empty folders and a README",
    ".local/share/jupyter/runtime": "JupyterLab's port and the cookie that guards it",
    ".ray": "the key that guards a Ray cluster, if a sweep uses Ray",
}

# What is no file on a disk.
_DEVICES = (Path("/dev/null"), Path("/dev/zero"), Path("/dev/shm"), Path("/dev/tty"), Path("/dev/pts"), Path("/proc"))

_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(?:<(.*?)>)?(?: (E\w+))?")
_FAMILY = re.compile(r"sa_family=(\w+)")
_INET = re.compile(r'port=htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
_PATH = re.compile(r'(?:AT_FDCWD|\d+)?(?:<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_WRITES = re.compile(r"O_(?:WRONLY|RDWR|CREAT|TRUNC)|O_TMPFILE")


@dataclass
class Seen:
    """What a command did."""

    code: int
    output: str
    seconds: float
    away: list[str] = field(default_factory=list)  # addresses and names that are not this machine
    files: list[str] = field(default_factory=list)  # written outside the folders that were allowed
    inside: int = 0  # files written in them
    local: int = 0  # connections within this machine

    def summary(self) -> str:
        """One line, and one for each thing that lies outside."""
        files = sorted(set(self.files))
        out = f"{len(self.away)} attempts to leave the machine, {len(files)} changes of files outside"
        within = f"{self.local} connections within the machine, {self.inside} changes of files inside"
        line = f"exit code {self.code}, {self.seconds:.0f} s, {out}; {within}"
        return "\n  - ".join([line, *sorted(set(self.away)), *files])


def watch(
    command: Sequence[str | Path],
    home: Path,
    *,
    cwd: Path = ROOT,
    allowed: Sequence[Path] = (),
    timeout: float = 1800,
    extra: dict[str, str] | None = None,
) -> Seen:
    """Run `command` without a network and with `home` as the home; returns what it did outside the allowed folders.

    Args:
        allowed: folders that it may write to, besides the project, its environment and a temporary folder of its own.
        extra: further variables of the environment.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        traces, own = Path(place) / "traces", Path(place) / "tmp"
        traces.mkdir()
        own.mkdir()
        environment = {"HOME": str(home), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "TMPDIR": str(own)}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        environment |= extra or {}
        words = [*_closed(), *_strace(traces / "of"), *map(str, command)]
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
        seen = Seen(done.returncode, done.stdout + done.stderr, time.perf_counter() - begun)
        mine = [home / place for place in AT_HOME]
        _read(traces, cwd, [ROOT, Path(sys.prefix), own, *allowed, *_DEVICES, *mine], seen)
    return seen


def _closed() -> list[str]:
    """A network of its own; not root: in a user namespace, where one may have that."""
    return ["unshare", "-n" if os.geteuid() == 0 else "-rn", sys.executable, __file__, "loopback"]


def _strace(traces: Path) -> list[str]:
    names = ",".join(f"?{name}" for name in _CALLS)  # ?: some processors lack some of the calls
    words = ["strace", "-ff", "--seccomp-bpf", "-qqq", "-y", "-e", "signal=none", "-e", f"trace={names}"]
    return [*words, *_NO_RING, "-o", str(traces)]


def why_not() -> str | None:
    """Why nothing can be watched here, or None."""
    for program in ("strace", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: {'strace' if program == 'strace' else 'util-linux'})"
    with tempfile.TemporaryDirectory() as place:
        words = [*_closed(), *_strace(Path(place) / "of"), "true"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()
    return f"this machine allows no network namespace or no tracing: {(said or ['?'])[-1]}" if done.returncode else None


def loopback(command: list[str]) -> None:
    """Give the namespace a loopback, which Jupyter's kernels are reached by, and become `command`.

    It also gets an address that is no loopback's, as a machine with a network has: a name is looked up only where there
    is one. No way leads out: whatever is not this machine's is unreachable, at once.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
        address = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(_OWN))
        fcntl.ioctl(any_socket, 0x8916, address)  # SIOCSIFADDR
    os.execvp(command[0], command)


def _read(traces: Path, cwd: Path, allowed: Sequence[Path], seen: Seen) -> None:
    """Go through the traces: strace writes one for each thread, `of.PID`; the first to begin is the command's own."""
    logs = {int(log.suffix[1:]): log for log in traces.iterdir()}
    todo = [(pid, cwd) for pid in sorted(logs)[:1]]
    folders = [Path(os.path.realpath(folder)) for folder in allowed]
    while todo:
        pid, here = todo.pop()
        for name, words, result, shown, error in _calls(logs.pop(pid, None)):
            if name in _FORK and int(result) in logs:
                todo.append((int(result), here))
            elif name in ("chdir", "fchdir") and not error:
                here = Path(os.path.realpath(_where(words, here) or here))
            elif name in _TALK:
                _note_address(name, words, seen)
            elif name in _CHANGE or (name in _OPEN and (name == "creat" or _WRITES.search(words))):
                _note_files(name, words, shown, error, here, folders, seen)
        if not todo and logs:  # its parent was not seen to make it
            todo.append((min(logs), cwd))


def _calls(log: Path | None) -> Iterator[tuple[str, str, str, str | None, str | None]]:
    for line in log.read_text(errors="replace").splitlines() if log else ():
        if (found := _CALL.match(line)) and found[3] != "?":
            yield found[1], found[2], found[3], found[4], found[5]


def _where(words: str, here: Path) -> Path | None:
    """The first path among a call's arguments (fchdir has a descriptor alone)."""
    found = _PATH.search(words)
    if found is None:
        descriptor = re.search(r"<([^>]*)>", words)
        return Path(descriptor[1]) if descriptor else None
    return (Path(found[1]) if found[1] else here) / found[2]


def _note_address(name: str, words: str, seen: Seen) -> None:
    families = _FAMILY.findall(words)
    if "AF_UNIX" in families and "systemd/resolve" in words:
        seen.away.append(f"{name} to the system's resolver of names")
    for port, address in _INET.findall(words):
        ip = ipaddress.ip_address(address)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if port == "53" or not (ip.is_loopback or str(ip) == _OWN):
            seen.away.append(f"{name} to {ip}, port {port}{' (a name is looked up)' if port == '53' else ''}")
        else:
            seen.local += 1
    # AF_UNIX and AF_NETLINK (which asks the kernel) stay on the machine, AF_UNSPEC ends a connection
    known = {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_UNSPEC"}
    seen.away += [f"{name} to an address of {family}" for family in families if family not in known]


def _note_files(
    name: str, words: str, shown: str | None, error: str | None, here: Path, allowed: Sequence[Path], seen: Seen
) -> None:
    if error in ("EEXIST", "ENOENT", "ENOTEMPTY"):  # it was there already, or there was nothing to delete or to open
        return
    paths = (
        [Path(shown)] if shown and name in _OPEN else [(Path(a) if a else here) / b for a, b in _PATH.findall(words)]
    )
    if name.startswith("symlink"):  # the first word is a text, not a file that changes
        paths = paths[1:]
    for path in paths:
        real = Path(os.path.realpath(path.parent)) / path.name
        if any(real.is_relative_to(folder) for folder in allowed) or (
            name.startswith("mkdir") and any(folder.is_relative_to(real) for folder in allowed)  # on the way to one
        ):
            seen.inside += 1
        else:
            seen.files.append(f"{name} {real}{f' ({error})' if error else ''}")


Job = tuple[str, list[str], Path]  # name, command, the folder that it runs in


def flow(folder: Path) -> Iterator[Job]:
    """What `make run` starts."""
    words = ["run", "efficientnet_lite0", "--out", f"{folder}/artifacts", "--report", f"{folder}/report.html"]
    yield "make run", [sys.executable, "-m", "edge_lab", *words], ROOT


def labs(names: Sequence[str] = ()) -> Iterator[Job]:
    """Labs whose names begin like one of `names` (all of them), in a kernel of their own."""
    for lab in _labs(names):
        yield lab.stem, [sys.executable, __file__, "lab", str(lab)], ROOT


def cells(folder: Path, names: Sequence[str] = ()) -> Iterator[Job]:
    """Their take-home cells, each a script in an empty folder, without what PYTHON... variables say."""
    for lab in _labs(names):
        place = folder / lab.stem
        place.mkdir()
        found = [c for c in json.loads(lab.read_text())["cells"] if "take-home" in c["metadata"].get("tags", [])]
        (place / "take_home.py").write_text("".join(found[0]["source"]), encoding="utf-8")
        yield f"{lab.stem}, take-home cell", [sys.executable, "-I", "take_home.py"], place


def peers(folder: Path) -> Iterator[Job]:
    """A comparison with every engine that is installed."""
    words = ["compare", "tools/peers.py:mobilenet_digits", "--images", "digits", "--calibration", "digits"]
    words += ["--limit", "20", "--rounds", "3", "--out", str(folder)]
    yield "edge-lab compare", [sys.executable, "-m", "edge_lab", *words], ROOT


def _labs(names: Sequence[str]) -> list[Path]:
    every = sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
    return [lab for lab in every if not names or lab.stem.startswith(tuple(names))]


def execute(lab: Path) -> None:
    """Run a lab as `make labs` does, and store nothing."""
    spec = importlib.util.spec_from_file_location("labs_tool", LABS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.execute(lab)


def show(job: Job, folder: Path) -> bool:
    """Watch one thing and print what was seen; True if nothing left the machine or its folders."""
    name, command, cwd = job
    home = folder / "home"
    home.mkdir()
    seen = watch(command, home, cwd=cwd, allowed=[folder / "work"])
    kept = sorted(place for place in AT_HOME if (home / place).exists())
    print(f"{name}: {seen.summary()}; at home: {', '.join(kept) or 'nothing'}", flush=True)
    if seen.code:
        print(seen.output[-2000:])
    shutil.rmtree(home)
    return not (seen.away or seen.files or seen.code)


def main(words: list[str]) -> int:
    """See the top of this file."""
    if words[:1] == ["loopback"]:
        loopback(words[1:])
    if words[:1] == ["lab"]:
        execute(Path(words[1]))
        return 0
    if not words or words[0] not in ("flow", "labs", "cells", "peers", "--"):
        sys.exit(__doc__)
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place) / "work"
        work.mkdir()
        what, *names = words
        kinds = {"flow": lambda: flow(work), "labs": lambda: labs(names), "cells": lambda: cells(work, names)}
        kinds |= {"peers": lambda: peers(work), "--": lambda: iter([(names[0], names, Path.cwd())])}
        good = [show(job, Path(place)) for job in kinds[what]()]
    print(f"{good.count(True)} of {len(good)} kept to themselves")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
