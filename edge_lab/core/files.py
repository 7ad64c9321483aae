"""Files that are either whole or absent: hashing, locks, and writes that end in one rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_lab.core.errors import EdgeLabError

_PART = ".part-"  # marks a folder or file that is being written


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder as the hash of its sorted relative paths and file hashes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`, so that two runs never write it at once.

    The lock is the operating system's: it is released when the process dies, however it dies. A folder that a killed
    run had set aside is put back (see `writing_folder`).
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock"):
        _settle(path)
        yield


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}{_PART}{os.getpid()}"
    try:
        with _disk_errors(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it replaces `path` if the block ends without an error.

    Call it inside `locked(path)`: whatever an earlier, killed run left behind is swept away first, and a folder that it
    had set aside comes back. At every moment, `path` or what is set aside is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _settle(path)
    for stale in path.parent.glob(f".{path.name}{_PART}*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{_PART}", dir=path.parent))
    os.chmod(temporary, 0o755)
    try:
        with _disk_errors(path):
            yield temporary
            if path.exists():  # a folder can't be replaced in one step: set the old one aside first
                os.replace(path, _aside(path))
            os.replace(temporary, path)
    finally:
        _settle(path)
        shutil.rmtree(temporary, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _settle(path: Path) -> None:
    """End a replacement that was begun: what was set aside comes back, or goes if the new folder has come."""
    old = _aside(path)
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free / 1e6
            raise EdgeLabError(
                f"{path} could not be written.",
                f"the disk is full ({free:.0f} MB free); nothing half-written was left behind.",
                "free some space, or write elsewhere with --out FOLDER.",
            ) from error
        raise
