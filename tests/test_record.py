"""Measurement files: what is written is read back, and what does not hold together is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_lab.core.errors import InputError
from edge_lab.measure import Engine, Gate, Latency, Measurement, Measurements, Memory, Quality
from edge_lab.measure.cold import ColdStart
from edge_lab.measure.joules import Energy

LATENCY = Latency((0.012, 0.010, 0.030), (0.011, 0.010, 0.012), 5)
FULL = Measurement(
    "net/xnnpack-int8",
    Engine("executorch", "1.5.1"),
    LATENCY,
    model="net",
    size_bytes=1000,
    delegated=1.0,
    start=ColdStart(100.0, 5.0, 20.0, float("nan")),
    memory=Memory(100.0, 105.0, 120.0),
    energy=Energy("estimated", 0.05, 5.0, "as given"),
    quality=Quality("photos", 100, top1=88.0, agreement=99.0, sqnr_db=25.0),
    pinned_cpus=(0,),
    notes=("a note",),
)
SPARSE = Measurement("net/mcu", Engine("bakenn"), Latency((0.5,), (), 0, clock="wall", scenario="cold_start"))
FILE = Measurements(
    "test", "make it", "2026-11-23T08:00:00Z", {"cpu": "EPYC"}, Gate("quiet", 0.01), {"torch": "2"}, (FULL, SPARSE)
)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    FILE.save(tmp_path / "m.json")
    found = Measurements.load(tmp_path / "m.json")
    start = found.items[0].start
    assert start is not None
    assert start.steady_ms != start.steady_ms  # NaN: it is no step to a first answer, and not in the file
    assert replace(found.items[0], start=FULL.start) == FULL
    assert (start.import_ms, start.load_ms, start.first_ms) == (100.0, 5.0, 20.0)
    assert found.items[1:] == (SPARSE,)
    assert replace(found, items=()) == replace(FILE, items=())


def test_what_is_not_known_is_null_and_stays_unknown(tmp_path: Path) -> None:
    item = replace(FULL, memory=Memory(float("nan"), float("nan"), 120.0))
    replace(FILE, items=(item,)).save(tmp_path / "m.json")
    entry = json.loads((tmp_path / "m.json").read_text())["measurements"][0]
    assert entry["memory"] == {"baseline_mb": None, "loaded_mb": None, "peak_mb": 120.0, "delta_mb": None}
    memory = Measurements.load(tmp_path / "m.json").items[0].memory
    assert memory is not None
    assert memory.delta_mb != memory.delta_mb


def test_a_replayed_file_says_that_nothing_was_measured(tmp_path: Path) -> None:
    FILE.save(tmp_path / "pi5.json")
    assert Measurements.load(tmp_path / "pi5.json").heading.startswith("measured on EPYC")
    found = Measurements.replay(tmp_path / "pi5.json")
    assert found.heading == "RECORDED on EPYC, 2026-11-23; from pi5.json. Nothing was measured now."
    found.save(tmp_path / "again.json")  # a copy of a recording stays one
    assert Measurements.load(tmp_path / "again.json").recorded == found.recorded


def test_labels_say_only_what_tells_measurements_apart() -> None:
    twice = replace(FULL, latency=replace(LATENCY, threads=2))
    other = replace(FULL, engine=Engine("another"))
    assert FILE.labels == ["net/xnnpack-int8", "net/mcu"]
    assert replace(FILE, items=(FULL, twice)).labels == [
        "net/xnnpack-int8 (single_stream, 1 thread)",
        "net/xnnpack-int8 (single_stream, 2 threads)",
    ]
    assert [label.split(" in ")[-1] for label in replace(FILE, items=(FULL, other)).labels] == ["executorch", "another"]


def _edit(document: dict[str, Any], **values: object) -> None:
    document["measurements"][0].update(values)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d.update(schema_version=2), "newer edge_lab"),
        (lambda d: d.pop("gate"), "'gate' is a required property"),
        (lambda d: _edit(d, wall_s=[]), "wall_s"),
        (lambda d: _edit(d, wall_s=[-1.0, 1.0, 1.0]), "minimum"),
        (lambda d: _edit(d, scenario="fast"), "single_stream"),
        (lambda d: _edit(d, summary={"p50_ms": 1.0, "p90_ms": 11.8, "p99_ms": 11.98}), "its own samples give 11"),
        (lambda d: d["measurements"].append(d["measurements"][0]), "twice"),
        (lambda d: d.pop("measurements"), "measurements"),
    ],
    ids=["newer", "no gate", "no samples", "negative", "scenario", "percentile", "twins", "nothing"],
)
def test_a_file_that_does_not_hold_together_is_refused(edit: Any, said: str, tmp_path: Path) -> None:
    FILE.save(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    edit(document)
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        Measurements.load(tmp_path / "m.json")
    assert said in str(caught.value)


def test_readers_ignore_fields_that_they_do_not_know(tmp_path: Path) -> None:
    FILE.save(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    _edit(document, later="something")
    (tmp_path / "m.json").write_text(json.dumps(document))
    assert len(Measurements.load(tmp_path / "m.json").items) == 2


def test_nothing_is_written_that_the_schema_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        replace(FILE, date="yesterday").save(tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []
