"""Training: it learns, it can be killed, and it says what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_lab import train, zoo
from edge_lab.bundle.spec import Preprocess
from edge_lab.core.errors import DataError, EdgeLabError, InputError
from edge_lab.data.images import ArrayReader, ImageSet
from edge_lab.train.pixels import batches, load_pixels

FAST = train.FitConfig(epochs=3, batch_size=16, lr=0.1, shift=1)


def stripes(n: int, seed: int, size: int = 8) -> ImageSet:
    """Two classes a tiny network learns at once: horizontal and vertical stripes, in noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    wave = (np.arange(size) % 4 < 2) * 100
    pictures = np.where(y[:, None, None] == 0, wave[None, :, None], wave[None, None, :])[..., None]
    array = (pictures + rng.integers(0, 100, (n, size, size, 3))).astype(np.uint8)
    targets = tuple((int(k),) for k in y)
    names = tuple(map(str, range(n)))
    return ImageSet(
        "stripes", ("lying", "standing"), targets, names, "CC0", "", f"{seed}", ArrayReader(array), 0, array
    )


def net(dropout: float = 0.0) -> zoo.Model:
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(8, 8, 3), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()]
    layers += [torch.nn.Dropout(dropout), torch.nn.Linear(8, 2)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    recipe = Preprocess(8, (8, 8), (0.5,) * 3, (0.25,) * 3)
    return zoo.from_module(torch.nn.Sequential(*layers), (1, 3, 8, 8), name="net", preprocess=recipe, weights="random")


def weights(model: zoo.Model) -> dict[str, object]:
    return model.module.state_dict()


def same(a: zoo.Model, b: zoo.Model) -> bool:
    return all(torch.equal(weights(a)[k], weights(b)[k]) for k in weights(a))


def test_it_learns_and_leaves_the_model_it_was_given_alone() -> None:
    model, test = net(), stripes(64, 2)
    before = {k: v.clone() for k, v in weights(model).items()}
    assert train.evaluate_module(model, test).top1 < 80
    result = train.fit(model, stripes(256, 0), stripes(64, 1), replace(FAST, epochs=5), progress=False)
    score = train.evaluate_module(result.model, test)
    assert (score.n, score.top5) == (64, 100.0)
    assert score.top1 > 95
    assert all(torch.equal(before[k], v) for k, v in weights(model).items())
    assert not result.model.module.training
    assert (result.model.spec.weights, result.model.spec.labels) == ("stripes", ("lying", "standing"))
    assert (model.spec.weights, result.model.origin) == ("random", None)
    assert len(result.history) == 5
    assert result.best_val_top1 == max(epoch.val_top1 for epoch in result.history)
    assert result.images_per_second == pytest.approx(5 * 256 / result.seconds)
    assert result.history[-1].loss < result.history[0].loss


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    sets = stripes(64, 0), stripes(16, 1)
    torch.manual_seed(1)
    one = train.fit(net(0.3), *sets, FAST, progress=False).model
    torch.manual_seed(2)
    two = train.fit(net(0.3), *sets, FAST, progress=False).model
    assert same(one, two)
    assert not same(one, train.fit(net(0.3), *sets, replace(FAST, seed=1), progress=False).model)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_train import FAST, net, stripes
from edge_lab import train
from edge_lab.train import fitting
batches, calls = fitting.batches, []

def deadly(images, config):
    calls.append(1)
    for i, batch in enumerate(batches(images, config)):
        if len(calls) == 3 and i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

fitting.batches = deadly
train.fit(net(0.3), stripes(64, 0), stripes(16, 1), FAST, checkpoint=sys.argv[1], progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill_9_in_the_middle_of_an_epoch_costs_only_that_epoch(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    here = str(Path(__file__).parent)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(checkpoint), here],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    saved = torch.load(checkpoint, weights_only=True)
    assert len(saved["history"]) == 2
    assert not saved["done"]
    sets = stripes(64, 0), stripes(16, 1)
    resumed = train.fit(net(0.3), *sets, FAST, checkpoint=checkpoint, progress=False)
    straight = train.fit(net(0.3), *sets, FAST, progress=False)
    assert len(resumed.history) == 3
    assert same(resumed.model, straight.model)
    assert [e.loss for e in resumed.history] == [e.loss for e in straight.history]


def test_a_finished_checkpoint_is_not_trained_again(tmp_path: Path) -> None:
    sets = stripes(64, 0), stripes(16, 1)
    first = train.fit(net(), *sets, FAST, checkpoint=tmp_path / "run.pt", progress=False)
    second = train.fit(net(), *sets, FAST, checkpoint=tmp_path / "run.pt", progress=False)
    assert same(first.model, second.model)
    assert second.history == first.history


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    sets, path = (stripes(64, 0), stripes(16, 1)), tmp_path / "run.pt"
    train.fit(net(), *sets, FAST, checkpoint=path, progress=False)
    with pytest.raises(DataError, match=r"lr was 0.1, now 0.2"):
        train.fit(net(), *sets, replace(FAST, lr=0.2), checkpoint=path, progress=False)
    with pytest.raises(DataError, match="data was '0', now '7'"):
        train.fit(net(), stripes(64, 7), sets[1], FAST, checkpoint=path, progress=False)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="can't be read"):
        train.fit(net(), *sets, FAST, checkpoint=path, progress=False)


def test_a_loss_that_explodes_is_one_clear_error() -> None:
    with pytest.raises(EdgeLabError, match="training broke in epoch") as caught:
        train.fit(net(), stripes(256, 0), stripes(16, 1), replace(FAST, lr=1e30), progress=False)
    assert "lr=1e+29" in caught.value.fix


def test_a_time_budget_ends_the_run_with_the_learning_rate_at_zero() -> None:
    config = replace(FAST, epochs=10_000, max_seconds=0.3)
    result = train.fit(net(), stripes(64, 0), stripes(16, 1), config, progress=False)
    assert len(result.history) < 10_000
    assert result.seconds < 5


def test_wrong_models_and_sets_are_refused() -> None:
    sets = stripes(16, 0), stripes(16, 1)
    three = replace(sets[0], labels=("a", "b", "c"))
    with pytest.raises(InputError, match="2 outputs, stripes has 3 classes"):
        train.fit(net(), three, sets[1], FAST, progress=False)
    unknown = replace(sets[0], targets=((),) * 16)
    with pytest.raises(InputError, match="no labels"):
        train.fit(net(), unknown, sets[1], FAST, progress=False)
    with pytest.raises(InputError, match="no labels"):
        train.evaluate_module(net(), unknown)
    with pytest.raises(InputError, match="can't be trained or scored"):
        train.scores(zoo.from_module(torch.nn.Linear(8, 2), (1, 8)), sets[0])
    with pytest.raises(InputError, match="can't be used"):
        train.FitConfig(epochs=0)


def test_training_sees_what_preprocess_gives() -> None:
    """Whatever the resize, crop and scale: a batch equals edge_lab.preprocess on each image."""
    from edge_lab.bundle.spec import preprocess

    images = stripes(4, 3, size=20)
    model = net()
    recipe = Preprocess(10, (8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), interpolation="bicubic")
    spec = model.spec.with_(preprocess=recipe)
    pixels = load_pixels(images, spec)
    expected = np.concatenate([preprocess(image, spec) for image in images])
    np.testing.assert_allclose(pixels.normalised(pixels.x).numpy(), expected, atol=1e-6)


def test_augmentation_moves_pictures_and_keeps_their_labels() -> None:
    images = stripes(32, 4)
    pixels = load_pixels(images, net().spec)
    (x, y) = next(batches(pixels, replace(FAST, batch_size=32, shift=2)))
    still = next(batches(pixels, replace(FAST, batch_size=32, shift=0)))[0]
    assert sorted(y.tolist()) == sorted(images.y.tolist())
    assert torch.equal(still.flatten(1).sort(0)[0], pixels.normalised(pixels.x).flatten(1).sort(0)[0])
    assert not torch.equal(x.flatten(1).sort(0)[0], still.flatten(1).sort(0)[0])


def test_several_right_answers_count_and_unknown_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    images = replace(stripes(4, 5), targets=((0, 1), (1,), (0,), ()), labels=tuple("abcdefg"))
    rows = np.eye(7, dtype=np.float32)[[1, 1, 6, 0]] + np.linspace(0, 0.1, 7, dtype=np.float32)
    monkeypatch.setattr("edge_lab.train.scoring.scores", lambda *_: rows)
    score = train.evaluate_module(net(), images)
    assert (score.n, round(score.top1, 1), round(score.top5, 1)) == (3, 66.7, 66.7)


def test_a_trained_model_can_be_saved_and_built_again(tmp_path: Path) -> None:
    model = zoo.create("tinynet", labels=["lying", "standing"])
    result = train.fit(model, stripes(32, 0, 32), stripes(16, 1, 32), replace(FAST, epochs=1), progress=False)
    saved = result.save(tmp_path / "net.pt")
    again = zoo.create(saved.origin or "")
    assert same(again, result.model)
    assert (again.spec.weights, again.spec.labels) == ("stripes", ("lying", "standing"))
