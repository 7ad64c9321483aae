"""`import edge_lab` is light, its names are complete, and modules import only what stands before them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_lab

PACKAGE = Path(edge_lab.__file__).parent
HEAVY = (
    "torch",
    "torchvision",
    "torchao",
    "executorch",
    "onnx",
    "onnxruntime",
    "coremltools",
    "timm",
    "matplotlib",
    "PIL",
)

# A module imports only from its own row and the rows above.
LAYERS = (
    ("core",),
    ("signals",),
    ("bundle",),
    ("data",),
    ("zoo",),
    ("train",),
    ("compress",),
    ("capture",),
    ("formats",),
    ("quality",),
    ("export",),
    ("results",),
    ("measure",),
    ("decide",),
    ("report",),
    ("clinic", "peers", "widgets"),
    ("flow",),
    ("sweep",),
    ("devices",),
    ("cli",),
    ("__main__",),
)


def _python(code: str) -> str:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, typing; before = set(sys.modules); import edge_lab; print(sorted(set(sys.modules) - before))"
    assert _python(code) == "['edge_lab']"  # so that it takes milliseconds on any machine


def test_the_command_line_starts_without_heavy_packages() -> None:
    code = f"import sys; from edge_lab.cli import main as cli; cli.main(['--version']); print([m for m in {HEAVY} if m in sys.modules])"  # noqa: E501
    assert _python(code).splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "report",
        "measure",
        "data",
        "zoo",
        "export",
        "formats.runtime",
        "flow",
        "flow.check",
        "flow.bench",
        "clinic.doctor",
    ],
)
def test_no_module_loads_torch_when_imported(module: str) -> None:
    code = f"import sys, edge_lab.{module}; print([m for m in {HEAVY[:-1]} if m in sys.modules])"
    assert _python(code) == "[]"


def test_every_public_name_is_there_and_only_those() -> None:
    names = {*edge_lab._HOME, *edge_lab._MODULES, "__version__"}
    assert set(edge_lab.__all__) == names
    assert names <= set(dir(edge_lab))
    for name in names:
        assert getattr(edge_lab, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        edge_lab.no_such_name  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {a.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for a in node.names}
    assert seen | {"__version__"} == set(edge_lab.__all__)


def _imports(tree: ast.AST) -> Iterator[str]:
    """First part of every edge_lab module that is imported, also in functions, but not under TYPE_CHECKING."""
    skip = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edge_lab":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [a.name for a in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("edge_lab."))


def test_modules_import_only_from_layers_above() -> None:
    rank = {name: i for i, row in enumerate(LAYERS) for name in row}
    wrong, seen = [], set()
    for file in sorted(PACKAGE.rglob("*.py")):
        where = file.relative_to(PACKAGE)
        own = where.parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in rank, f"{where}: give {own} a place in LAYERS"
        seen.add(own)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for name in _imports(tree):
            if name in rank and rank[name] > rank[own]:
                wrong.append(f"{where} imports {name}")
    assert not wrong
    assert len(seen) > 10


def _graph() -> dict[str, set[str]]:
    """Which module imports which, in functions too."""
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        typing = {
            id(x) for n in ast.walk(tree) if isinstance(n, ast.If) for x in ast.walk(n) if "TYPE_" in ast.dump(n.test)
        }
        taken = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and id(n) not in typing]
        every = {
            f"{n.module}.{a.name}" if f"{n.module}.{a.name}" in names else str(n.module) for n in taken for a in n.names
        }
        found[name] = {other for other in every if other in names and other != name}
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = _graph()
    reached = {name: set(others) for name, others in graph.items()}
    for middle in reached:
        for name in reached:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    assert not sorted(name for name in reached if name in reached[name])
    assert len(graph) > 200


def test_contributing_shows_the_same_layers() -> None:
    rows = (f"`{', '.join(row)}`" for row in LAYERS)
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert " <\n  ".join(rows) in text, "write the rows of LAYERS there, one a line"


def test_no_module_takes_a_private_name_of_another() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        where = file.relative_to(PACKAGE)
        package = ".".join(("edge_lab", *where.parent.parts))  # its own __init__ is no stranger
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_lab"):
                private = [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
                wrong += [f"{where} takes {name} of {node.module}" for name in private if node.module != package]
    assert not wrong


def test_measurement_results_need_nothing_but_files() -> None:
    tree = ast.parse((PACKAGE / "results" / "result.py").read_text(encoding="utf-8"))
    assert set(_imports(tree)) <= {"core"}
