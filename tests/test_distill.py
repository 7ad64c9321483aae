"""Distillation: the loss is the published one, the teacher teaches, its cache is trustworthy, errors are clear."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_train import FAST, net, same, stripes

from edge_lab import data, train, zoo
from edge_lab.bundle.spec import Preprocess
from edge_lab.compress.distillation.distill import Distill, distill, distillation_loss, feature_loss, keep_labels
from edge_lab.compress.distillation.teacher import TeacherCache, last_map, teacher_cache
from edge_lab.core.errors import DataError, EdgeLabError, InputError
from edge_lab.data.images import ImageSet

CONFIG = Distill(fit=FAST)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def teacher() -> zoo.Model:
    config = replace(FAST, epochs=5)
    return train.fit(net(), stripes(256, 0), stripes(64, 1), config, progress=False).model


def softmax(rows: np.ndarray) -> np.ndarray:
    e = np.exp(rows - rows.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_loss_is_hintons_formula() -> None:
    rng = np.random.default_rng(0)
    own, theirs = (rng.standard_normal((6, 3)) * 3 for _ in range(2))
    y = np.array([0, 1, 2, -1, -1, 0])
    p, q = softmax(theirs / 4), softmax(own / 4)
    soft = 16 * (p * (np.log(p) - np.log(q))).sum(1)
    hard = np.array([-np.log(softmax(own)[i, k]) if k >= 0 else 0 for i, k in enumerate(y)])
    config = Distill(temperature=4, alpha=0.7, fit=replace(FAST, label_smoothing=0))
    loss = distillation_loss(*(torch.tensor(v) for v in (own, theirs, y)), config)
    assert loss.item() == pytest.approx((0.7 * soft + 0.3 * hard).mean())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_batch_without_a_label_is_no_trouble(alpha: float) -> None:
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    y = torch.full((4,), -1)
    assert distillation_loss(logits, logits, y, Distill(alpha=alpha)).item() == pytest.approx(0, abs=1e-6)


def test_features_that_match_cost_nothing_whatever_their_scale_and_grid() -> None:
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    projection = torch.nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        projection.weight.copy_(1000 * torch.eye(3)[:, :, None, None])
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, 2)
    assert feature_loss(maps, 1000 * pooled, projection).item() == pytest.approx(0, abs=1e-9)
    assert feature_loss(maps, -1000 * pooled, projection).item() == pytest.approx(4)


def test_the_last_feature_map_is_found_in_known_networks() -> None:
    assert last_map(zoo.create("tinynet")) == ("blocks", 128)
    assert last_map(zoo.create("mobilenet_v3_small", weights="random", input_shape=(1, 3, 96, 96))) == ("features", 576)
    flat = zoo.from_module(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), (1, 3, 8, 8))
    with pytest.raises(InputError, match="no feature map"):
        last_map(flat)


@pytest.mark.parametrize("features", [None, 1.0])
@pytest.mark.parametrize("cached", [False, True])
def test_a_student_learns_classes_from_a_teacher_alone(
    teacher: zoo.Model, cached: bool, features: float | None
) -> None:
    """Not one label: whatever the student knows, the teacher told it."""
    images, student = keep_labels(stripes(256, 3), 0), net()
    config = Distill(alpha=1.0, features=features, fit=replace(FAST, epochs=5, lr=0.02))
    before = {k: v.clone() for m in (student, teacher) for k, v in m.module.state_dict().items()}
    source: zoo.Model | TeacherCache = teacher
    if cached:
        source = teacher_cache(teacher, student, images, config.fit, views=2, features=features is not None)
    result = distill(student, source, images, stripes(64, 1), config, progress=False)
    assert train.evaluate_module(result.model, stripes(64, 2)).top1 > 95
    after = {k: v for m in (student, teacher) for k, v in m.module.state_dict().items()}
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert set(result.model.module.state_dict()) == set(student.module.state_dict())  # no projection left
    assert not any(m._forward_hooks for model in (teacher, result.model) for m in model.module.modules())
    assert all(p.is_contiguous() for p in result.model.module.parameters())  # channels-last weights break exporters
    assert result.model.spec.weights == "stripes, distilled from net"
    assert all(epoch.images == 256 for epoch in result.history)


def test_a_teacher_of_another_size_is_asked_at_its_own(teacher: zoo.Model) -> None:
    recipe = Preprocess(16, (16, 16), (0.5,) * 3, (0.25,) * 3)
    large = zoo.from_module(teacher.module, (1, 3, 16, 16), name="large", preprocess=recipe)
    cache = teacher_cache(large, net(), stripes(8, 0), replace(FAST, shift=0), views=1)
    with torch.inference_mode():
        x = torch.from_numpy(stripes(8, 0).pixels.transpose(0, 3, 1, 2).copy()).float()
        x = torch.nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True)
        expected = teacher.module((x / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(cache.logits[0], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_student_and_a_killed_run_goes_on(teacher: zoo.Model, tmp_path: Path) -> None:
    sets, config = (stripes(64, 0), stripes(16, 1)), replace(CONFIG, features=0.5)
    straight = distill(net(), teacher, *sets, config, progress=False)
    path = tmp_path / "run.pt"

    class Killed(Exception):
        pass

    epochs = 0

    def dying(module: object, _inputs: object) -> None:
        nonlocal epochs
        epochs += getattr(module, "training")  # noqa: B009
        if epochs > 2 * 4:  # in the third epoch of four steps each
            raise Killed

    student = net()
    student.module.register_forward_pre_hook(dying)
    with pytest.raises(Killed):
        distill(student, teacher, *sets, config, checkpoint=path, progress=False)
    resumed = distill(net(), teacher, *sets, config, checkpoint=path, progress=False)
    assert len(resumed.history) == 3
    assert same(resumed.model, straight.model)
    with pytest.raises(DataError, match=r"temperature was 4.0, now 2"):
        distill(net(), teacher, *sets, replace(config, temperature=2), checkpoint=path, progress=False)
    with pytest.raises(DataError, match="belongs to another run"):
        train.fit(net(), *sets, config.fit, checkpoint=path, progress=False)


def test_a_cache_is_asked_once_and_seeds_share_it(teacher: zoo.Model, tmp_path: Path) -> None:
    calls: list[int] = []
    handle = teacher.module.register_forward_hook(lambda *_: calls.append(1))
    images = stripes(32, 0)
    first = teacher_cache(teacher, net(), images, FAST, views=3, folder=tmp_path)
    asked = len(calls)
    again = teacher_cache(teacher, net(), images, replace(FAST, seed=9, lr=0.5), views=3, folder=tmp_path)
    distill(net(), again, images, stripes(16, 1), CONFIG, progress=False)
    handle.remove()
    assert asked == len(calls) == 3
    assert first.logits.shape == (3, 32, 2)
    np.testing.assert_array_equal(first.logits, again.logits)
    assert len(list(tmp_path.glob("teacher-*.npz"))) == 1
    other = teacher_cache(net(), net(), images, FAST, views=3, folder=tmp_path)  # other weights: another file
    assert not np.array_equal(first.logits, other.logits)
    assert len(list(tmp_path.glob("teacher-*.npz"))) == 2


def test_a_cache_holds_what_the_teacher_says_about_exactly_the_views_it_describes(teacher: zoo.Model) -> None:
    from edge_lab.train.pixels import load_pixels, move

    images = stripes(32, 0)
    cache = teacher_cache(teacher, net(), images, replace(FAST, shift=2, flip=True), views=2, features=True)
    pixels = load_pixels(images, teacher.spec)
    with torch.inference_mode():
        for view in range(2):
            expected = teacher.module(pixels.normalised(move(pixels.x, cache.moves(view)))).numpy()
            np.testing.assert_allclose(cache.logits[view], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(cache.down).max() == 2
    assert 0 < cache.mirrored.mean() < 1
    assert cache.features is not None
    assert cache.features.shape == (2, 32, 8)


def test_a_damaged_cache_is_refused(teacher: zoo.Model, tmp_path: Path) -> None:
    images = stripes(32, 0)
    teacher_cache(teacher, net(), images, FAST, folder=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    for content in (bytes(whole), bytes(whole[:300]), b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="can't be used") as caught:
            teacher_cache(teacher, net(), images, FAST, folder=tmp_path)
        assert "delete it" in caught.value.fix
    path.unlink()
    np.savez(path, logits=np.array([{}], dtype=object))  # a pickle inside is never opened
    with pytest.raises(DataError, match="can't be used"):
        teacher_cache(teacher, net(), images, FAST, folder=tmp_path)


def test_a_cache_of_another_run_is_refused(teacher: zoo.Model) -> None:
    images, val = stripes(32, 0), stripes(16, 1)
    cache = teacher_cache(teacher, net(), images, FAST)
    with pytest.raises(DataError, match="data: 0 in the cache, now 7"):
        distill(net(), cache, stripes(32, 7), val, CONFIG, progress=False)
    with pytest.raises(DataError, match=r"shift=1, flip=False in the cache, now shift=2"):
        distill(net(), cache, images, val, Distill(fit=replace(FAST, shift=2)), progress=False)
    with pytest.raises(InputError, match="no features"):
        distill(net(), cache, images, val, replace(CONFIG, features=1.0), progress=False)


def test_configs_that_mean_nothing_are_refused() -> None:
    for wrong in ({"temperature": 0.0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"alpha": 1.1}):
        with pytest.raises(InputError, match="can't be used"):
            Distill(**wrong)
    for wrong in ({"alpha": -0.1}, {"alpha": float("nan")}, {"features": 0.0}, {"features": float("inf")}):
        with pytest.raises(InputError, match="can't be used"):
            Distill(**wrong)


def test_pairs_that_do_not_fit_are_refused(teacher: zoo.Model) -> None:
    sets = stripes(32, 0), stripes(16, 1)
    three = zoo.from_module(
        torch.nn.Sequential(torch.nn.Conv2d(3, 3, 8), torch.nn.Flatten()),
        (1, 3, 8, 8),
        name="three",
        preprocess=net().spec.preprocess,
    )
    with pytest.raises(InputError, match="three has 3 classes, net has 2, stripes has 2"):
        distill(net(), three, *sets, CONFIG, progress=False)
    with pytest.raises(InputError, match="net has 2 classes, three has 3"):
        distill(three, teacher, *sets, CONFIG, progress=False)
    cache = teacher_cache(teacher, three, sets[0], FAST)
    with pytest.raises(InputError, match="cached teacher has 2 classes, three has 3"):
        distill(three, cache, *sets, CONFIG, progress=False)
    with pytest.raises(InputError, match="can't teach"):
        distill(net(), zoo.from_module(torch.nn.Linear(8, 2), (1, 8)), *sets, CONFIG, progress=False)
    with pytest.raises(InputError, match="views=0"):
        teacher_cache(teacher, net(), sets[0], FAST, views=0)


def test_a_teacher_that_answers_nan_is_refused(teacher: zoo.Model) -> None:
    broken = net()
    with torch.no_grad():
        list(broken.module.parameters())[-1].fill_(float("nan"))
    images, val = stripes(32, 0), stripes(16, 1)
    with pytest.raises(EdgeLabError, match="answers NaN"):
        distill(net(), broken, images, val, CONFIG, progress=False)
    with pytest.raises(EdgeLabError, match="answers NaN"):
        teacher_cache(broken, net(), images, FAST)


def test_labels_can_be_hidden() -> None:
    images: ImageSet = stripes(100, 0)
    few = keep_labels(images, 10)
    assert [i for i, t in enumerate(few.targets) if t] == list(range(0, 100, 10))
    assert few.fingerprint != images.fingerprint != keep_labels(images, 11).fingerprint
    assert len(few) == 100
    assert sum(map(bool, keep_labels(images, 1000).targets)) == 100
    with pytest.raises(InputError, match="can't be kept"):
        keep_labels(images, -1)


@pytest.mark.parametrize(
    ("dataset", "least"), [("digits", 95), pytest.param("cifar10", 75, marks=pytest.mark.real_data)]
)
def test_the_teachers_that_are_shipped_know_their_subject(dataset: str, least: int) -> None:
    images = data.load(dataset, "test", limit=400)
    path = ROOT / "labs" / "checkpoints" / f"teacher_{dataset}.safetensors"
    teacher = zoo.create("tinynet", weights=str(path), labels=images.labels)
    assert train.evaluate_module(teacher, images).top1 > least


@pytest.mark.slow
def test_results_have_a_row_for_every_kind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = _tool("distill_results")
    monkeypatch.setattr(tool, "CACHE", tmp_path)
    tiny = "--pictures 60 --labels 20 --test 20 --steps 2 --batch 20 --views 1 --seeds 0 --width 4"
    assert tool.main(tiny.split()) == 0
    rows = capsys.readouterr().out
    assert all(f"\n{kind} " in rows for kind in tool.KINDS)


@pytest.mark.slow
def test_a_frozen_network_with_a_new_head_answers_what_the_head_was_taught() -> None:
    """The head reads the features that the teacher cache keeps; as a teacher it stands on the network itself."""
    images = data.load("digits", "val", limit=50)
    teacher = _tool("distill_results").probe(images, replace(FAST, shift=0), 1)
    assert train.evaluate_module(teacher, images).top1 > 90
    assert last_map(teacher)[1] == 1280


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
