"""Nothing is written to the reader's home, and nothing is prepared to be sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SWITCH = "ORT_DISABLE_TELEMETRY"
SESSION = """
import numpy as np
import edge_lab
from edge_lab.formats.onnx.ort import open_session
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
print(open_session(model.SerializeToString()).run(None, {"x": np.ones(1, np.float32)})[0])
"""


def test_onnx_runtime_writes_nothing_to_the_home(tmp_path: Path) -> None:
    """Its Linux builds keep a device id and a database of events there, and look up where to send them."""
    environment = {key: value for key, value in os.environ.items() if key not in (SWITCH, "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", SESSION]
    done = subprocess.run(
        command, env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1.]\n"
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("lab", sorted((ROOT / "labs").glob("*.ipynb")), ids=lambda lab: lab.stem)
def test_cells_for_other_projects_switch_it_off_before_the_import(lab: Path) -> None:
    for cell in json.loads(lab.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if "take-home" in cell["metadata"].get("tags", []) and "import onnxruntime" in source:
            assert 0 <= source.find(SWITCH) < source.index("import onnxruntime"), lab.name


def test_jupyterlab_asks_for_no_news() -> None:
    notes = json.loads((ROOT / "tools/jupyterlab.json").read_text())["@jupyterlab/apputils-extension:notification"]
    assert notes == {"checkForUpdates": False, "fetchNews": "false"}


def test_make_lab_opens_jupyterlab_without_the_list_of_extensions() -> None:
    """Opened, that list asks PyPI for the newest version of each."""
    assert "jupyter lab --LabApp.default_url=/lab/tree/labs/README.md --LabApp.extension_manager=readonly\n" in (
        ROOT / "Makefile"
    ).read_text(encoding="utf-8")


def test_the_hub_is_told_only_what_it_needs() -> None:
    """Without the switch its requests name PyTorch's version, and it fetches a list to tell which program runs this."""
    code = "import edge_lab, huggingface_hub.utils as hub; print(hub.build_hf_headers(token=False)['user-agent'])"
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "hf_hub/" in done.stdout


FOREIGN = """
import runpy
runpy.run_path(FILE)
try:
    import openvino_telemetry
except ImportError:
    print("not found")
"""


def test_converters_do_not_find_openvinos_reports(tmp_path: Path) -> None:
    """OpenVINO and nncf report each import and each call through this module, where it is installed."""
    (tmp_path / "openvino_telemetry.py").write_text("")
    code = FOREIGN.replace("FILE", repr(str(ROOT / "edge_lab/peers/convert.py")))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "not found\n"


def test_no_environment_installs_openvinos_reports() -> None:
    for tool in ("peers.py", "accelerators.py"):
        assert "openvino-telemetry==" not in (ROOT / "tools" / tool).read_text(encoding="utf-8")


def test_mnn_converts_without_its_program() -> None:
    """`mnnconvert` installs a package for reports with pip, and sends one for each conversion."""
    assert 'mnnconvert"' not in (ROOT / "edge_lab/peers/convert.py").read_text(encoding="utf-8")
