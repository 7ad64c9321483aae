"""Runs the labs and stores their outputs in one normal form, or says what a lab lacks.

    python tools/labs.py execute [NAME ...]    format, run from a fresh kernel, normalise, write in place
    python tools/labs.py check [NAME ...]      list what breaks the form of a lab; exit 1 if anything does

NAME is a file or its beginning (`02`); none means every lab. Edit labs in JupyterLab, then execute them here.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LABS = Path(__file__).resolve().parent.parent / "labs"
MAX_LINES = 25
MAX_BYTES = 600_000
SECTIONS = ("Predict", "Run", "Evidence", "Checked claims", "Decide", "Exercise", "Take it home", "Provenance")
CHECKED, SOLUTION, TAKE_HOME = "nbval-check-output", "solution", "take-home"
_KEPT_METADATA = ("tags", "jupyter", "raises-exception")
_PRIVATE = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|opt|usr|private|var|mnt)/\S+|\b[A-Z]:\\\S+")


def labs(names: list[str]) -> list[Path]:
    """Notebooks that `names` mean; every lab if there are none."""
    every = sorted(LABS.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return every
    stems = [Path(name).name.removesuffix(".ipynb") for name in names]
    found = [lab for lab in every if any(lab.stem.startswith(stem) for stem in stems)]
    if not found:
        raise SystemExit(f"no lab begins with {', '.join(stems)}; there are: {', '.join(lab.stem for lab in every)}")
    return found


def read(path: Path) -> Any:
    """A notebook as nbformat 4 nodes."""
    import nbformat

    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    """The code cells that are not empty, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tagged(notebook: Any, tag: str) -> list[Any]:
    """The code cells that carry `tag`."""
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def text_of(cell: Any) -> str:
    """Everything that the cell's stored outputs say, pictures left out."""
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        parts += [str(v) for kind, v in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


def minutes(notebook: Any) -> int | None:
    """The reader's minutes as the first cell states them."""
    head = notebook.cells[0].source if notebook.cells else ""
    found = re.search(r"minutes\W{0,6}(\d+)|(\d+)\s*min", head, re.IGNORECASE)
    return int(found[1] or found[2]) if found else None


def normalise(notebook: Any) -> Any:
    """Drop what changes from machine to machine; count executions 1..n. Changes and returns `notebook`."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in _KEPT_METADATA if cell.metadata.get(key)}
    for count, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count is not None:
            cell.execution_count = count
        cell.outputs = _merged(cell.outputs)
        for output in cell.outputs:
            output.get("metadata", {}).pop("needs_background", None)
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    return notebook


def _merged(outputs: list[Any]) -> list[Any]:
    """Outputs without progress bars; neighbouring pieces of one stream become one."""
    kept: list[Any] = []
    for output in outputs:
        stream = output.output_type == "stream"
        if stream and output.name == "stderr" and "\r" in output.text:
            continue
        if stream and kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def problems(notebook: Any) -> Iterator[str]:
    """Yield one sentence for each thing that breaks the form of a lab (CONTRIBUTING.md describes it)."""
    yield from _form(notebook)
    yield from _sections(notebook)
    yield from _outputs(notebook)
    yield from _claims(notebook)


def _form(notebook: Any) -> Iterator[str]:
    head = notebook.cells[0] if notebook.cells else {"cell_type": "", "source": ""}
    if head["cell_type"] != "markdown" or not head["source"].startswith("# "):
        yield "the first cell is not a title in Markdown"
    for word in ("objective", "needs"):
        if word not in head["source"].lower():
            yield f"the first cell does not state its {word}"
    if minutes(notebook) is None:
        yield "the first cell does not say how many minutes the lab takes"
    for number, cell in enumerate(code_cells(notebook), start=1):
        if len(cell.source.splitlines()) > MAX_LINES:
            yield f"code cell {number} has {len(cell.source.splitlines())} lines; {MAX_LINES} is the limit"
    if not any("seed" in cell.source for cell in code_cells(notebook)):
        yield "no cell sets a seed"


def _sections(notebook: Any) -> Iterator[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    titles = [re.sub(r"^[\W\d_]+", "", line).lower() for line in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)]
    last = -1
    for section in SECTIONS:
        places = [i for i, title in enumerate(titles) if title.startswith(section.lower())]
        if not places:
            yield f"the section '{section}' is missing"
        elif places[0] < last:
            yield f"the section '{section}' stands too early; the order is {', '.join(SECTIONS)}"
        else:
            last = places[0]


def _outputs(notebook: Any) -> Iterator[str]:
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"execution counts are {counts}, not 1..{len(cells)}: nbval never compares a cell without a count"
    for number, cell in enumerate(cells, start=1):
        text = text_of(cell)
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"code cell {number} stores an error"
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"code cell {number} stores stderr (a warning or a progress bar)"
        private = _PRIVATE.search(text)
        if private:
            yield f"the output of code cell {number} names a path of one machine: {private[0]}"
        if re.search(rf"\b{re.escape(socket.gethostname())}\b", text):
            yield f"the output of code cell {number} names the host"


def _claims(notebook: Any) -> Iterator[str]:
    checked = tagged(notebook, CHECKED)
    if not checked:
        yield f"no cell is tagged {CHECKED}"
    for cell in checked:
        start = cell.source.splitlines()[0]
        if "FAIL" in text_of(cell):
            yield f"the checked cell {start!r} stores a FAIL"
        elif "PASS" not in text_of(cell):
            yield f"the checked cell {start!r} stores no PASS"
    home = tagged(notebook, TAKE_HOME)
    if len(home) != 1:
        yield f"{len(home)} cells are tagged {TAKE_HOME}; one is needed"
    if any("edge_lab" in cell.source for cell in home):
        yield f"the {TAKE_HOME} cell uses edge_lab"
    solutions = tagged(notebook, SOLUTION)
    if not solutions:
        yield f"no cell is tagged {SOLUTION}"
    if any(not cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions):
        yield f"a {SOLUTION} cell is not collapsed (metadata jupyter.source_hidden)"


def file_problems(path: Path) -> list[str]:
    """What breaks the form of the lab at `path`, its size and its normal form included."""
    import nbformat

    found = list(problems(read(path)))
    text = path.read_text(encoding="utf-8")
    if len(text.encode()) > MAX_BYTES:
        found.append(f"the file has {len(text.encode()) // 1000} kB; {MAX_BYTES // 1000} is the limit")
    if text != nbformat.writes(normalise(read(path))) + "\n":
        found.append("the file is not in normal form: run `make labs`")
    return found


def execute(path: Path) -> Any:
    """Run a lab in a fresh kernel of this interpreter, from its own folder. Returns the normalised notebook."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    # no kernel folders: "python3" then means this interpreter, whatever kernels the user has registered
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, km=manager, timeout=600, resources=place, store_widget_state=False).execute()
    return normalise(notebook)


def _execute_and_store(path: Path) -> list[str]:
    import nbformat
    from nbclient.exceptions import CellExecutionError

    for step in (["format"], ["check", "--fix"]):
        command = [sys.executable, "-m", "ruff", *step, "--quiet", str(path)]
        ruff = subprocess.run(command, capture_output=True, text=True, check=False)
        if ruff.returncode:
            return [f"not run: ruff {' '.join(step)} says\n{ruff.stdout}{ruff.stderr}"]
    try:
        notebook = execute(path)
    except CellExecutionError as error:
        return [f"not stored: a cell raised\n{error}"]
    failed = [text_of(cell) for cell in tagged(notebook, CHECKED) if "FAIL" in text_of(cell)]
    if failed:
        return [f"not stored: a checked claim fails\n{text}" for text in failed]
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return file_problems(path)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("execute", "check"))
    parser.add_argument("names", nargs="*")
    options = parser.parse_args(arguments)
    bad = 0
    for path in labs(options.names):
        begun = time.perf_counter()
        found = _execute_and_store(path) if options.action == "execute" else file_problems(path)
        bad += bool(found)
        print(f"{path.name}: {'ok' if not found else f'{len(found)} problems'} ({time.perf_counter() - begun:.0f} s)")
        for problem in found:
            print(f"  - {problem}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
