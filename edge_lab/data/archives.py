"""Images read straight out of zip files, without unpacking."""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.core.errors import DataError
from edge_lab.core.files import writing_file
from edge_lab.signals.image import decode_picture

if TYPE_CHECKING:
    from PIL.Image import Image

# One open file per process: a forked worker that shared it would also share the position that its parent reads at.
_open: dict[tuple[int, str], tuple[zipfile.ZipFile, threading.Lock]] = {}


@dataclass(frozen=True)
class ZipReader:
    """Reads image i out of a zip file; from several threads and processes too."""

    path: str
    members: tuple[str, ...]

    def __call__(self, index: int) -> Image:
        """Image i in RGB."""
        member = self.members[index]
        return decode_picture(read_member(self.path, member), f"{member} in {self.path}").rows()


def read_member(path: str, member: str) -> bytes:
    """Bytes of one member of a zip file."""
    key = (os.getpid(), path)
    if key not in _open:
        _open.setdefault(key, (open_zip(Path(path)), threading.Lock()))
    archive, lock = _open[key]
    with lock:
        try:
            return archive.read(member)
        except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(Path(path), f"{member}: {error}") from error


def list_members(path: Path, keep: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Names of the members that `keep` accepts, sorted, and for each a text of its size and CRC-32."""
    with open_zip(path) as archive:
        infos = sorted((i for i in archive.infolist() if not i.is_dir() and keep(i.filename)), key=lambda i: i.filename)
    return [i.filename for i in infos], [f"{i.file_size}:{i.CRC:08x}" for i in infos]


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file for reading.

    Raises:
        DataError: it is not a zip file, or cut off.
    """
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error


def tar_to_zip(tar: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """Copy the files of a .tar.gz that `keep` accepts to an uncompressed zip, whose members can be read in any order.

    Nothing is unpacked to the file system, so no path inside the archive can point anywhere; links are not followed.
    """
    try:
        with (
            tarfile.open(tar, "r|*") as source,
            writing_file(target) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for member in source:
                handle = source.extractfile(member) if member.isfile() and keep(member.name) else None
                if handle is not None:
                    with archive.open(zipfile.ZipInfo(member.name), "w") as out:
                        shutil.copyfileobj(handle, out)
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(tar, str(error)) from error


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged.", why, "delete it and load the set again, or copy it here once more.")
