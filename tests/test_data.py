"""Data sets: what the user relies on is that they are the same everywhere, do not leak, and fail clearly."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_lab import data
from edge_lab.core.errors import DataError, InputError
from edge_lab.data import digits, photos
from edge_lab.data.folders import left_out
from edge_lab.data.splitmix import Stream

ASSETS = photos.ASSETS


# --- sets in general


@pytest.mark.parametrize("name", ["photos", "crops", "calibration", "digits"])
def test_a_set_that_comes_with_the_package_is_complete(name: str) -> None:
    images = data.load(name)
    assert len(images) == len(images.targets) == len(images.names) == len(set(images.names))
    assert images.licence
    assert images.source
    assert images.skipped == 0
    assert images[0].mode == "RGB"
    assert images[-1].tobytes() == images[len(images) - 1].tobytes()
    with pytest.raises(IndexError):
        images[len(images)]


def test_take_spreads_evenly_and_always_the_same() -> None:
    images = data.load("photos")
    few = images.take(4)
    assert few.names == tuple(images.names[i] for i in (0, 3, 6, 9))
    assert [image.tobytes() for image in few] == [images[i].tobytes() for i in (0, 3, 6, 9)]
    assert few.targets == tuple(images.targets[i] for i in (0, 3, 6, 9))
    assert few.fingerprint == images.take(4).fingerprint != images.fingerprint
    assert images.take(100) is images
    assert data.load("photos", limit=4).fingerprint == few.fingerprint
    with pytest.raises(InputError):
        images.take(0)
    with pytest.raises(InputError):
        images.subset([99])


def test_y_is_the_first_accepted_class_and_minus_one_where_none_is_known() -> None:
    images = data.load("photos")
    assert images.y.dtype == np.int64
    assert images.y[images.names.index("chelsea")] == 281
    assert images.y[images.names.index("flower")] == -1


def test_pixels_are_one_array_or_a_clear_error() -> None:
    assert data.load("digits", limit=3).pixels.shape == (3, 32, 32, 3)
    with pytest.raises(DataError, match="different sizes"):
        _ = data.load("photos").pixels


def test_a_set_can_be_sent_to_another_process() -> None:
    images = data.load("crops", limit=2)
    assert pickle.loads(pickle.dumps(images))[1].tobytes() == images[1].tobytes()


def test_unknown_names_and_splits_are_named() -> None:
    with pytest.raises(InputError, match="imagenet-sample"):
        data.load("imagenet")
    with pytest.raises(InputError, match="it has train, val, test"):
        data.load("digits", "validation")
    assert next(iter(data.sets())) == "digits"


# --- digits in the wild


def test_digits_are_the_same_on_every_machine() -> None:
    constants = {
        "train": "aa5ff2341a7de5b53913ecd455a88ce6a801ab917b0461ee4adf67f09d5c50bf",
        "val": "9987718d43c5cf275c997afb8e6e0b2602eecf63bfcca68881c3639cd2e6c670",
        "test": "e77d8fde2948b277ca7deb546f51ff2a42db4751e3bcb6de319b4e5b890ffcc5",
    }
    assert {split: data.load("digits", split).fingerprint for split in digits.SPLITS} == constants


def test_digits_have_as_many_images_of_each_class_as_they_say() -> None:
    for split, each in (("train", 2000), ("val", 200), ("test", 200)):
        images = data.load("digits", split)
        assert images.pixels.shape == (10 * each, 32, 32, 3)
        assert images.pixels.dtype == np.uint8
        assert np.bincount(images.y).tolist() == [each] * 10
        assert np.array_equal(np.asarray(images[7]), images.pixels[7])


def test_no_source_digit_and_no_photo_is_in_two_splits() -> None:
    plans = {split: digits.plan(split) for split in digits.SPLITS}
    sprites = digits.sprites()
    writing = {split: {sprites[i].tobytes() for i in plan.sources} for split, plan in plans.items()}
    pictures = {split: set(plan.photos.tolist()) for split, plan in plans.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not writing[one] & writing[other]  # by content: MNIST has no such doubles here either
        assert not pictures[one] & pictures[other]
    assert sum(len(p) for p in pictures.values()) == 12
    counts = np.cumsum(photos.provenance()["digits"]["counts"])
    for plan in plans.values():  # a source digit's place in the sheet is its class
        assert np.array_equal(np.searchsorted(counts, plan.sources, side="right"), plan.classes)


def test_digits_differ_from_their_background_enough_to_be_read() -> None:
    plan, stream = digits.plan("test"), Stream("digits/test/composition")
    draws = {name: stream.array(len(plan.classes), *limits) for name, limits in digits._DRAWS.items()}
    ink = digits._place(digits.sprites()[plan.sources], draws)
    light = digits.brightness(data.load("digits", "test").pixels.astype(np.int64))
    drawn = np.array([shade[mask > 200].mean() for shade, mask in zip(light, ink, strict=True) if (mask > 200).any()])
    around = np.array([shade[mask == 0].mean() for shade, mask in zip(light, ink, strict=True) if (mask > 200).any()])
    assert len(drawn) > 1900
    assert np.mean(np.abs(drawn - around) > 40) > 0.99
    assert 0.3 < np.mean(drawn > around) < 0.7  # lighter and darker ink both occur


def test_the_random_integers_are_splitmix64() -> None:
    stream = Stream("x")
    stream._state = 1234567  # the published test vector of SplitMix64
    assert stream.array(3, 0, (1 << 62) - 1).tolist() == [
        value % (1 << 62) for value in (6457827717110365317, 3203168211198807973, 9817491932198370423)
    ]
    assert sorted(Stream("y").order(50).tolist()) == list(range(50))
    draws = Stream("z").array(10_000, -3, 3)
    assert (draws.min(), draws.max()) == (-3, 3)


# --- photos and crops


def test_every_photo_has_a_licence_and_a_place_in_the_sets() -> None:
    entries = photos.provenance()["photos"]
    files = {path.stem for path in (ASSETS / "photos").glob("*.jpg")}
    assert {entry["name"] for entry in entries} == files
    for entry in entries:
        assert entry["licence"] in {"CC0", "public domain", "CC BY 2.0"}
        assert entry["author"]
        assert len(entry["sha256_of_member"]) == 64
        assert entry["used_for"] in {"crops", "calibration"}
        assert entry["digits"] in digits.SPLITS
        assert all(0 <= k < 1000 for k in entry["imagenet"])
    assert sum(path.stat().st_size for path in (ASSETS / "photos").glob("*.jpg")) < 1_200_000


def test_the_labels_of_the_photos_are_the_right_classes() -> None:
    images = data.load("photos")
    known = {n: {images.labels[k] for k in t} for n, t in zip(images.names, images.targets, strict=True) if t}
    assert known == {
        "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
        "coffee": {"espresso", "cup", "coffee mug"},
        "rocket": {"missile", "projectile"},
        "grace_hopper": {"military uniform"},
    }
    assert len(images.labels) == 1000


def test_calibration_and_evaluation_crops_share_no_photo() -> None:
    sources = {name: {n.rsplit("-", 1)[0] for n in data.load(name).names} for name in ("crops", "calibration")}
    assert len(sources["crops"]) == len(sources["calibration"]) == 6
    assert not sources["crops"] & sources["calibration"]


def test_crops_are_large_and_varied() -> None:
    for name in ("crops", "calibration"):
        images = data.load(name)
        sizes = [image.size for image in images.take(30)]
        assert min(min(size) for size in sizes) >= 256
        assert max(max(w, h) / min(w, h) for w, h in sizes) < 1.34
        assert len(set(sizes)) > 20
        assert len({n.rsplit("-", 1)[0] for n in images.names[:6]}) == 6
        assert len({n.rsplit("-", 1)[0] for n in images.take(20).names}) >= 4


def test_imagenet_names_and_provenance_are_plain_json() -> None:
    assert json.loads((ASSETS / "imagenet_classes.json").read_text(encoding="utf-8"))[281] == "tabby"
    packages = {p["name"] for p in photos.provenance()["packages"]}
    assert packages == {"scikit-image", "scikit-learn", "matplotlib", "scipy", "mnist"}


# --- folders


def picture(path: Path, color: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (80, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def test_a_folder_is_read_recursively_with_classes_from_folder_names(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.jpg")
    picture(tmp_path / "dog" / "deep" / "b.PNG")
    picture(tmp_path / "c.webp")
    picture(tmp_path / ".hidden" / "d.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    images = data.folder(tmp_path, ["cat", "dog"])
    assert images.names == ("c.webp", "cat/a.jpg", "dog/deep/b.PNG")
    assert images.targets == ((), (0,), (1,))
    assert images.y.tolist() == [-1, 0, 1]
    assert data.folder(tmp_path).targets == ((), (), ())


def test_unreadable_images_are_skipped_and_counted(tmp_path: Path) -> None:
    picture(tmp_path / "good.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.bmp").write_bytes(b"")
    images = data.folder(tmp_path)
    assert images.names == ("good.jpg",)
    assert images.skipped == 3
    assert "3 skipped" in repr(images)


def test_a_folder_without_usable_images_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        data.folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images were found"):
        data.folder(tmp_path)
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(DataError, match="none of the 1 images") as caught:
        data.folder(tmp_path)
    assert "a.jpg" in caught.value.why
    with pytest.raises(DataError, match="it is a file"):
        data.folder(tmp_path / "a.jpg")


def test_the_fingerprint_of_a_folder_follows_its_content(tmp_path: Path) -> None:
    picture(tmp_path / "one" / "a.png")
    first = data.folder(tmp_path / "one").fingerprint
    picture(tmp_path / "two" / "a.png")
    assert data.folder(tmp_path / "two").fingerprint == first
    picture(tmp_path / "two" / "a.png", (0, 0, 0))
    assert data.folder(tmp_path / "two").fingerprint != first


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    for name in ("b.HEIC", "c.heic", "d.tif", "noending", ".hidden.heic"):
        (tmp_path / name).write_bytes(b"x")
    images = data.folder(tmp_path)
    assert (len(images), images.skipped) == (1, 0)
    assert images.others[0] == (".heic", 2)
    assert set(images.others[1:]) == {(".tif", 1), ("", 1)}
    text = left_out(images.others)
    assert "2 .heic" in text
    assert "1 without an ending" in text
    assert "heif-convert" in text
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"2 \.heic"):
        data.folder(tmp_path)


def test_class_folders_in_either_form_of_unicode_and_labels_that_occur_twice(tmp_path: Path) -> None:
    (tmp_path / "cafe\u0301").mkdir()
    (tmp_path / "crane").mkdir()
    picture(tmp_path / "cafe\u0301" / "a.jpg")
    picture(tmp_path / "crane" / "b.jpg")
    images = data.folder(tmp_path, ["crane", "caf\u00e9", "crane"])
    assert dict(zip(images.names, images.targets, strict=True)) == {"cafe\u0301/a.jpg": (1,), "crane/b.jpg": (0, 2)}
