"""Nothing leaves the machine, and nothing is written outside the folders that are named: the kernel is asked.

Each command runs with an empty home, without a network, under strace (tools/closed.py). What is here costs two or three
minutes; `python tools/closed.py flow`, `labs`, `cells` and `peers` do the same with everything there is.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from machine_tools import missing, tool

ROOT = Path(__file__).resolve().parent.parent
CELLS = ("03", "11", "12", "18")  # PyTorch alone, ONNX Runtime, Core ML, a microcontroller's C
RAY = """
from edge_lab.sweep import cluster
from types import SimpleNamespace
ray = cluster._ray("local")
cluster._connect(ray, SimpleNamespace(workers=1), "local")
print(ray.get(ray.remote(lambda: 42).remote()))
ray.shutdown()
"""


def _closed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("closed_tool", ROOT / "tools" / "closed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["closed_tool"] = module  # its dataclass looks for it there
    spec.loader.exec_module(module)
    return module


closed = _closed()


@pytest.fixture(scope="module", autouse=True)
def _can_be_watched() -> None:
    tool("strace", package="strace")
    tool("unshare", package="util-linux")
    if reason := closed.why_not():
        missing(reason)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def _keeps_to_itself(seen: object) -> None:
    assert (seen.code, seen.away, seen.files) == (0, [], []), f"{seen.summary()}\n{seen.output[-2000:]}"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_edge_lab_run(home: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    words = ["run", "tinynet", "--images", "digits", "--limit", "20", "--jobs", "1", "--out", work]
    words += ["--targets", "linux-onnx-fp32"]
    seen = closed.watch([sys.executable, "-m", "edge_lab", *words], home, allowed=[work])
    _keeps_to_itself(seen)
    assert (work / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_take_home_cell(name: str, home: Path, tmp_path: Path) -> None:
    ((_, command, place),) = closed.cells(tmp_path, [name])
    _keeps_to_itself(closed.watch(command, home, cwd=place, allowed=[place]))


@pytest.mark.slow
def test_lab(home: Path, tmp_path: Path) -> None:
    """The start of one, in Jupyter's kernel, whose connections stay on the machine."""
    ((_, command, place),) = closed.labs(["11"])
    lab = json.loads(Path(command.pop()).read_text(encoding="utf-8"))
    lab["cells"] = [cell for cell in lab["cells"] if cell["cell_type"] == "code"][:3]
    file = tmp_path / "work" / "labs" / "start.ipynb"  # labs write to ../artifacts
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(lab), encoding="utf-8")
    seen = closed.watch([*command, file], home, cwd=place, allowed=[tmp_path / "work"])
    _keeps_to_itself(seen)
    assert seen.local > 0, "a kernel was asked, and no connection was seen: the tracer is blind"


@pytest.mark.slow
def test_ray_asks_nobody_where_it_runs(home: Path) -> None:
    """Left alone it connects to a public server to learn its own address, and asks three clouds if it runs there."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    for _ in range(3):  # it gives its processes 30 seconds to start, whatever else the machine has to do
        seen = closed.watch([sys.executable, "-c", RAY], home)
        assert (seen.away, seen.files) == ([], []), seen.summary()
        if seen.code == 0:
            break
    _keeps_to_itself(seen)
    assert "42\n" in seen.output


FAULTS = {
    "a name is looked up": ("socket.getaddrinfo('example.org', 80)", "port 53 (a name is looked up)"),
    "an address": ("socket.create_connection(('198.51.100.7', 443))", "connect to 198.51.100.7, port 443"),
    "an address of IPv6": ("socket.create_connection(('2001:db8::7', 443))", "connect to 2001:db8::7, port 443"),
    "a datagram": ("socket.socket(type=2).sendto(b'x', ('198.51.100.7', 9))", "sendto to 198.51.100.7, port 9"),
    "from a child": (
        "os.fork() or os.chdir('/') or socket.create_connection(('198.51.100.8', 1))",
        "connect to 198.51.100.8, port 1",
    ),
}
WRITES = {
    "a file at home": ("open(os.path.expanduser('~/.machine'), 'w')", "openat {home}/.machine"),
    "a folder at home": ("os.makedirs(os.path.expanduser('~/.cache/other'))", "mkdir {home}/.cache/other"),
    "a name of its own": ("os.chdir('..'); os.mkdir('new')", "mkdir {place}/new"),
    "in a thread": ("Thread(target=open, args=('{place}/b', 'w')).start()", "openat {place}/b"),
    "a file that goes": ("os.unlink('{place}/there')", "unlink {place}/there"),
    "a new name": ("os.rename('{place}/there', 'here')", "rename {place}/there"),
}
START = "import os, socket, contextlib\nfrom threading import Thread\nwith contextlib.suppress(OSError):\n    "


@pytest.mark.parametrize(("code", "expected"), FAULTS.values(), ids=list(FAULTS))
def test_what_goes_out_is_seen(code: str, expected: str, home: Path) -> None:
    seen = closed.watch([sys.executable, "-c", START + code], home)
    assert any(line.endswith(expected) for line in seen.away), seen.summary()
    assert seen.files == []


@pytest.mark.parametrize(("code", "expected"), WRITES.values(), ids=list(WRITES))
def test_what_is_written_elsewhere_is_seen(code: str, expected: str, home: Path, tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (tmp_path / "there").write_text("x")
    words = [text.replace("{place}", str(tmp_path)).replace("{home}", str(home)) for text in (START + code, expected)]
    seen = closed.watch([sys.executable, "-c", words[0]], home, cwd=work, allowed=[work])
    assert seen.files == [words[1]], seen.summary()
    assert seen.away == []


def test_onnx_runtime_with_its_reports_on_is_seen(home: Path) -> None:
    """The real thing: if this fails, its builds have stopped reporting, or the tracer has gone blind."""
    if tuple(map(int, version("onnxruntime").split(".")[:2])) < (1, 29):
        pytest.skip("this version of ONNX Runtime reports nothing")
    seen = closed.watch([sys.executable, "-c", "import onnxruntime"], home, extra={"ORT_DISABLE_TELEMETRY": "0"})
    assert seen.away or seen.files, seen.summary()


def test_every_place_at_home_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [place for place in closed.AT_HOME if f"~/{place}" not in text] == []


def test_io_uring_is_not_there(home: Path) -> None:
    """Calls that go through it are seen by no tracer."""
    code = "import ctypes\nprint(ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(256)))"  # io_uring_setup
    assert closed.watch([sys.executable, "-c", code], home).output == "-1\n"
