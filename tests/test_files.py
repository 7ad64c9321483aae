"""Files are whole or absent, whatever happens in between."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from edge_lab.core.errors import EdgeLabError
from edge_lab.core.files import locked, sha256, size_of, writing_file, writing_folder


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), writing_file(path) as temporary:
        temporary.write_text("new, half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for text in ("one", "two"):
        with locked(path), writing_folder(path) as temporary:
            (temporary / f"{text}.txt").write_text(text)
    assert os.listdir(path) == ["two.txt"]


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    stale = tmp_path / ".bundle.part-killed"
    stale.mkdir()
    (stale / "half.pte").write_bytes(b"half")
    with locked(tmp_path / "bundle"), writing_folder(tmp_path / "bundle") as temporary:
        assert not stale.exists()
        (temporary / "a").write_text("a")
    assert (tmp_path / "bundle" / "a").exists()


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EdgeLabError, match="disk is full"), writing_file(tmp_path / "a") as temporary:
        temporary.write_bytes(b"x" * 10)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "denied")


def test_folder_hash_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_text("1")
    first = sha256(tmp_path / "m")
    (tmp_path / "m" / "a").rename(tmp_path / "m" / "b")
    second = sha256(tmp_path / "m")
    (tmp_path / "m" / "b").write_text("2")
    assert len({first, second, sha256(tmp_path / "m")}) == 3
    assert size_of(tmp_path / "m") == 1


def _hold(path: Path, log: Path, ready: object) -> None:
    with locked(path):
        with log.open("a") as handle:
            handle.write("in\n")
        time.sleep(0.2)
        with log.open("a") as handle:
            handle.write("out\n")


def test_two_processes_take_turns(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    processes = [context.Process(target=_hold, args=(tmp_path / "bundle", log, None)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert log.read_text().split() == ["in", "out", "in", "out"]


def _replaced(path: Path, text: str) -> None:
    with locked(path), writing_folder(path) as temporary:
        (temporary / "text").write_text(text)


def test_a_folder_that_can_not_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "bundle", os.replace
    _replaced(path, "old")

    def refuse(source: Path, goal: Path) -> None:
        if goal == path and "part" in str(source):
            raise PermissionError(errno.EACCES, "a virus scanner holds it")
        replace(source, goal)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        _replaced(path, "new")
    assert (path / "text").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == [".bundle.lock", "bundle"]


def _dies(path: Path, before: int) -> None:
    """Replace a folder and die as by a power cut: before the rename of that number, or before what comes after it."""
    replace, calls = os.replace, iter(range(before))

    def dying(source: Path, goal: Path) -> None:
        if next(calls, None) is None:
            os._exit(9)
        replace(source, goal)

    os.replace = dying  # type: ignore[assignment]
    shutil.rmtree = lambda *_, **__: os._exit(9) if next(calls, None) is None else None  # type: ignore[assignment]
    _replaced(path, "new")


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_folder_survives_a_kill_between_two_renames(tmp_path: Path, before: int) -> None:
    path = tmp_path / "bundle"
    _replaced(path, "old")
    process = multiprocessing.get_context("fork").Process(target=_dies, args=(path, before))
    process.start()
    process.join()
    with pytest.raises(RuntimeError), locked(path), writing_folder(path):
        raise RuntimeError  # the next run fails, too
    assert (path / "text").read_text() in ("old", "new")
    assert sorted(os.listdir(tmp_path)) == [".bundle.lock", "bundle"]
    os.unlink(path / "text")
    _replaced(path, "newest")
    assert (path / "text").read_text() == "newest"
