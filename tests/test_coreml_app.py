"""Core ML packages for apps: pictures in, labels out, other sizes; checked by interpreting the saved file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import data, zoo
from edge_lab.bundle.spec import Preprocess
from edge_lab.core.errors import EdgeLabError, ExportError, InputError
from edge_lab.formats.coreml.app import AppInterface, app_package, unique_labels
from edge_lab.measure import load_mil

CHECKPOINT = Path(__file__).parents[1] / "labs" / "checkpoints" / "tinynet-digits.safetensors"


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    made = zoo.create("tinynet", weights=CHECKPOINT)
    other = Preprocess(32, (32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # a scale for each channel
    return replace(made, spec=replace(made.spec, preprocess=other))


def _pixels(image: object) -> np.ndarray:
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None]


def test_a_picture_goes_in_and_its_label_comes_out(model: zoo.Model, tmp_path: Path) -> None:
    path = app_package(model, tmp_path / "digits.mlpackage")
    program = load_mil(path)
    assert program.operators["classify"] == 1
    images, session = data.load("digits", limit=20), edge_lab.eager(model)
    for image in (images[i] for i in range(20)):
        label, scores = program.run(**{program.inputs[0]: _pixels(image)})
        wanted = torch.from_numpy(session(edge_lab.preprocess(image, model.spec))).softmax(-1).numpy()
        np.testing.assert_allclose(scores, wanted, atol=0.02)
        assert str(label) == model.spec.labels[int(wanted.argmax())]


def test_other_sizes_compute_what_pytorch_computes(model: zoo.Model, tmp_path: Path) -> None:
    interface = AppInterface(labels=False, sizes=((64, 64), (48, 32)), precision="fp32")
    program = load_mil(app_package(model, tmp_path / "free.mlpackage", interface))
    rng, p = np.random.default_rng(0), model.spec.preprocess
    assert p is not None
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (p.mean, p.std))
    for size in ((32, 32), (64, 64), (48, 32)):
        pixels = rng.integers(0, 256, (1, 3, *size)).astype(np.float32)
        (found,) = program.run(**{program.inputs[0]: pixels})
        with torch.no_grad():
            wanted = model.module(torch.from_numpy((pixels / 255 - mean) / std)).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_network_with_a_fixed_size_is_refused_for_others(tmp_path: Path) -> None:
    preprocess = Preprocess(8, (8, 8), (0.5,) * 3, (0.5,) * 3)
    fixed = zoo.from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
        input_shape=(1, 3, 8, 8),
        labels=("a", "b"),
        preprocess=preprocess,
    )
    with pytest.raises(ExportError, match="can't be exported to a Core ML package"):
        app_package(fixed, tmp_path / "fixed.mlpackage", AppInterface(sizes=((16, 16),)))
    assert not list(tmp_path.iterdir())


def test_what_has_no_pictures_or_labels_is_refused(model: zoo.Model, tmp_path: Path) -> None:
    unnamed = replace(model, spec=replace(model.spec, labels=()))
    with pytest.raises(InputError, match="has no labels"):
        app_package(unnamed, tmp_path / "m.mlpackage")
    with pytest.raises(InputError, match="can't take pictures"):
        app_package(replace(model, spec=replace(model.spec, preprocess=None)), tmp_path / "m.mlpackage")
    with pytest.raises(EdgeLabError, match="can't be written"):
        app_package(model, tmp_path / "missing" / "m.mlpackage")
    with pytest.raises(EdgeLabError, match="can't be written"):
        app_package(model, tmp_path / "m.mlmodel")


def test_labels_become_unique_keys() -> None:
    assert unique_labels(("crane", "dog", "crane")) == ["crane (0)", "dog", "crane (2)"]
