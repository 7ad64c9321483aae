"""The examples of the README run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_lab

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "README.zh-CN.md"]

_MY_MODEL = """
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if "my_" in block]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the README assumes: a folder with my_model.py and photos/."""
    (tmp_path / "my_model.py").write_text(_MY_MODEL, encoding="utf-8")
    (tmp_path / "photos").mkdir()
    assets = ROOT / "edge_lab" / "assets" / "photos"
    for source, name in (("chelsea", "cat"), ("coffee", "coffee"), ("flower", "flower")):
        shutil.copy(assets / f"{source}.jpg", tmp_path / "photos" / f"{name}.jpg")
    return tmp_path


def test_both_languages_show_the_same_examples() -> None:
    for language in ("sh", "python"):
        first, second = (_blocks(page, language) for page in PAGES)
        assert first == second != []


@pytest.mark.slow
def test_command_takes_your_own_model_to_its_targets(project: Path) -> None:
    (block,) = _blocks("README.md", "sh")
    command, *arguments = shlex.split(block.replace("\\\n", " "))
    assert command == ".venv/bin/edge-lab"
    run = subprocess.run(
        [sys.executable, "-m", "edge_lab", *arguments], cwd=project, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    kinds = {bundle.parent.name for bundle in (project / "artifacts").rglob("bundle.json")}
    assert kinds == {"xnnpack-int8", "coreml-fp16"}
    assert (project / "artifacts" / "report.html").is_file()


@pytest.mark.slow
def test_python_example_gives_an_answer(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = _blocks("README.md", "python")
    monkeypatch.chdir(project)
    scope: dict[str, object] = {
        "my_network": edge_lab.zoo.create("my_model.py:build", input_shape=(1, 3, 224, 224)).module
    }
    exec(block, scope)
    answer = scope["answer"]
    assert getattr(answer, "shape", None) == (1, 10)
