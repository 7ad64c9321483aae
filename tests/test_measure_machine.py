"""Machine facts, roofline, profiler and energy: true, shareable, and never invented."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import pytest

from edge_lab import measure
from edge_lab.measure import Roofline
from edge_lab.measure.operators import OpTime, with_rest


def test_facts_are_text_and_tell_nobody_who_you_are() -> None:
    text = measure.provenance() + str(measure.machine()) + str(measure.versions())
    assert all(isinstance(v, str) and v for v in measure.machine().values())
    assert platform.python_version() in text
    for secret in (platform.node(), str(Path.home())):
        assert not secret or secret not in text


def test_versions_name_what_is_installed() -> None:
    import torch

    assert measure.versions()["torch"] == torch.__version__.split("+")[0]


def test_flops_are_twice_the_multiply_adds() -> None:
    from torch import nn

    layer = nn.Conv2d(3, 8, 3, bias=False)
    assert measure.flops(layer, (1, 3, 10, 10)) == 2 * 8 * 8 * (8 * 3 * 3 * 3)
    assert measure.flops(nn.Linear(10, 4, bias=False), (2, 10)) == 2 * 2 * 10 * 4


def test_bytes_are_weights_and_input_once_and_results_twice_and_views_free() -> None:
    from torch import nn

    model = nn.Sequential(nn.Linear(10, 4, bias=False), nn.Flatten(), nn.ReLU())
    assert measure.bytes_moved(model, (1, 10)) == 4 * (40 + 10 + 2 * 4 + 2 * 4)


def test_the_floor_is_arithmetic_or_memory_whichever_is_longer() -> None:
    limits = Roofline(peak_gflops=100, bandwidth_gbs=10)
    assert limits.floor_ms(1e9) == pytest.approx(10)
    assert limits.floor_ms(1e9, moved_bytes=1e9) == pytest.approx(100)
    assert limits.share(0.02, 1e9) == pytest.approx(0.5)
    assert limits.ridge == 10


def test_measured_limits_are_physical() -> None:
    limits = measure.roofline(repeats=2)
    assert 0 < limits.peak_gflops < 1e6  # a phone under an emulator has 0.1, a laptop's matrix unit thousands
    assert 0 < limits.bandwidth_gbs < 1e6


def _net() -> object:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 64, 1), nn.Flatten(), nn.LazyLinear(5)
    )


def test_the_profile_adds_up_and_names_kinds_of_layers(capfd: pytest.CaptureFixture[str]) -> None:
    x = np.zeros((1, 8, 32, 32), np.float32)
    ops = measure.profile(_net(), x, by="layer", runs=2)  # type: ignore[arg-type]
    names = {op.name for op in ops}
    assert {"depthwise 3x3 convolution", "1x1 convolution", "batch norm", "ReLU", "linear"} <= names
    assert sum(op.share for op in ops) == pytest.approx(1)
    work = {op.name: op.flops for op in ops}
    assert work["1x1 convolution"] == 2 * 30 * 30 * 8 * 64
    assert work["ReLU"] == 0
    operators = measure.profile(_net(), x, runs=2, top=3)  # type: ignore[arg-type]
    assert len(operators) == 4
    assert operators[-1].name == "everything else"
    assert sum(op.share for op in operators) == pytest.approx(1)
    assert capfd.readouterr().err == ""  # the profiler's own chatter would end up in every lab


@pytest.mark.parametrize("whole", [3.97, 4.0, 4.0001, 4.4])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_shares_add_up_whatever_the_clock_gave_the_whole(whole: float, top: int) -> None:
    """On a busy machine the layers took 1.0086 of the run."""
    found = with_rest([OpTime("conv", 2, 3.0, 0.0), OpTime("relu", 1, 1.0, 0.0)], top, whole)
    assert sum(op.share for op in found) == pytest.approx(1)
    assert min(op.ms for op in found) > 0
    assert found[0].share == pytest.approx(3 / max(whole, 4.0), rel=1e-3)


def test_the_picture_has_a_bar_for_each_row() -> None:
    import matplotlib.pyplot as plt

    axes = measure.profile_plot([measure.OpTime("conv", 2, 1.0, 0.75), measure.OpTime("relu", 1, 0.3, 0.25)])
    assert [t.get_text() for t in axes.texts] == ["75 %", "25 %"]
    plt.close(axes.figure)


def test_without_counters_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    result = measure.energy(lambda: None, root=tmp_path)
    assert (result.tier, result.joules, result.watts) == ("not available", None, None)
    assert "RAPL" in result.reason


def test_energy_is_read_from_the_packages_and_survives_a_counter_that_wraps(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("9999999\n", encoding="ascii")
        (tmp_path / name / "energy_uj").write_text("9000000\n", encoding="ascii")

    def work() -> None:
        time.sleep(0.02)
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n", encoding="ascii")

    result = measure.energy(work, max_calls=4, root=tmp_path)
    assert (result.tier, result.source) == ("measured", "RAPL")
    assert result.joules == pytest.approx(2.0 / 4)  # 9 J -> wrap at 10 J -> 1 J
    assert result.watts is not None
    assert result.watts < 2.0 / 0.08 + 1


def test_counters_for_root_only_are_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1\n", encoding="ascii")

    def refused(*args: object, **kwargs: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refused)
    assert "root only" in measure.energy(lambda: None, root=tmp_path).reason
