"""Well-known sets by name: from $EDGE_LAB_DATA, else from the cache folder, else downloaded into it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from edge_lab.core.errors import DataError
from edge_lab.core.files import locked
from edge_lab.data.archives import ZipReader, list_members, read_member, tar_to_zip
from edge_lab.data.download import cache_folder, fetch
from edge_lab.data.images import ArrayReader, ImageSet, hash_of
from edge_lab.data.photos import imagenet_classes

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
IMAGENETTE_URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"
IMAGENETTE_SHA256 = "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"
SAMPLE_COMMIT = "bc69043e2862758a1906c6a24a792bb28c6bb2ff"
SAMPLE_URL = f"https://github.com/EliSchwartz/imagenet-sample-images/archive/{SAMPLE_COMMIT}.zip"

CIFAR10_LICENCE = "none stated; cite Krizhevsky 2009"
IMAGENETTE_LICENCE = "Apache 2.0 (the selection); photos as in ImageNet, for research"
SAMPLE_LICENCE = "as ImageNet: for research; the photos are their owners'"

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Imagenette's ten folders and their places among the 1,000 ImageNet classes
IMAGENETTE_CLASSES = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
_CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes
_CIFAR10_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}


def cifar10(split: str) -> ImageSet:
    """CIFAR-10: 32x32 colour images of ten kinds of things.

    50,000 train and 10,000 test images, by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton (2009), out of the Tiny
    Images collection. No licence is stated; the authors ask to be cited ("Learning Multiple Layers of Features from
    Tiny Images"). Downloaded as the binary version (170 MB), which has no pickles in it.

    A `cifar10.zip` in $EDGE_LAB_DATA (SPLIT/CLASS/NAME.jpg or .png) is used as it is: what is in it counts, so a zip
    with half of the test images gives half a test set, and JPEG images differ a little from the original pixels.
    """
    path = given("cifar10.zip")
    if path is not None:
        return _cifar10_zip(path, split)
    archive = cache_folder() / "cifar10" / "cifar-10-binary.zip"
    if not archive.exists():
        with locked(archive):
            if not archive.exists():
                tar = fetch(CIFAR10_URL, CIFAR10_SHA256, archive.with_suffix(".tar.gz"))
                tar_to_zip(tar, archive, lambda member: member.endswith(".bin"))
                tar.unlink()
    return cifar10_binary(archive, split)


def _cifar10_zip(path: Path, split: str) -> ImageSet:
    wanted = re.compile(rf"(?:.*/)?{split}/({'|'.join(CIFAR10_CLASSES)})/[^/]+\.(?:jpg|png)")
    members, contents = list_members(path, lambda member: wanted.fullmatch(member) is not None)
    if not members:
        raise _wrong_layout(path, f"{split}/CLASS/NAME.jpg with the classes {', '.join(CIFAR10_CLASSES)}")
    return ImageSet(
        name="cifar10",
        labels=CIFAR10_CLASSES,
        targets=tuple((CIFAR10_CLASSES.index(member.split("/")[-2]),) for member in members),
        names=tuple("/".join(member.split("/")[-2:]) for member in members),
        licence=CIFAR10_LICENCE,
        source=f"CIFAR-10 {split}, as JPEG or PNG in {path.name} of $EDGE_LAB_DATA",
        fingerprint=hash_of("cifar10", split, *members, *contents),
        read=ZipReader(str(path), tuple(members)),
    )


def cifar10_binary(archive: Path, split: str) -> ImageSet:
    """CIFAR-10 out of a zip of its binary files, whose records are 1 label byte and 3x32x32 pixel bytes."""
    members, contents = list_members(archive, lambda member: member.split("/")[-1] in _CIFAR10_FILES[split])
    data = b"".join(read_member(str(archive), member) for member in members)
    if len(members) != len(_CIFAR10_FILES[split]) or len(data) % _CIFAR10_RECORD:
        raise _wrong_layout(archive, "data_batch_1.bin to data_batch_5.bin and test_batch.bin")
    records = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR10_RECORD)
    array = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    classes = records[:, 0].tolist()
    return ImageSet(
        name="cifar10",
        labels=CIFAR10_CLASSES,
        targets=tuple((k,) for k in classes),
        names=tuple(f"{CIFAR10_CLASSES[k]}/{i:05d}" for i, k in enumerate(classes)),
        licence=CIFAR10_LICENCE,
        source=f"CIFAR-10 {split}, binary version: {CIFAR10_URL}",
        fingerprint=hash_of("cifar10-binary", split, *members, *contents),
        read=ArrayReader(array),
        array=array,
    )


def imagenette(split: str) -> ImageSet:
    """Imagenette 2 at 320 px: photos of ten ImageNet classes that are easy to tell apart.

    9,469 train and 3,925 val images ("test" is another name for val), by Jeremy Howard (fast.ai), a subset of
    ImageNet; the project is under Apache 2.0, the photos are their owners' and for research. 342 MB to download.
    Labels and targets are those of ImageNet (1,000 classes, of which ten occur), so an ImageNet model can be evaluated
    on it as is. A pretrained model has probably seen many of these photos in training, so its accuracy is flattering.

    An `imagenette2-320.tgz` in $EDGE_LAB_DATA, or the zip that is made from it, is used instead of a download.
    """
    archive = given("imagenette2-320.zip") or cache_folder() / "imagenette" / "imagenette2-320.zip"
    if not archive.exists():
        with locked(archive):
            if not archive.exists():
                tar = given("imagenette2-320.tgz")
                tar = fetch(IMAGENETTE_URL, IMAGENETTE_SHA256, archive.with_suffix(".tgz"), local=tar)
                tar_to_zip(tar, archive, lambda member: member.endswith(".JPEG"))
                archive.with_suffix(".tgz").unlink(missing_ok=True)
    folder = "train" if split == "train" else "val"
    wanted = re.compile(rf"(?:.*/)?{folder}/({'|'.join(IMAGENETTE_CLASSES)})/[^/]+\.JPEG")
    members, contents = list_members(archive, lambda member: wanted.fullmatch(member) is not None)
    if not members:
        raise _wrong_layout(archive, f"imagenette2-320/{folder}/SYNSET/NAME.JPEG")
    return ImageSet(
        name="imagenette",
        labels=imagenet_classes(),
        targets=tuple((IMAGENETTE_CLASSES[member.split("/")[-2]],) for member in members),
        names=tuple("/".join(member.split("/")[-2:]) for member in members),
        licence=IMAGENETTE_LICENCE,
        source=f"Imagenette 2, 320 px, {folder}: {IMAGENETTE_URL}",
        fingerprint=hash_of("imagenette", folder, *members, *contents),
        read=ZipReader(str(archive), tuple(members)),
    )


def imagenet_sample() -> ImageSet:
    """One photo of each ImageNet class.

    1,000 images chosen at random by Eli Schwartz out of ImageNet; photos as in ImageNet, for research. They are
    probably from its TRAIN set: good for comparing int8 with fp32, not for absolute accuracy.

    An `imagenet_sample.zip` or `imagenet_sample_even.zip` in $EDGE_LAB_DATA (IDX_SYNSET_name.jpg) is used as it is; the
    second has 500 images, one of every even class, short side 256. Otherwise the repository is downloaded at one fixed
    commit (110 MB). GitHub publishes no checksum for such an archive, and it may pack it anew: here the transfer is
    protected by https, the commit is pinned, every member by its CRC-32, and the archive must hold exactly 1,000 images
    of 1,000 synsets.
    """
    path = given("imagenet_sample.zip") or given("imagenet_sample_even.zip")
    if path is not None:
        return _sample(path, r"(?:.*/)?(\d{3})_n\d{8}_[^/]+\.jpe?g")
    archive = cache_folder() / "imagenet-sample" / f"{SAMPLE_COMMIT}.zip"
    fetch(SAMPLE_URL, None, archive, check=_is_whole_sample)
    return _sample(archive, r"(?:.*/)?n\d{8}_[^/]+\.jpe?g")


def _sample(path: Path, pattern: str) -> ImageSet:
    """Class from the number in the name; where there is none, the place among the sorted synsets, which is the same."""
    wanted = re.compile(pattern, re.IGNORECASE)
    members, contents = list_members(path, lambda member: wanted.fullmatch(member) is not None)
    if not members:
        raise _wrong_layout(path, "IDX_SYNSET_name.jpg")
    numbers = [wanted.fullmatch(member) for member in members]
    classes = [int(m.group(1)) if m and m.re.groups else i for i, m in enumerate(numbers)]
    return ImageSet(
        name="imagenet-sample",
        labels=imagenet_classes(),
        targets=tuple((k,) for k in classes),
        names=tuple(member.split("/")[-1] for member in members),
        licence=SAMPLE_LICENCE,
        source=f"github.com/EliSchwartz/imagenet-sample-images ({path.name})",
        fingerprint=hash_of("imagenet-sample", *members, *contents),
        read=ZipReader(str(path), tuple(members)),
    )


def _is_whole_sample(path: Path) -> str:
    """Empty if the file is a zip with one JPEG of each of 1,000 synsets, else what is wrong with it."""
    try:
        members, _ = list_members(path, lambda m: m.lower().endswith((".jpeg", ".jpg")))
    except DataError as error:
        return error.why
    synsets = {m.split("/")[-1].split("_")[0] for m in members}
    good = len(members) == len(synsets) == 1000
    return "" if good else f"it holds {len(members)} images of {len(synsets)} synsets, not 1,000 of 1,000"


def given(name: str) -> Path | None:
    """Path of a file in $EDGE_LAB_DATA, or None if the variable is unset or the file is not there.

    Raises:
        DataError: the variable is set, but names no folder.
    """
    folder = os.environ.get("EDGE_LAB_DATA")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise DataError(
            f"$EDGE_LAB_DATA is {folder!r}, which is not a folder.",
            "it should name the folder that holds cifar10.zip and the other real sets.",
            "correct it, or unset it to download the sets instead.",
        )
    path = Path(folder) / name
    return path if path.is_file() else None


def _wrong_layout(path: Path, expected: str) -> DataError:
    return DataError(
        f"{path} does not hold what was expected.",
        f"it should hold {expected}.",
        "replace it with the right archive; delete it if it is in the cache folder, and it is fetched again.",
    )
