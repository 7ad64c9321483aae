"""Well-known sets: archives that are read without unpacking, wrong ones refused, and the real data where it is."""

from __future__ import annotations

import io
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_lab import data
from edge_lab.core.errors import DataError
from edge_lab.core.files import sha256
from edge_lab.data import real
from edge_lab.data.archives import tar_to_zip


def png(color: tuple[int, int, int] = (9, 9, 9)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(buffer, "PNG")
    return buffer.getvalue()


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("set/link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def test_an_archive_is_never_unpacked_to_the_file_system(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar.gz", {"../evil.bin": b"x", "set/good.bin": b"abc", "set/b.txt": b""})
    tar_to_zip(tar, tmp_path / "out" / "a.zip", lambda name: name.endswith(".bin"))
    with zipfile.ZipFile(tmp_path / "out" / "a.zip") as archive:
        assert archive.read("set/good.bin") == b"abc"
        assert "set/link.bin" not in archive.namelist()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "a.zip", "out"]


def test_a_cut_off_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar.gz", {f"{i}.bin": np.random.default_rng(i).bytes(20_000) for i in range(9)})
    tar.write_bytes(tar.read_bytes()[:90_000])
    with pytest.raises(DataError, match="damaged"):
        tar_to_zip(tar, tmp_path / "a.zip", lambda _: True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_the_binary_version_of_cifar10_is_read_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = np.random.default_rng(0).integers(0, 256, (4, 3073), np.uint8)
    records[:, 0] = [3, 0, 9, 1]
    tar = make_tar(tmp_path / "c.tar.gz", {"cifar-10-batches-bin/test_batch.bin": records.tobytes()})
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGE_LAB_DATA", raising=False)
    monkeypatch.setattr(real, "CIFAR10_URL", tar.as_uri())
    monkeypatch.setattr(real, "CIFAR10_SHA256", sha256(tar))
    images = data.load("cifar10", "test")
    assert images.y.tolist() == [3, 0, 9, 1]
    assert images.pixels.shape == (4, 32, 32, 3)
    assert np.asarray(images[1])[5, 7].tolist() == records[1, 1:].reshape(3, 32, 32)[:, 5, 7].tolist()
    assert data.load("cifar10", "test").fingerprint == images.fingerprint
    assert not list((tmp_path / "cache").rglob("*.tar.gz"))  # only the readable form is kept
    with pytest.raises(DataError, match="data_batch_1"):
        data.load("cifar10", "train")


def test_imagenette_uses_imagenet_classes_and_a_given_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"imagenette2-320/val/{synset}/{synset}_1.JPEG": png() for synset in real.IMAGENETTE_CLASSES}
    tar = make_tar(tmp_path / "imagenette2-320.tgz", members)
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGE_LAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="sha256"):
        data.load("imagenette")
    monkeypatch.setattr(real, "IMAGENETTE_SHA256", sha256(tar))
    images = data.load("imagenette")
    assert images.y.tolist() == list(real.IMAGENETTE_CLASSES.values())
    assert [images.labels[k] for k in images.y][:2] == ["tench", "English springer"]
    assert [images.labels[k] for k in images.y][-2:] == ["golf ball", "parachute"]
    assert images[3].size == (32, 32)


def test_a_damaged_or_wrong_zip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_DATA", str(tmp_path))
    (tmp_path / "cifar10.zip").write_bytes(b"PK not really")
    with pytest.raises(DataError, match=r"cifar10\.zip is damaged"):
        data.load("cifar10")
    with zipfile.ZipFile(tmp_path / "cifar10.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match="test/CLASS/NAME"):
        data.load("cifar10")
    monkeypatch.setenv("EDGE_LAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="not a folder"):
        data.load("cifar10")


def test_a_set_that_cannot_be_had_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_LAB_DATA", raising=False)
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("cifar10", "imagenette", "imagenet-sample"):
        with pytest.raises(DataError, match="could not be downloaded") as caught:
            data.load(name)
        assert "copy the file to" in caught.value.fix
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_a_wrong_imagenet_sample_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("repo/n01440764_tench.JPEG", png())
    monkeypatch.delenv("EDGE_LAB_DATA", raising=False)
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(real, "SAMPLE_URL", (tmp_path / "s.zip").as_uri())
    with pytest.raises(DataError, match="1 images of 1 synsets"):
        data.load("imagenet-sample")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for k in reversed(range(1000)):
            archive.writestr(f"repo/n{k * 3:08d}_thing.JPEG", png((k % 256, 0, 0)))
    images = data.load("imagenet-sample")
    assert images.y.tolist() == list(range(1000))
    assert images[7].getpixel((0, 0)) == (7, 0, 0)


# --- the real data


@pytest.mark.real_data
def test_cifar10_from_the_given_zip() -> None:
    images = data.load("cifar10", "test")
    assert images.labels == real.CIFAR10_CLASSES
    assert len(set(np.bincount(images.y).tolist())) == 1  # as many of each class
    assert images[0].size == (32, 32)
    assert images.take(20).pixels.shape == (20, 32, 32, 3)
    assert len(data.load("cifar10", "train")) == 50_000


@pytest.mark.real_data
def test_the_imagenet_sample_from_the_given_zip_and_its_classes() -> None:
    images = data.load("imagenet-sample")
    assert len(images) in (500, 1000)
    assert images.take(5).names[0].startswith("000_n01440764_tench")
    # the names in the archive and the shipped class names agree: two sources for the same index
    same = [
        images.labels[k].lower().replace(" ", "_").replace("'", "") in name.lower().replace("'", "")
        for k, name in zip(images.y.tolist(), images.names, strict=True)
    ]
    assert np.mean(same) > 0.95


def _first_bytes(index: int) -> bytes:
    return data.load("imagenet-sample")[index].tobytes()[:64]


@pytest.mark.real_data
def test_a_zip_is_read_by_many_threads_and_processes_at_once() -> None:
    images = data.load("imagenet-sample")
    expected = [images[i].tobytes()[:64] for i in range(12)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda i: images[i].tobytes()[:64], range(12))) == expected
    with ProcessPoolExecutor(2) as processes:
        assert list(processes.map(_first_bytes, range(12))) == expected
