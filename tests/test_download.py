"""Downloads against a local server that misbehaves in the ways real ones do."""

from __future__ import annotations

import hashlib
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_lab.core.errors import DataError, InputError
from edge_lab.data.download import cache_folder, fetch

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    body: bytes = BODY
    ranges: bool = True  # honours Range
    breaks: list[int] = field(default_factory=list)  # bytes after which the next connections end
    statuses: list[int] = field(default_factory=list)  # answers of the next requests, instead of the file
    redirect: str = ""
    asked: list[str] = field(default_factory=list)  # the Range header of each request


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        b = self.behaviour
        wanted = self.headers.get("Range", "")
        b.asked.append(wanted)
        if b.statuses:
            self.send_error(b.statuses.pop(0))
            return
        if b.redirect:
            self.send_response(302)
            self.send_header("Location", b.redirect)
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and b.ranges else 0
        if start >= len(b.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(b.body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(b.body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(b.body) - 1}/{len(b.body)}")
        self.end_headers()
        stop = start + b.breaks.pop(0) if b.breaks else len(b.body)
        self.wfile.write(b.body[start:stop])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Behaviour]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    behaviour = Behaviour()
    handler = type("Configured", (Handler,), {"behaviour": behaviour})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/set.bin", behaviour
    httpd.shutdown()
    httpd.server_close()


def get(url: str, path: Path, sha256: str | None = SHA256, **options: object) -> Path:
    return fetch(url, sha256, path, progress=False, wait=0.01, timeout=30, **options)  # type: ignore[arg-type]


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_a_download_arrives_whole_and_is_not_fetched_twice(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    path = tmp_path / "deep" / "set.bin"
    assert get(url, path) == path
    assert path.read_bytes() == BODY
    assert get(url, path) == path
    assert len(behaviour.asked) == 1
    assert not part_of(path).exists()


def test_a_broken_connection_is_resumed_where_it_broke(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks = [300_000, 400_000]
    path = get(url, tmp_path / "set.bin")
    assert path.read_bytes() == BODY
    assert behaviour.asked == ["", "bytes=300000-", "bytes=700000-"]


def test_a_later_run_goes_on_from_the_part_file(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    path = tmp_path / "set.bin"
    part_of(path).write_bytes(BODY[:123_456])
    assert get(url, path).read_bytes() == BODY
    assert behaviour.asked == ["bytes=123456-"]


def test_a_complete_part_file_needs_no_further_byte(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    path = tmp_path / "set.bin"
    part_of(path).write_bytes(BODY)
    assert get(url, path).read_bytes() == BODY


@pytest.mark.parametrize("stale", [b"older version" * 100, BODY + b"too long"])
def test_a_part_of_something_else_is_thrown_away(server: tuple[str, Behaviour], tmp_path: Path, stale: bytes) -> None:
    url, _ = server
    path = tmp_path / "set.bin"
    part_of(path).write_bytes(stale)
    assert get(url, path).read_bytes() == BODY


def test_a_server_without_ranges_starts_over(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.ranges = False
    behaviour.breaks = [300_000]
    assert get(url, tmp_path / "set.bin").read_bytes() == BODY
    assert behaviour.asked == ["", "bytes=300000-"]


def test_wrong_content_is_refused_and_deleted(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.body = b"something else"
    path = tmp_path / "set.bin"
    with pytest.raises(DataError, match="sha256") as caught:
        get(url, path)
    assert SHA256 in caught.value.why
    assert not path.exists()
    assert not part_of(path).exists()


def test_a_damaged_file_on_disk_is_fetched_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    path = tmp_path / "set.bin"
    path.write_bytes(BODY[:-1])
    assert get(url, path).read_bytes() == BODY


def test_md5_is_enough_where_no_sha256_is_published(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    assert get(url, tmp_path / "a", None, md5=hashlib.md5(BODY).hexdigest()).read_bytes() == BODY
    with pytest.raises(DataError, match="md5"):
        get(url, tmp_path / "b", None, md5="0" * 32)
    with pytest.raises(InputError, match="checksum"):
        get(url, tmp_path / "c", None)


def test_a_busy_server_is_tried_again_and_a_missing_file_is_not(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.statuses = [503, 503]
    assert get(url, tmp_path / "set.bin").read_bytes() == BODY
    behaviour.statuses, behaviour.asked = [404], []
    with pytest.raises(DataError, match="404"):
        get(url, tmp_path / "other.bin")
    assert len(behaviour.asked) == 1


def test_a_server_that_never_gets_anywhere_is_given_up(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks = [1000, 0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(DataError, match="broke off"):
        get(url, tmp_path / "set.bin", attempts=3)
    assert len(behaviour.asked) == 4  # one that brought bytes, three that did not
    assert part_of(tmp_path / "set.bin").stat().st_size == 1000


def test_without_a_connection_the_error_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    path = tmp_path / "set.bin"
    with pytest.raises(DataError) as caught:
        get(f"http://127.0.0.1:{port}/set.bin", path, attempts=2)
    assert "2 tries" in caught.value.why
    assert "connect to the internet" in caught.value.fix
    assert str(path) in caught.value.fix


def test_only_http_and_file_addresses(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    original = tmp_path / "original.bin"
    original.write_bytes(BODY)
    assert get(original.as_uri(), tmp_path / "copy.bin").read_bytes() == BODY
    for url in ("ftp://127.0.0.1/x", "data:,x", "/etc/hostname"):
        with pytest.raises(InputError, match="only http"):
            get(url, tmp_path / "x")
    url, behaviour = server
    behaviour.redirect = original.as_uri()
    with pytest.raises(DataError, match=r"(?i)redirect"):
        get(url, tmp_path / "x")


def test_ctrl_c_leaves_the_part_for_the_next_run(
    server: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tqdm

    url, behaviour = server
    path = tmp_path / "set.bin"

    class Interrupted(tqdm.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "tqdm", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(url, path)
    size = part_of(path).stat().st_size
    assert 0 < size < len(BODY)
    assert get(url, path).read_bytes() == BODY
    assert behaviour.asked[-1] == f"bytes={size}-"


def test_two_processes_fetch_it_once(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    path = tmp_path / "set.bin"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch, args=(url, SHA256, path), kwargs={"progress": False}) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert path.read_bytes() == BODY
    assert behaviour.asked == [""]


def test_a_full_disk_is_named(server: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import tqdm

    class FullDisk(tqdm.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tqdm, "tqdm", FullDisk)
    with pytest.raises(DataError, match="disk is full") as caught:
        get(server[0], tmp_path / "set.bin")
    assert "EDGE_LAB_CACHE" in caught.value.fix


def test_the_cache_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("EDGE_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edge-lab"
