"""Bring a runner and bundles to a device: only what differs by checksum is sent, and a folder changes in one rename."""

from __future__ import annotations

import shlex
import struct
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import edge_lab
from edge_lab.bundle.folder import MANIFEST, Bundle
from edge_lab.core.errors import EdgeLabError, InputError, MissingTool
from edge_lab.core.files import sha256
from edge_lab.devices.remote.ssh import Device, Facts, checked, shell

_BUILDS = {"aarch64": ("build-aarch64", "make arm-tools runner-aarch64"), "x86_64": ("build", "make runner")}
_ELF = {0xB7: "aarch64", 0x3E: "x86_64", 0x28: "arm", 0xF3: "riscv64"}
_SPARE = 4 << 20  # bytes that stay free on the device
_PARTS = ("bin", "lib", "python")


@dataclass(frozen=True)
class Sent:
    """What a deployment took: files and bytes that were sent, of all of them; `folder` on the device."""

    folder: str
    files: int
    bytes: int
    of_files: int

    def __str__(self) -> str:
        if not self.files:
            return f"{self.folder}: {self.of_files} files are there already"
        return f"{self.folder}: sent {self.files} of {self.of_files} files, {self.bytes / 1e6:.1f} MB"


def deploy(device: Device, bundle: Path | str) -> Sent:
    """Copy a bundle to the device.

    Raises:
        BundleError: it is missing or damaged here.
        InputError: a format that edge-lab-runner can't run.
        EdgeLabError: no connection, or the device is full.
    """
    opened = Bundle.load(bundle)
    if opened.runtime.format != "pte":
        raise InputError(
            f"{opened.name} is no program for edge-lab-runner.",
            f"its format is {opened.runtime.format}; the runner is ExecuTorch's.",
            "export one for it: edge-lab export MODEL --target pi-xnnpack-int8",
        )
    names = [MANIFEST, *opened.files]
    return sync(device, {name: opened.path / name for name in names}, f"{device.folder}/bundles/{opened.name}")


def deploy_runner(device: Device, about: Facts, build: Path | None = None) -> tuple[str, Sent | None]:
    """The path of a runner on the device that is the one built here; what was sent for it.

    Args:
        device: where.
        about: its facts.
        build: a folder with bin/ and lib/; default: rpi/runner/build*/dist of this checkout for the device's processor,
            else the runner that is installed on the device.

    Raises:
        EdgeLabError, MissingTool: no runner for it here or there, or one for another processor; no connection; full.
    """
    _refuse_32_bits(device, about)
    known = _BUILDS.get(about.arch)
    if build is None and known is not None:
        places = (Path.cwd(), Path(edge_lab.__file__).resolve().parents[1])
        build = next((b for p in places if (b := p / "rpi/runner" / known[0] / "dist").is_dir()), None)
    if build is None:
        if about.installed:
            return about.installed, None
        raise MissingTool(
            f"there is no runner for {about.arch}, neither on {device} nor here.",
            "a device brings none by itself." if known else f"nobody has built one for {about.arch} yet.",
            f"{known[1]}, then try again." if known else "build rpi/runner on the device, and put it on its PATH.",
        )
    files = {p.relative_to(build).as_posix(): p for part in _PARTS for p in sorted((build / part).rglob("*"))}
    files = {name: path for name, path in files.items() if path.is_file() and "__pycache__" not in path.parts}
    _refuse_other_processor(device, about, build, files)
    sent = sync(device, files, f"{device.folder}/runner")
    return f"{sent.folder}/bin/edge-lab-runner", sent


def sync(device: Device, files: dict[str, Path], folder: str) -> Sent:
    """Make `folder` on the device hold exactly these files, by name.

    Sent are those whose SHA-256 differs from what is there, or from what an interrupted attempt left beside it. The
    folder is replaced by a rename, after all checksums were compared on the device: until then the old one is whole.

    Raises:
        EdgeLabError: no connection, the device is full, or a file arrived damaged.
    """
    wanted = {name: sha256(path) for name, path in files.items()}
    there, part, free = _look(device, folder)
    if there == wanted:
        return Sent(folder, 0, 0, len(files))
    base = part if part is not None else there or {}
    changed = [name for name, digest in wanted.items() if base.get(name) != digest]
    size = sum(files[name].stat().st_size for name in changed)
    _refuse_full(device, folder, size, free)
    with tempfile.TemporaryFile() as archive:
        _pack(archive, {name: files[name] for name in changed}, wanted)
        archive.seek(0)
        gone = [name for name in base if name not in wanted or name in changed]
        script = _RECEIVE.replace("@FOLDER@", shlex.quote(folder)).replace(
            "@GONE@", shlex.join(["./" + n for n in gone])
        )
        try:
            checked(device, script, f"receiving {folder}", stdin=archive)
        except EdgeLabError as error:
            if error.what.endswith("is full."):  # give the space back
                shell(device, f"rm -rf {shlex.quote(folder)}.part")
            raise
    return Sent(folder, len(changed), size, len(files))


_LOOK = """
for at in @FOLDER@ @FOLDER@.part; do
  echo "folder $(test -d "$at" && echo there)"
  if [ -d "$at" ]; then (cd "$at" && find . -type f -exec sha256sum {} +) || exit 1; fi
done
while [ ! -d "$at" ]; do at=$(dirname "$at"); done
echo "free $(df -Pk "$at" | awk 'NR == 2 { print $4 }')"
"""

# cp makes the copy under a third name first: a .part that exists is one that was begun in earnest.
_RECEIVE = """
set -e
folder=@FOLDER@
if [ ! -d "$folder.part" ]; then
  rm -rf "$folder.copy"
  mkdir -p "$folder.copy"
  if [ -d "$folder" ]; then cp -a "$folder/." "$folder.copy/"; fi
  mv "$folder.copy" "$folder.part"
fi
cd "$folder.part"
rm -f .sums @GONE@
tar -x -m -o -f -
sha256sum -c .sums > .failed 2>&1 || { grep -v ': OK$' .failed >&2; exit 1; }
rm -f .sums .failed
cd - > /dev/null
rm -rf "$folder.old"
if [ -d "$folder" ]; then mv "$folder" "$folder.old"; fi
mv "$folder.part" "$folder"
rm -rf "$folder.old"
"""


def _look(device: Device, folder: str) -> tuple[dict[str, str] | None, dict[str, str] | None, int | None]:
    """SHA-256 of each file below a folder of the device, and below its .part (None: not there); free bytes there."""
    text = checked(device, _LOOK.replace("@FOLDER@", shlex.quote(folder)), f"reading {folder}")
    lists: list[dict[str, str] | None] = []
    free = None
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "folder":
            lists.append({} if rest else None)
        elif word == "free":
            free = 1024 * int(rest) if rest.isdecimal() else None
        elif lists and (found := lists[-1]) is not None:
            found[rest.strip().removeprefix("*").removeprefix("./")] = word
    there, part = lists
    return there, part, free


def _pack(archive: IO[bytes], files: dict[str, Path], sums: dict[str, str]) -> None:
    """A tar file of these files, and the checksums of all that will then be there, without owner and time."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as lines, tarfile.open(fileobj=archive, mode="w") as tar:
        lines.writelines(f"{digest}  {name}\n" for name, digest in sums.items())
        lines.flush()
        for name, path in {**files, ".sums": Path(lines.name)}.items():
            entry = tar.gettarinfo(str(path), arcname=name)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if name.startswith("bin/") else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def _refuse_full(device: Device, folder: str, size: int, free: int | None) -> None:
    if free is not None and free < size + _SPARE:
        raise EdgeLabError(
            f"{device} has no room for {folder}.",
            f"{size / 1e6:.1f} MB are to be sent, {free / 1e6:.1f} MB are free.",
            f"free some space, or name a folder of another disk: ssh://{device}/media/disk/edge-lab",
        )


def _refuse_32_bits(device: Device, about: Facts) -> None:
    if about.arch == "aarch64" and about.bits == 32:
        raise EdgeLabError(
            f"{device} runs a 32-bit system on a 64-bit kernel.",
            "the libraries are 64-bit; the first 32-bit Raspberry Pi OS of a Pi 4 or 5 does just this.",
            "write a card with the 64-bit Raspberry Pi OS.",
        )


def _refuse_other_processor(device: Device, about: Facts, build: Path, files: dict[str, Path]) -> None:
    program = files.get("bin/edge-lab-runner")
    if program is None:
        raise InputError(
            f"{build} holds no runner.", "bin/edge-lab-runner is missing.", "build it: make runner-aarch64"
        )
    head = program.read_bytes()[:20]
    made_for = _ELF.get(struct.unpack_from("<H", head, 18)[0], "another") if head[:4] == b"\x7fELF" else "no"
    if made_for != about.arch:
        fix = _BUILDS[about.arch][1] if about.arch in _BUILDS else f"build rpi/runner for {about.arch}."
        raise EdgeLabError(
            f"{device} can't run {build.name}/bin/edge-lab-runner.",
            f"it is made for {made_for} processors, the device has {about.arch}.",
            fix,
        )
