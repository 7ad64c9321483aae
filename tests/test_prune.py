"""Pruning: what is removed, what stays equal, what is refused, and that training goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_lab import train, zoo
from edge_lab.bundle.spec import Preprocess
from edge_lab.compress import Structured, Unstructured, finetune, prune, prune_report, refresh_norm, sparsity
from edge_lab.core.errors import InputError
from edge_lab.data.images import ArrayReader, ImageSet

nn = torch.nn

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """A stem, a bottleneck with a depthwise layer around which the input is added, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.wide = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64))
        self.narrow = nn.Conv2d(64, 32, 1)
        self.head = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.narrow(self.depth(self.wide(x)))
        return self.head(torch.relu(x).mean((2, 3)))


class FixedWidth(nn.Module):
    """Its forward method counts on 32 channels, as hand-written attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 32, 3, 2, 1), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).view(x.shape[0], 4, 8, -1).mean(3).view(x.shape[0], 32))


class TwoHeads(nn.Module):
    """Two outputs; one is the sum of two layers, so that both of these are output layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 32, 3, 2, 1)
        self.boxes, self.left, self.right = (nn.Conv2d(32, n, 1) for n in (8, 16, 16))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.body(x))
        return self.boxes(x).flatten(2), self.left(x) + self.right(x)


def model(module: nn.Module | None = None, **more: object) -> zoo.Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = module or Residual()
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    recipe = Preprocess(16, (16, 16), (0.5,) * 3, (0.25,) * 3)
    return zoo.from_module(module, (1, 3, 16, 16), name="net", preprocess=recipe, **more)


def test_half_the_channels_are_really_gone() -> None:
    before = model()
    pruned = prune(before, Structured(0.5))
    report = prune_report(before, pruned)
    assert {row.name: row.outputs for row in report.layers} == {
        "stem": (32, 16),
        "wide.0": (64, 32),
        "depth.0": (64, 32),
        "narrow": (32, 16),
        "head": (2, 2),
    }
    assert pruned.module(X).shape == (2, 2)
    assert report.params[0] > 2 * report.params[1]
    assert report.macs == (
        32 * 27 * 64 + 64 * 32 * 64 * 2 + 64 * 9 * 64 + 64,
        16 * 27 * 64 + 32 * 16 * 128 + 32 * 576 + 32,
    )
    assert "narrow" in str(report)
    assert "total" in str(report)
    assert pruned.origin is None
    assert not pruned.module.training


def test_the_model_passed_in_is_not_changed() -> None:
    before = model()
    weights = {k: v.clone() for k, v in before.module.state_dict().items()}
    for config in (Structured(0.5), Unstructured(0.5)):
        prune(before, config)
        after = before.module.state_dict()
        assert list(after) == list(weights)
        assert all(torch.equal(after[k], weights[k]) for k in weights)


def test_the_channels_of_least_norm_go() -> None:
    before = model(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(2304, 2))
    )
    first = before.module[0]
    with torch.no_grad():
        before.module[2].weight.fill_(0.01)
        first.weight.copy_(torch.arange(16.0)[torch.randperm(16)].view(-1, 1, 1, 1).expand_as(first.weight))
    left = prune(before, Structured(0.5, round_to=1)).module[0].weight[:, 0, 0, 0]
    assert sorted(left.tolist()) == list(range(8, 16))


def test_channels_that_do_nothing_cost_nothing() -> None:
    before = model()
    module = before.module
    with torch.no_grad():  # channels 0, 2, 4... of the wide part are dead
        for layer in (module.wide[0], module.wide[1], module.depth[0], module.depth[1]):
            layer.weight[::2] = 0
        module.wide[1].bias[::2] = module.depth[1].bias[::2] = 0
        module.narrow.weight[:, ::2] = 0
    pruned = prune(before, Structured(0.5, keep=("stem", "narrow")))
    assert pruned.module.wide[0].out_channels == 32
    assert pruned.module.stem.out_channels == 32
    assert torch.allclose(pruned.module(X), module(X), atol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "round_to", "left"), [(0.5, 8, 16), (0.25, 8, 24), (0.3, 8, 24), (0.3, 1, 22), (0.9, 8, 8), (0.97, 1, 1)]
)
def test_channels_left_are_rounded_and_never_none(ratio: float, round_to: int, left: int) -> None:
    assert prune(model(), Structured(ratio, round_to=round_to)).module.stem.out_channels == left


def test_every_output_layer_keeps_its_channels() -> None:
    pruned = prune(model(TwoHeads(), task="tensor"), Structured(0.5))
    boxes, sums = pruned.module(X)
    assert pruned.module.body.out_channels == 16
    assert boxes.shape == (2, 8, 64)
    assert sums.shape == (2, 16, 8, 8)


def test_mobilenet_with_squeeze_and_excite() -> None:
    before = zoo.create("mobilenet_v3_small", weights="random", input_shape=(1, 3, 64, 64))
    pruned = prune(before, Structured(0.5))
    report = prune_report(before, pruned)
    assert report.macs[0] > 2.5 * report.macs[1]
    assert all(row.outputs[1] % 8 == 0 for row in report.layers)
    assert pruned.module(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_another_process_can_load_a_pruned_model(tmp_path: Path) -> None:
    trained = prune(model(), Structured(0.5))
    zoo.save(trained, tmp_path / "pruned.pt")
    other = zoo.Model(Residual(), model().spec)  # other weights: the shapes don't depend on them
    pruned = prune(other, Structured(0.5))
    pruned.module.load_state_dict(torch.load(tmp_path / "pruned.pt", weights_only=True)["state_dict"])
    assert torch.equal(pruned.module(X), trained.module(X))


def test_random_channels_are_the_same_every_time() -> None:
    config = Structured(0.5, importance="random")
    first, second = (prune(model(), config).module(X) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, prune(model(), Structured(0.5)).module(X))


def test_frozen_layers_stay_frozen() -> None:
    before = model()
    before.module.stem.requires_grad_(False)
    parameters = dict(prune(before, Structured(0.5)).module.named_parameters())
    assert {k for k, p in parameters.items() if not p.requires_grad} == {"stem.weight", "stem.bias"}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_zeros_in_a_network_of_the_same_size(scope: str) -> None:
    before = model()
    pruned = prune(before, Unstructured(0.75, scope))
    assert sparsity(pruned) == pytest.approx(0.75, abs=0.01)
    assert {k: v.shape for k, v in pruned.module.state_dict().items()} == {
        k: v.shape for k, v in before.module.state_dict().items()
    }
    kept = pruned.module.narrow.weight != 0
    assert torch.equal(pruned.module.narrow.weight[kept], before.module.narrow.weight[kept])
    share = 1 - kept.float().mean().item()
    assert (share == pytest.approx(0.75, abs=0.01)) == (scope == "layer")


def stripes(n: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    wave = (np.arange(16) % 4 < 2) * 100
    pictures = np.where(y[:, None, None] == 0, wave[None, :, None], wave[None, None, :])[..., None]
    array = (pictures + rng.integers(0, 100, (n, 16, 16, 3))).astype(np.uint8)
    targets, names = tuple((int(k),) for k in y), tuple(map(str, range(n)))
    return ImageSet(
        "stripes", ("lying", "standing"), targets, names, "CC0", "", f"{seed}", ArrayReader(array), 0, array
    )


CONFIG = train.FitConfig(epochs=2, batch_size=16, lr=0.05)


@pytest.mark.parametrize("config", [Unstructured(0.6), Structured(0.5)])
def test_finetuning_learns_and_goes_on_after_a_stop(tmp_path: Path, config: Unstructured | Structured) -> None:
    pruned, learn, val = prune(model(), config), stripes(192, 0), stripes(64, 1)
    whole = finetune(pruned, learn, val, CONFIG, progress=False)
    assert whole.history[-1].val_top1 > 90
    stopped = _stop_after_one_epoch(pruned, learn, val, tmp_path / "run.pt")
    assert len(stopped) == 1
    resumed = finetune(pruned, learn, val, CONFIG, checkpoint=tmp_path / "run.pt", progress=False)
    assert torch.equal(resumed.model.module(X), whole.model.module(X))
    assert sparsity(whole.model) == pytest.approx(sparsity(pruned))
    assert set(whole.model.module.state_dict()) == set(pruned.module.state_dict())


def test_batch_norms_are_measured_anew() -> None:
    before, pictures = model(), stripes(200, 0)
    fresh = refresh_norm(before, pictures)
    seen: list[torch.Tensor] = []
    hook = fresh.module.wide[0].register_forward_hook(lambda _, __, out: seen.append(out))
    train.scores(fresh, pictures)
    hook.remove()
    arriving, norm = torch.cat(seen), fresh.module.wide[1]
    assert torch.allclose(norm.running_mean, arriving.mean((0, 2, 3)), atol=1e-3)
    assert torch.allclose(norm.running_var, arriving.var((0, 2, 3)), rtol=0.05)
    assert norm.momentum == before.module.wide[1].momentum
    assert torch.equal(before.module.wide[1].running_mean, torch.zeros(64))
    assert not norm.training
    with pytest.raises(InputError, match=r"can't be refreshed"):
        refresh_norm(before, stripes(50, 0))
    with pytest.raises(InputError, match="0 of them"):
        refresh_norm(model(FixedWidth()), pictures)


def _stop_after_one_epoch(pruned: zoo.Model, learn: ImageSet, val: ImageSet, path: Path) -> list[dict[str, object]]:
    """Run the fine-tuning, and stop it when the first checkpoint has been written."""
    from edge_lab.train import fitting

    class Stopped(Exception):
        pass

    original = fitting._Run.save

    def save_and_stop(run: fitting._Run, where: Path) -> None:
        original(run, where)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting._Run, "save", save_and_stop)
        with pytest.raises(Stopped):
            finetune(pruned, learn, val, CONFIG, checkpoint=path, progress=False)
    history: list[dict[str, object]] = torch.load(path, weights_only=True)["history"]
    return history


@pytest.mark.parametrize(
    "make",
    [
        lambda: Structured(0.0),
        lambda: Structured(1.0),
        lambda: Structured(-0.5),
        lambda: Structured(50),
        lambda: Structured(float("nan")),
        lambda: Structured(round_to=0),
        lambda: Structured(importance="best"),
        lambda: Unstructured(1.0),
        lambda: Unstructured(scope="everywhere"),
    ],
)
def test_configs_that_can_not_be_used(make: object) -> None:
    with pytest.raises(InputError, match=r"(?s)why: .*fix: "):
        make()  # type: ignore[operator]


def test_nothing_to_prune() -> None:
    only_a_head = model(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)))
    with pytest.raises(InputError, match="nothing in net can be pruned"):
        prune(only_a_head, Structured(0.5))
    with pytest.raises(InputError, match="nothing in net can be pruned"):
        prune(model(nn.Sequential(nn.AvgPool2d(16), nn.Flatten())), Unstructured(0.5))
    with pytest.raises(InputError, match="no layer is wide enough"):
        prune(model(nn.Sequential(nn.Conv2d(3, 8, 16), nn.Flatten(), nn.Linear(8, 2))), Structured(0.5))


def test_a_forward_method_with_fixed_widths_is_refused() -> None:
    with pytest.raises(InputError, match="does not work with fewer channels") as caught:
        prune(model(FixedWidth()), Structured(0.5))
    assert "keep" in caught.value.fix


def test_a_layer_to_keep_must_exist() -> None:
    with pytest.raises(InputError, match=r"(?s)'stm'.*stem, wide\.0"):
        prune(model(), Structured(0.5, keep=("stm",)))


def test_broken_weights_and_recorded_graphs_are_refused() -> None:
    broken = model()
    with torch.no_grad():
        broken.module.narrow.weight[0, 0] = float("nan")
    for config in (Structured(0.5), Unstructured(0.5)):
        with pytest.raises(InputError, match=r"1 numbers in narrow\.weight"):
            prune(broken, config)
    graph = torch.export.export(model().module, (X,)).module()
    with pytest.raises(InputError, match="recorded graph"):
        prune(replace(model(), module=graph), Structured(0.5))


def test_a_report_needs_one_network() -> None:
    with pytest.raises(InputError, match="not one network"):
        prune_report(model(), model(TwoHeads(), task="tensor"))
