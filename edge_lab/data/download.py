"""Downloads that resume, are verified, and are never left half done under their final name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_lab.core.errors import DataError, InputError
from edge_lab.core.files import locked

Check = Callable[[Path], str]

_BLOCK = 1 << 18  # bytes per read
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers worth another try
_BROKEN = (OSError, http.client.HTTPException)  # URLError, timeouts and TLS errors are OSErrors


def cache_folder() -> Path:
    """Where downloads are kept: $EDGE_LAB_CACHE, else $XDG_CACHE_HOME/edge-lab, else ~/.cache/edge-lab."""
    own = os.environ.get("EDGE_LAB_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-lab"


def fetch(
    url: str,
    sha256: str | None,
    path: Path | str,
    *,
    md5: str | None = None,
    check: Check | None = None,
    local: Path | None = None,
    progress: bool = True,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Download a file, or keep the one that is there, and vouch for its content.

    What has arrived is kept in `PATH.part`; after a broken connection, Ctrl-C or a killed process the next call goes on
    from there, if the server supports it. Only a file with the right content gets the name `path`. Two processes that
    want the same file wait for each other.

    Args:
        url: http, https or file.
        sha256: hex digest that the file must have. None only where none is published; then `md5` or `check` is needed.
        path: where the file goes.
        md5: the same with MD5, which protects from accidents but not from an attacker.
        check: looks at the file; returns "" if it is good, else what is wrong.
        local: a copy of the file that is already here; it is verified and used as it is, and nothing is downloaded.
        progress: show a progress bar on stderr.
        attempts: tries in a row that bring no new byte before giving up.
        wait: seconds before the second try; doubles with each further one.
        timeout: seconds without a byte after which a connection counts as broken.

    Returns:
        `path`, or `local` if that was given.

    Raises:
        InputError: an address that is not http, https or file; nothing to verify the file with.
        DataError: no connection, an HTTP error, a full disk, or wrong content (which is deleted).
    """
    target = Path(path)
    verify = _verifier(sha256, md5, check)
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise InputError(f"{url} can't be downloaded.", "only http, https and file are allowed.", "check the address.")
    if local is not None:
        problem = verify(local)
        if problem:
            raise _refused(url, f"{local}: {problem}", "replace that file, or remove it so that it is downloaded.")
        return local
    with locked(target):
        if target.is_file() and not verify(target):
            return target
        part = target.with_name(target.name + ".part")
        resumed = part.exists()
        job = _Job(url, part, target, progress, attempts, wait, timeout)
        _download(job)
        problem = verify(part)
        if problem and resumed:  # the part may have been of an older file: once more from the start
            part.unlink()
            _download(job)
            problem = verify(part)
        if problem:
            part.unlink()
            raise _refused(url, problem, "try again later; if it stays so, the file on the server has changed.")
        os.replace(part, target)
    return target


def _verifier(sha256: str | None, md5: str | None, check: Check | None) -> Check:
    if sha256 is None and md5 is None and check is None:
        raise InputError("a download needs a checksum.", "sha256, md5 and check are all missing.", "pass sha256.")

    def verify(path: Path) -> str:
        for name, expected in (("sha256", sha256), ("md5", md5)):
            if expected is not None:
                found = _digest(path, name)
                if found != expected.lower():
                    return f"its {name} is {found}, expected {expected.lower()}."
        return check(path) if check is not None else ""

    return verify


def _digest(path: Path, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=name != "md5")
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Job:
    url: str
    part: Path
    target: Path
    progress: bool
    attempts: int
    wait: float
    timeout: float


class _Incomplete(OSError):
    """The connection ended before the announced number of bytes had come."""


def _download(job: _Job) -> None:
    """Fill the .part file to the end of what the server has."""
    from tqdm import tqdm

    failures = 0
    with tqdm(
        desc=job.target.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not job.progress, leave=False
    ) as bar:
        while True:
            before = _size(job.part)
            try:
                _transfer(job, bar)
                return
            except urllib.error.HTTPError as error:
                if error.code not in _TRANSIENT:
                    raise _unreachable(job, f"the server answered {error.code} {error.reason}.") from error
                reason: Exception = error
            except _BROKEN as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _disk_full(job) from error
                if isinstance(error, (PermissionError, FileNotFoundError, IsADirectoryError)):
                    raise _unreachable(job, str(error)) from error
                reason = error
            failures = 0 if _size(job.part) > before else failures + 1
            if failures >= job.attempts:
                raise _unreachable(job, f"{_text(reason)} ({failures} tries)") from reason
            time.sleep(job.wait * 2 ** max(0, failures - 1))


def _transfer(job: _Job, bar: Any) -> None:
    """One connection: ask for what is missing and append it."""
    have = _size(job.part)
    headers = {"User-Agent": "edge-lab", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = _opener().open(urllib.request.Request(job.url, headers=headers), timeout=job.timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is as long as the file, or longer: let the hash decide
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return
            job.part.unlink()
            raise _Incomplete("the part was longer than the file") from error
        raise
    with response:
        resumed = response.status == 206 and _starts_at(response) == have
        start = have if resumed else 0
        announced = response.headers.get("Content-Length")
        total = start + int(announced) if announced else None
        bar.total, bar.n = total, start
        bar.refresh()
        job.part.parent.mkdir(parents=True, exist_ok=True)
        with job.part.open("ab" if resumed else "wb") as out:
            for block in iter(lambda: response.read(_BLOCK), b""):
                out.write(block)
                out.flush()
                bar.update(len(block))
    if total is not None and _size(job.part) < total:
        raise _Incomplete(f"the connection broke off after {_size(job.part):,} of {total:,} bytes")


def _starts_at(response: Any) -> int:
    """First byte that a 206 answer carries, -1 if it does not say."""
    unit, _, rest = str(response.headers.get("Content-Range", "")).partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else -1


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, never from https down to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = urlsplit(newurl).scheme
        if new not in ("http", "https") or (req.type == "https" and new == "http"):
            raise urllib.error.HTTPError(req.full_url, code, f"redirects to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _text(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _unreachable(job: _Job, why: str) -> DataError:
    return DataError(
        f"{job.target.name} could not be downloaded.",
        f"{job.url}: {why}",
        f"connect to the internet and run it again; or, on a machine without it, copy the file to {job.target}.",
    )


def _refused(url: str, problem: str, fix: str) -> DataError:
    return DataError(f"the file from {url} was refused.", problem, fix)


def _disk_full(job: _Job) -> DataError:
    free = shutil.disk_usage(job.part.parent).free / 1e6
    return DataError(
        f"{job.target.name} could not be downloaded.",
        f"the disk is full ({free:.0f} MB free); {_size(job.part) / 1e6:.0f} MB have come and are kept.",
        "free some space and run it again, or set EDGE_LAB_CACHE to a folder on another disk.",
    )
