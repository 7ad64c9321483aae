"""Every lab has the form of a lab, its stored outputs count, and its take-home cell runs alone.

The labs themselves run under nbval: `make test` gives pytest the folder labs/ as well.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("labs_tool", ROOT / "tools" / "labs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _tool()
LABS: list[Path] = tool.labs([])


def test_there_are_labs() -> None:
    assert LABS, "labs/ holds no NN_topic.ipynb"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.stem)
def test_lab_has_the_form(lab: Path) -> None:
    assert tool.file_problems(lab) == []


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.stem)
def test_lab_is_in_the_syllabus(lab: Path) -> None:
    for page in ("labs/README.md", "README.md", "README.zh-CN.md"):
        assert f"{lab.name})" in (ROOT / page).read_text(encoding="utf-8"), f"{page} has no link to {lab.name}"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.stem)
def test_syllabus_gives_the_minutes_of_the_lab(lab: Path) -> None:
    text = (ROOT / "labs" / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"\({re.escape(lab.name)}\) \| (\d+) \|", text)
    assert row is not None
    assert int(row[1]) == tool.minutes(tool.read(lab))


@pytest.mark.parametrize("page", ["labs/README.md", "README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.stem)
def test_take_home_cell_runs_alone(lab: Path, tmp_path: Path) -> None:
    """A reader pastes this cell into a project of their own: no edge_lab, no state, an empty folder."""
    (cell,) = tool.tagged(tool.read(lab), tool.TAKE_HOME)
    script = tmp_path / "take_home.py"
    script.write_text(cell.source, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-I", script.name], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip(), "it prints nothing: a reader can't see that it worked"


def _good() -> Any:
    """The smallest notebook that has the form."""

    def code(source: str, text: str = "", **metadata: Any) -> Any:
        outputs = [new_output("stream", name="stdout", text=text)] if text else []
        return new_code_cell(source, outputs=outputs, metadata=metadata)

    parts: dict[str, list[Any]] = {section: [new_markdown_cell(f"## {section}")] for section in tool.SECTIONS}
    parts["Run"].append(code("seed = 0"))
    parts["Checked claims"].append(code("print('2x  PASS')", "2x  PASS\n", tags=[tool.CHECKED]))
    parts["Exercise"].append(code("print('PASS')", "PASS\n", tags=[tool.SOLUTION], jupyter={"source_hidden": True}))
    parts["Take it home"].append(code("print('hello')", "hello\n", tags=[tool.TAKE_HOME]))
    head = new_markdown_cell("# 99 · A lab\n**Objective.** one\n\n**Minutes.** 5\n\n**Needs.** nothing")
    notebook = new_notebook(cells=[head, *(cell for cells in parts.values() for cell in cells)])
    for count, cell in enumerate(tool.code_cells(notebook), start=1):
        cell.execution_count = count
    return tool.normalise(notebook)


def _strip(notebook: Any) -> None:
    """What nbstripout does."""
    for cell in tool.code_cells(notebook):
        cell.execution_count, cell.outputs = None, []


def _cell(tag: str, **changes: Any) -> Callable[[Any], None]:
    def change(notebook: Any) -> None:
        tool.tagged(notebook, tag)[0].update(nbformat.from_dict(changes))

    return change


def _stream(text: str, name: str = "stdout") -> list[dict[str, Any]]:
    return [{"output_type": "stream", "name": name, "text": text}]


def _remove(title: str) -> Callable[[Any], None]:
    def change(notebook: Any) -> None:
        notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith(f"## {title}")]

    return change


_ERROR = [{"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": []}]
_FAULTS: list[tuple[str, Callable[[Any], None], str]] = [
    ("stripped", _strip, "never compares a cell without a count"),
    ("outputs cleared", _cell(tool.CHECKED, outputs=[]), "stores no PASS"),
    ("a claim fails", _cell(tool.CHECKED, outputs=_stream("size 2x  FAIL\n")), "stores a FAIL"),
    ("nothing is checked", _cell(tool.CHECKED, metadata={}), "no cell is tagged nbval-check-output"),
    ("stored error", _cell(tool.CHECKED, outputs=_ERROR), "stores an error"),
    ("stored warning", _cell(tool.TAKE_HOME, outputs=_stream("UserWarning\n", "stderr")), "stores stderr"),
    ("long cell", _cell(tool.CHECKED, source="x = 1\n" * 26), "26 lines"),
    ("two take-home cells", _cell(tool.CHECKED, metadata={"tags": [tool.TAKE_HOME]}), "2 cells are tagged take-home"),
    ("take-home leans on us", _cell(tool.TAKE_HOME, source="import edge_lab"), "uses edge_lab"),
    ("open solution", _cell(tool.SOLUTION, metadata={"tags": [tool.SOLUTION]}), "not collapsed"),
    ("home folder", _cell(tool.TAKE_HOME, outputs=_stream("saved /home/ann/m.pte\n")), "/home/ann/m.pte"),
    ("no decision", _remove("Decide"), "'Decide' is missing"),
    ("no minutes", lambda n: n.cells[0].update(source="# 99 · A lab\nobjective, needs"), "how many minutes"),
]


def test_a_good_notebook_has_no_problems() -> None:
    assert list(tool.problems(_good())) == []
    assert tool.minutes(_good()) == 5


@pytest.mark.parametrize(("break_it", "message"), [f[1:] for f in _FAULTS], ids=[f[0] for f in _FAULTS])
def test_the_form_is_really_checked(break_it: Callable[[Any], None], message: str) -> None:
    notebook = _good()
    break_it(notebook)
    assert message in "\n".join(tool.problems(notebook))


def _nbval(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    return subprocess.run([*command, path.name], cwd=path.parent, capture_output=True, text=True, check=False)


def test_nbval_is_blind_to_stripped_notebooks_but_we_are_not(tmp_path: Path) -> None:
    """A stored claim that is no longer true fails under nbval, unless someone has stripped the counts."""
    notebook = _good()
    _cell(tool.CHECKED, outputs=_stream("3x  PASS\n"))(notebook)
    path = tmp_path / "99_lab.ipynb"
    nbformat.write(notebook, path)
    assert _nbval(path).returncode == 1
    _strip(notebook)
    nbformat.write(notebook, path)
    assert _nbval(path).returncode == 0, "nbval has learnt to see this: the check on counts can go"
    assert "never compares" in "\n".join(tool.file_problems(path))


def test_only_the_first_failure_of_a_lab_is_reported(tmp_path: Path) -> None:
    notebook = _good()
    tool.code_cells(notebook)[0].source = "raise ValueError('seed')"
    nbformat.write(notebook, tmp_path / "99_lab.ipynb")
    (tmp_path / "conftest.py").write_text((ROOT / "labs" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    assert "1 failed, 3 skipped" in _nbval(tmp_path / "99_lab.ipynb").stdout


def test_execute_stores_outputs_in_normal_form(tmp_path: Path) -> None:
    notebook = _good()
    _strip(notebook)
    notebook.metadata["language_info"] = {"name": "python", "version": "0.0"}
    path = tmp_path / "99_lab.ipynb"
    nbformat.write(notebook, path)
    done = tool.execute(path)
    assert list(tool.problems(done)) == []
    assert done.metadata["language_info"] == {"name": "python"}
