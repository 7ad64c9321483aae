"""The gate, pinning, energy tiers, and a bench of several scenarios on a real bundle."""

from __future__ import annotations

import os
import threading
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from torch import nn

import edge_lab
from edge_lab import measure
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.flow.bench import BenchConfig, bench
from edge_lab.results import readiness as gates

CHECKIN = """9,0,i,vers,36,210,AP3A,AP3A
9,10123,l,pwi,uid,0.500,1,0,0
9,10200,l,pwi,uid,7.1,1,0,0
"""
PMIC = """ VDD_CORE_A current(7)=2.00000000A
 DDR_VDD2_A current(1)=0.10000000A
  VDD_CORE_V volt(15)=0.90000000V
  DDR_VDD2_V volt(9)=1.10000000V
     EXT5V_V volt(24)=5.10000000V
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same small network for two engines, with two golden inputs."""
    model = edge_lab.from_module(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 16, 16), name="tiny")
    folder = tmp_path_factory.mktemp("bench")
    return [edge_lab.to(model, f"linux-{kind}-fp32", out=folder).path for kind in ("torchscript", "onnx")]


def test_bench_measures_every_scenario_and_thread_count(bundles: list[Path], tmp_path: Path) -> None:
    config = BenchConfig(threads=(1, 2), rounds=6, scenarios=("single_stream", "offline_batch", "cold_start"))
    found = bench(bundles, config, command="here")
    found.save(tmp_path / "m.json")
    inputs = len(edge_lab.Bundle.load(bundles[0]).golden)
    assert inputs > 1
    warm = [f"{what}, {n} thread{s}" for n, s in ((1, ""), (2, "s")) for what in ("single_stream", "offline_batch")]
    wanted = [f"{what}, batch {inputs}" if "batch" in what else what for what in warm] + ["cold_start, 1 thread"]
    labels = [label.split("/")[-1] for label in measure.Measurements.load(tmp_path / "m.json").labels]
    assert labels == [f"{kind} ({what})" for what in wanted for kind in ("torchscript-fp32", "onnx-fp32")]
    one, batch, cold = found.items[0], found.items[2], found.items[-1]
    assert (len(one.latency.samples_s), one.latency.clock, found.items[4].latency.clock) == (6, "cpu", "wall")
    assert (one.latency.batch, batch.latency.batch) == (1, inputs)
    assert cold.start is not None
    assert cold.latency.p50_ms > cold.start.load_ms  # it starts a process and imports the engine, too
    for item in found:
        assert item.start is not None
        assert item.memory is not None
        assert item.start.load_ms > 0
        assert item.memory.peak_mb > item.memory.baseline_mb > 1


def test_samples_that_waited_make_the_file_say_busy(bundles: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "gate", lambda *a, **k: gates.judge(0.0, 40.0))
    monkeypatch.setattr(measure.Latency, "busy", property(lambda self: True))
    found = bench(bundles[1:], BenchConfig(rounds=3))
    assert found.gate.state == "busy"
    assert "held the core" in found.gate.reasons[0]


@pytest.mark.parametrize(
    ("load", "degrees", "state"),
    [(0.0, None, "quiet"), (0.14, 79.0, "quiet"), (0.16, 30.0, "busy"), (0.0, 80.0, "hot"), (None, None, "unknown")],
)
def test_the_gate(load: float | None, degrees: float | None, state: str) -> None:
    found = gates.judge(load, degrees)
    assert found.state == state
    assert bool(found.reasons) == (state != "quiet")
    assert found.worst(gates.judge(0.9, None)).state == ("hot" if state == "hot" else "busy")


@pytest.mark.parametrize(
    ("idle_s", "own_s", "share"),
    [(2.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.5), (0.0, 0.5, 0.75), (2.5, 0.0, 0.0), (0.0, 3.0, 0.0)],
)
def test_the_gate_sees_what_other_processes_do(
    idle_s: float, own_s: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    Times = namedtuple("Times", "user system idle iowait")
    cores = iter((Times(0, 0, 10, 5), Times(9, 9, 10 + idle_s / 2, 5 + idle_s / 2)))  # waiting for a disk is idle
    own = iter((Times(1, 1, 0, 0), Times(1 + own_s / 2, 1 + own_s / 2, 0, 0)))
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(cores))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(psutil.Process, "cpu_times", lambda _: next(own))
    monkeypatch.setattr(gates.time, "sleep", lambda _: None)
    assert measure.gate(1.0).load_per_core == pytest.approx(share)


def test_waiting_ends_when_the_machine_is_quiet_and_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([0.9, 0.9, 0.0])
    monkeypatch.setattr(gates, "gate", lambda *a, **k: gates.judge(next(seen), None))
    monkeypatch.setattr(gates.time, "sleep", lambda s: None)
    assert measure.fit("wait").state == "quiet"
    monkeypatch.setattr(gates, "gate", lambda *a, **k: gates.judge(0.9, None))
    assert measure.fit("label").state == "busy"
    for how in ("refuse", "wait"):
        with pytest.raises(EdgeLabError, match="busy"):
            measure.fit(how, patience_s=0.0)  # type: ignore[arg-type]


def test_the_hottest_zone_counts_and_nonsense_does_not(tmp_path: Path) -> None:
    for i, text in enumerate(("45000", "61500", "-274000", "none", "999999")):
        (tmp_path / f"thermal_zone{i}").mkdir()
        (tmp_path / f"thermal_zone{i}" / "temp").write_text(text)
    assert gates.temperature(tmp_path) == 61.5
    assert gates.temperature(tmp_path / "nothing") is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't bind a process to cores")
def test_pinning_binds_every_thread_and_gives_the_cores_back() -> None:
    before = os.sched_getaffinity(0)
    inside: list[set[int]] = []
    with measure.pinned(1) as cores:
        assert cores is not None
        thread = threading.Thread(target=lambda: inside.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert inside == [set(cores)] == [os.sched_getaffinity(0)]
        assert len(cores) == 1
    assert os.sched_getaffinity(0) == before
    with measure.pinned(len(before) + 1) as cores:
        assert cores is None


def test_energy_has_tiers(tmp_path: Path) -> None:
    call = {"min_seconds": 0.02, "root": tmp_path}
    assert measure.energy(lambda: sum(range(1000)), **call).tier == "not available"  # type: ignore[arg-type]
    estimate = measure.energy(lambda: sum(range(1000)), watts_per_core=5.0, **call)  # type: ignore[arg-type]
    assert estimate.tier == "estimated"
    assert estimate.joules is not None
    assert estimate.watts is not None
    assert 0 < estimate.watts <= 5.5 * (os.cpu_count() or 1)  # a thread of another test may still run
    assert "5 W per core as given" in estimate.reason


def test_a_raspberry_pi_tells_volts_and_amperes_of_its_rails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure.pmic_watts(PMIC) == pytest.approx(2.0 * 0.9 + 0.1 * 1.1)  # EXT5V has no current sensor
    assert measure.pmic_watts("vc_gencmd: command not found") is None
    command = tmp_path / "vcgencmd"
    command.write_text(f"#!/bin/sh\ncat <<END\n{PMIC}END\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = measure.energy(lambda: sum(range(100_000)), min_seconds=0.25, root=tmp_path)
    assert (found.tier, found.source) == ("measured", "Pi PMIC")
    assert found.watts == pytest.approx(1.91)


def test_the_phones_own_model_is_called_an_estimate() -> None:
    found = measure.batterystats_energy(CHECKIN, 10123, calls=100)
    assert (found.tier, found.source) == ("estimated", "Android batterystats")
    assert found.joules == pytest.approx(0.5e-3 * 3600 * 3.85 / 100)
    assert measure.batterystats_energy(CHECKIN, 1, calls=100).tier == "not available"
    for text, calls in (("Battery History", 100), (CHECKIN, 0)):
        with pytest.raises(InputError, match="no energy per call"):
            measure.batterystats_energy(text, 10123, calls=calls)


@pytest.mark.parametrize("wrong", [{"scenarios": ("fast",)}, {"threads": ()}, {"threads": (0,)}, {"rounds": 0}])
def test_a_config_that_measures_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="can't be measured"):
        BenchConfig(**wrong)  # type: ignore[arg-type]
