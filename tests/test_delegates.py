"""Accelerators: one run over all of them here, a crash that costs one row, and the Vulkan targets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edge_lab
from edge_lab.core.errors import InputError, MissingTool
from edge_lab.formats.pte import delegates_child
from edge_lab.formats.pte.delegates import NAMES, Lowered, _child, delegates, small_net


@pytest.fixture(scope="module")
def rows() -> dict[str, Lowered]:
    return {row.accelerator: row for row in delegates()}


@pytest.mark.slow
def test_every_accelerator_has_an_answer_and_xnnpack_the_right_one(rows: dict[str, Lowered]) -> None:
    assert tuple(rows) == NAMES
    assert all(row.state == "ran" or row.why for row in rows.values())
    xnnpack = rows["xnnpack"]
    assert (xnnpack.state, xnnpack.delegated, xnnpack.pieces, xnnpack.left) == ("ran", 1.0, 1, ())
    assert xnnpack.sqnr_db is not None
    assert xnnpack.sqnr_db > 60


@pytest.mark.slow
def test_what_is_written_here_and_runs_elsewhere_says_so(rows: dict[str, Lowered]) -> None:
    assert rows["vulkan"].state == "written"
    assert "VulkanBackend" in rows["vulkan"].why
    assert rows["coreml"].size_mb is not None
    assert rows["nnapi"].size_mb is not None


@pytest.mark.slow
def test_an_export_that_needs_an_sdk_is_refused_with_the_librarys_sentence(rows: dict[str, Lowered]) -> None:
    assert "QNN_SDK_ROOT" in rows["qnn"].why
    assert "mtk_converter" in rows["mediatek"].why
    assert {rows[name].state for name in ("qnn", "mediatek", "samsung", "nxp", "mps")} == {"refused"}


def test_a_crash_costs_one_row(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\nimport os\n"
        'print(\'{"delegate": "0:xnnpack", "state": "ran"}\', flush=True)\n'
        'print(\'{"delegate": "0:openvino", "size_mb": 1.0}\', flush=True)\n'
        "os.abort()\n"
    )
    fake.chmod(0o755)
    answers = _child(tmp_path, [(0, "xnnpack"), (0, "openvino"), (0, "vulkan")], fake, 60)
    assert set(answers) == {(0, "xnnpack"), (0, "openvino")}
    assert answers[0, "openvino"]["state"] == "crashed"
    assert "running it ended its process: signal 6" in answers[0, "openvino"]["why"]


def test_bad_input_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no accelerator 'xnpack'"):
        delegates(accelerators=["xnpack"])
    with pytest.raises(InputError, match="no Python at"):
        delegates(python=tmp_path / "nothing")


def test_velas_summary_is_read() -> None:
    printed = (
        "Conv2D               Conv2D               NPU             7936            92.54       5520             33.48\n"
        "AvgPool              AvgPool              NPU             4112            47.95       2790             16.92\n"
        "Total SRAM used                                  8.38 KiB\n"
        "Total Off-chip Flash used                        1.72 KiB\n"
    )
    assert delegates_child._estimate(printed) == {"estimate": {"cycles": 8310, "SRAM KiB": 8.38, "flash KiB": 1.72}}
    assert delegates_child._estimate("nothing") == {}


@pytest.mark.slow
def test_vulkan_bundles_are_whole_and_say_where_they_run(tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16"):
        bundle = edge_lab.to(small_net(), f"android-vulkan-{precision}", out=tmp_path)
        assert (bundle.runtime.backend, bundle.runtime.delegated) == ("vulkan", 1.0)
        assert bundle.quantization.scheme == precision
        assert bundle.golden[0].reference == "eager"
        with pytest.raises(MissingTool, match="can't run here"):
            edge_lab.load(bundle)
        sizes[precision] = bundle.program_bytes
    assert sizes["fp16"] < sizes["fp32"]
