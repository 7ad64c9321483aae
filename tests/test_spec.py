"""Preprocessing is exact, and wrong inputs are named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from edge_lab.bundle.spec import ModelSpec, Postprocess, Preprocess, TensorSpec, postprocess, preprocess
from edge_lab.core.errors import DataError, InputError
from edge_lab.signals.image import read_image

RECIPE = Preprocess(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation="bilinear")
SPEC = ModelSpec("net", "classify", TensorSpec("image", (1, 3, 224, 224)), RECIPE)


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)).resize((width, height))


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (256, 256), (300, 1000), (100, 90)])
def test_equals_torchvisions_own_transforms(size: tuple[int, int]) -> None:
    """An independent implementation of the same recipe: resize, centre crop, normalise."""
    from torchvision import transforms

    theirs = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(RECIPE.mean, RECIPE.std),
        ]
    )
    ours, image = preprocess(picture(*size), SPEC), picture(*size)
    assert ours.shape == (1, 3, 224, 224)
    assert ours.dtype == np.float32
    offset_is_odd = (round(256 * max(size) / min(size)) - 224) % 2
    if not offset_is_odd:  # torchvision rounds half a pixel to even, we round down
        np.testing.assert_allclose(ours[0], theirs(image).numpy(), atol=1e-5)


def test_bgr_and_grey() -> None:
    image = picture(300, 260)
    rgb = preprocess(image, SPEC)
    flipped = Preprocess(256, (224, 224), RECIPE.mean[::-1], RECIPE.std[::-1], color="BGR")
    np.testing.assert_array_equal(preprocess(image, SPEC.with_(preprocess=flipped))[:, ::-1], rgb)
    grey = Preprocess(32, (28, 28), (0.0,), (1.0,), color="L")
    assert preprocess(image, SPEC.with_(preprocess=grey)).shape == (1, 1, 28, 28)


def test_paths_arrays_and_pil_images_agree(tmp_path) -> None:
    image = picture(300, 260)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(preprocess(tmp_path / "a.png", SPEC), preprocess(image, SPEC))
    np.testing.assert_array_equal(preprocess(np.asarray(image), SPEC), preprocess(image, SPEC))


def test_exif_rotation_is_applied(tmp_path) -> None:
    image = picture(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    image.save(tmp_path / "a.jpg", exif=exif)
    upright = read_image(tmp_path / "a.jpg")
    assert upright.size == ImageOps.exif_transpose(upright).size == (20, 40)  # turned once, and for all


def test_unreadable_images_are_one_error(tmp_path) -> None:
    picture(64, 64).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.jpg", "text.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            preprocess(tmp_path / name, SPEC)


def test_float_images_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        preprocess(np.zeros((224, 224, 3), np.float32), SPEC)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 224, 224)), "float64.*float32"),
        (np.zeros((1, 224, 224, 3), np.float32), "channels are last"),
        (np.zeros((1, 3, 128, 128), np.float32), "shape"),
        (np.zeros((3, 224, 224), np.float32), "shape"),
    ],
)
def test_wrong_input_says_what_is_wrong(array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=rf"(?s){words}"):
        SPEC.input.check(array)


def test_bad_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="std"):
        Preprocess(256, (224, 224), (0.0,) * 3, (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="mean"):
        Preprocess(256, (224, 224), (0.0,), (1.0,))
    with pytest.raises(InputError, match="crop"):
        Preprocess(200, (224, 224), (0.0,) * 3, (1.0,) * 3)


def test_postprocess() -> None:
    spec = SPEC.with_(labels=("cat", "dog", "bird"), postprocess=Postprocess(True, 2))
    best = postprocess(np.array([[1.0, 3.0, 2.0]], np.float32), spec)
    assert [p.label for p in best] == ["dog", "bird"]
    assert best[0].score == pytest.approx(np.exp(3) / np.exp([1, 2, 3]).sum())
    with pytest.raises(InputError, match="6 scores"):
        postprocess(np.zeros((2, 3)), spec)


def test_the_horizontal_pass_comes_first_for_tall_pictures_too() -> None:
    """Pillow 13 turns the order round for them, unless asked for one pass at a time; C++ readers keep the order."""
    recipe = Preprocess(64, (64, 64), (0.0,) * 3, (1.0,) * 3, scale=1.0, interpolation="bicubic")
    spec = ModelSpec("m", "classify", TensorSpec("x", (1, 3, 64, 64)), recipe)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 100, 3), np.uint8))
    rows = noise.resize((64, 400), Image.Resampling.BICUBIC)
    wanted = np.asarray(rows.resize((64, 256), Image.Resampling.BICUBIC))[96:160]
    assert np.array_equal(preprocess(noise, spec)[0].transpose(1, 2, 0), wanted)
