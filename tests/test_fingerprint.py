"""A bundle is reused if nothing that its answer rests on has changed, and only then (llvm/torch-mlir#4744)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edge_lab
from edge_lab import from_module
from edge_lab.capture.target import target
from edge_lab.export import sources
from edge_lab.export.fingerprint import fingerprint

PACKAGE = Path(edge_lab.__file__).parent


def key(module: nn.Module) -> str:
    spec = edge_lab.ModelSpec("net", "tensor", edge_lab.spec.TensorSpec("input", (1, 12)))
    return fingerprint(module, spec, target("linux-onnx-fp32"), [], [])


class Net(nn.Module):
    """A layer, and whatever a test puts beside it."""

    def __init__(self, change: Callable[[nn.Module], object] = lambda _: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(12, 4)
        change(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Settings:
    factor: float
    steps: tuple[int, ...] = (1, 2)


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Deep:
    def __init__(self, factor: float) -> None:
        self.inner = {"a": [Slotted(factor), np.float32(2)]}


class Whole(int):
    """A number of its own kind, with one more value."""

    about: float = 0.0


def whole(value: int, about: float = 0.0) -> Whole:
    number = Whole(value)
    number.about = about
    return number


def scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def act(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    return act


def with_parameter_note(module: nn.Module, f: float) -> None:
    module.fc.weight.factor = f  # type: ignore[union-attr]


def in_two_hooks(module: nn.Module, f: float) -> None:
    module.register_forward_pre_hook(lambda _, x: (x[0] + 1,))
    module.fc.register_forward_hook(lambda _, __, y: y * f)  # type: ignore[union-attr]


HOLDS: dict[str, Callable[[nn.Module, float], object]] = {
    "non-persistent buffer": lambda m, f: m.register_buffer("x", torch.full((4,), f), persistent=False),
    "plain tensor": lambda m, f: setattr(m, "x", torch.full((4,), f)),
    "number": lambda m, f: setattr(m, "x", f),
    "text": lambda m, f: setattr(m, "x", f"mode {f}"),
    "list": lambda m, f: setattr(m, "x", [1, [f]]),
    "dict": lambda m, f: setattr(m, "x", {"a": {"b": f}}),
    "dict of tensors": lambda m, f: setattr(m, "x", {"a": torch.full((2,), f)}),
    "number called graph": lambda m, f: setattr(m, "graph", f),
    "set": lambda m, f: setattr(m, "x", {"a", "b", f}),
    "array": lambda m, f: setattr(m, "x", np.full(3, f)),
    "array of objects": lambda m, f: setattr(m, "x", np.array([f, None], dtype=object)),
    "dataclass": lambda m, f: setattr(m, "x", Settings(f)),
    "slots": lambda m, f: setattr(m, "x", Deep(f)),
    "subclass of int": lambda m, f: setattr(m, "x", whole(3, f)),
    "closure": lambda m, f: setattr(m, "x", scaled(f)),
    "lambda's default": lambda m, f: setattr(m, "x", lambda x, f=f: x * f),
    "partial": lambda m, f: setattr(m, "x", partial(torch.mul, other=f)),
    "bound method": lambda m, f: setattr(m, "x", Settings(f).__eq__),
    "generator of random numbers": lambda m, f: setattr(m, "x", np.random.default_rng(int(f))),
    "hook": lambda m, f: m.register_forward_hook(lambda _, __, y: y * f),
    "hook of a part": in_two_hooks,
    "note on a parameter": with_parameter_note,
    "replaced forward": lambda m, f: setattr(m, "forward", scaled(f)),
    "mode of a part": lambda m, f: m.fc.train(f > 2),  # type: ignore[union-attr]
    "list of modules, unregistered": lambda m, f: setattr(m, "x", [nn.LeakyReLU(f)]),
}


@pytest.mark.parametrize("held", HOLDS)
def test_everything_that_a_module_holds_counts(held: str) -> None:
    change = HOLDS[held]
    one, again, other = (key(Net(partial(change, f=factor))) for factor in (2.0, 2.0, 5.0))
    assert one == again, "the same network again is another one"
    assert one != other


def test_what_is_only_there_once_does_not_count() -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock, self.one, self.two = threading.Lock(), object(), Deep

    def change(module: nn.Module) -> None:
        locked = Locked()
        locked.one = locked  # a circle
        module.x = locked  # type: ignore[assignment]

    assert key(Net(change)) == key(Net(change))
    nn.Linear(1, 1).register_forward_hook(lambda *_: None)  # PyTorch counts all hooks of the process
    hooked = partial(HOLDS["hook"], f=1.0)
    assert key(Net(hooked)) == key(Net(hooked))


def test_what_cannot_be_read_is_exported_again() -> None:
    module = Net(lambda m: setattr(m, "x", (i for i in range(3))))
    assert key(module) != key(module)


FACTOR = [2.0]


class ReadsAround(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum((super(ReadsAround, self).forward(y) * FACTOR[0] for y in [x]), torch.zeros(4))


def test_names_that_forward_reads_from_its_module_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(ReadsAround())
    assert before == key(ReadsAround())
    monkeypatch.setitem(globals(), "FACTOR", [5.0])
    assert key(ReadsAround()) != before


CELL = """
from torch import nn
class Cell(nn.Module):
    def forward(self, x):
        return x * 2
"""


def test_a_class_typed_into_a_notebook_counts() -> None:
    def cell(text: str) -> str:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(text, space)
        return key(space["Cell"]())

    assert cell(CELL) == cell(CELL)
    assert cell(CELL) == cell(CELL.replace("(self, x):\n", '(self, x):\n        "Twice."\n        # it is\n\n'))
    assert cell(CELL) == cell(CELL.replace("nn.Module):\n", 'nn.Module):\n    "A cell."\n'))
    assert cell(CELL) != cell(CELL.replace("x * 2", "x * 5"))


def test_scripted_and_exported_modules_count() -> None:
    class Scaled(Net):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * self.factor  # type: ignore[no-any-return]

    x = torch.zeros(1, 12)
    for form in (torch.jit.script, partial(torch.jit.trace, example_inputs=x), torch.fx.symbolic_trace):
        assert key(form(Scaled(2.0).eval())) == key(form(Scaled(2.0).eval())) != key(form(Scaled(5.0).eval()))
    exported = [torch.export.export(Scaled(factor).eval(), (x,)).module() for factor in (2.0, 2.0, 5.0)]
    assert key(exported[0]) == key(exported[1]) != key(exported[2])


NET = """
from torch import nn
from torch import tanh
from settings import act
import folder.deeper

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(12, 4)

    def forward(self, x):
        from late import last
        return last(act(self.f(x)))

def build():
    return Net()
"""
KEY = """
import sys
from edge_lab.export.fingerprint import fingerprint
from edge_lab.capture.target import target
from edge_lab.zoo import create
model = create("net.py:build", input_shape=(1, 12))
print(fingerprint(model.module, model.spec, target("linux-onnx-fp32"), [], []))
"""


def test_files_that_the_users_file_imports_count_and_their_comments_do_not(tmp_path: Path) -> None:
    files = {
        "net.py": NET.replace("build():\n", "build():\n    import torch; torch.manual_seed(0)\n"),
        "settings.py": "def act(x):\n    return x.relu()\n",
        "late.py": "def last(x):\n    return x\n",
        "folder/__init__.py": "",
        "folder/deeper.py": "from . import deepest\n",
        "folder/deepest.py": "import torch\nVALUE = 1\n",
        "stranger.py": "VALUE = 1\n",
    }

    def written(**changes: str) -> str:
        for name, text in (files | {k.replace("__", "/") + ".py": v for k, v in changes.items()}).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", KEY]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = written()
    assert written(stranger="VALUE = 2\n") == first
    assert written(settings='"""Settings."""\n\n# a comment\ndef act(x):\n    "Docs."\n    return x.relu()\n') == first
    assert written(settings="def act(x):\n    return x.tanh() * 3\n") != first
    assert written(late="def last(x):\n    return -x\n") != first
    assert written(folder__deepest="import torch\nVALUE = 2\n") != first


@pytest.mark.slow
def test_a_bundle_is_written_again_if_a_plain_tensor_changes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 12)).astype(np.float32)
    for factor in (1.0, 5.0):
        net = Net(lambda m, f=factor: m.register_buffer("x", torch.full((4,), f), persistent=False))  # type: ignore[misc]
        net.forward = lambda x, net=net: net.fc(x) * net.x  # type: ignore[assignment,method-assign,misc]
        model = from_module(net, (1, 12), name="scaled")
        bundle = edge_lab.to(model, "linux-onnx-fp32", out=tmp_path)
        np.testing.assert_allclose(edge_lab.load(bundle)(x), edge_lab.eager(model)(x), atol=1e-5)


def _taken(file: Path) -> set[Path]:
    """The files of this package that a file imports, in functions too."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_lab"):
            for name in (node.module or "", *(f"{node.module}.{a.name}" for a in node.names)):
                place = PACKAGE.parent.joinpath(*name.split("."))
                found |= {f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()}
    return found - {PACKAGE / "__init__.py"}


def test_this_packages_code_behind_a_bundle_counts() -> None:
    own = set(sources.own_files())
    names = {file.relative_to(PACKAGE).as_posix() for file in own}
    assert {
        "formats/onnx/onnx.py",
        "signals/audio.py",
        "formats/runtime.py",
        "core/files.py",
        "bundle/spec.py",
    } <= names
    reached = set().union(*map(_taken, own)) - own
    # Data sets and models count by what they give, and these only by what they say or time.
    others = ("data/", "zoo/", "train/", "quality/")
    left = [name for f in reached if not (name := f.relative_to(PACKAGE).as_posix()).startswith(others)]
    assert not left
