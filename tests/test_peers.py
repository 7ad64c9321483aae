"""The table of peers: real engines on a small net, conversions, environments, the command."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import SHAPE, Good

import edge_lab
from edge_lab import data
from edge_lab.bundle.spec import Preprocess
from edge_lab.cli import main as cli
from edge_lab.core.errors import InputError
from edge_lab.measure import Measurements, outputs_of, score
from edge_lab.peers import Peaks, PeerTable, choose, compare, compare_programs
from edge_lab.peers.client import CONVERTER, WORKER, WorkerFailed
from edge_lab.peers.engines import PEERS, unsupported
from edge_lab.peers.inputs import Tried, calibration, tried
from edge_lab.peers.places import interpreter
from edge_lab.peers.prepare import Program, programs
from edge_lab.peers.rounds import CALLS
from edge_lab.zoo import Model, from_module


@pytest.fixture(scope="module")
def model() -> Model:
    import torch

    torch.manual_seed(0)
    preprocess = Preprocess(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    return from_module(Good(), SHAPE, name="good", preprocess=preprocess)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def table(model: Model, out: Path) -> PeerTable:
    """Every engine of this environment but AOTInductor, which compiles for half a minute."""
    names = ["executorch-fp32", "onnxruntime-*", "torchscript", "eager"]
    return compare(model, engines=names, limit=12, threads=(1,), rounds=4, out=out, command="a test")


@pytest.fixture(autouse=True)
def quick(table: PeerTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks that are not measured again; `table` was made with real ones."""
    monkeypatch.setattr("edge_lab.peers.peaks", lambda threads: Peaks(threads, 100.0, None, 400.0, 20.0))


def test_every_engine_of_this_environment_is_in_one_table(table: PeerTable) -> None:
    assert [row.name for row in table.rows] == [
        "executorch-fp32",
        "onnxruntime-fp32",
        "onnxruntime-int8",
        "torchscript-fp32",
        "eager-fp32",
    ]
    for row in table.rows:
        assert row.problem == "", row
        assert None not in (row.version or None, row.size_mb, row.load_ms, row.peak_mb, row.added_mb), row
        assert row.p50_ms[1] > 0
        assert 0 < row.share[1] < 1.2
        assert row.images == 12
        assert row.sqnr_db is not None
        if row.precision == "fp32":
            assert row.agreement == 100, row
            assert row.sqnr_db > 80, row
        else:
            assert 10 < row.sqnr_db < 60, row
    assert table.rows[-1].sqnr_db == 200, "the same kernels on the same graph"


def test_int8_is_held_against_the_int8_peak(table: PeerTable) -> None:
    by_name = {row.name: row for row in table.rows}
    peaks = table.peaks[0]
    assert peaks.int8 not in (None, peaks.fp32)
    row = by_name["onnxruntime-int8"]
    assert row.share[1] == pytest.approx(table.flops / (1e6 * row.p50_ms[1]) / peaks.int8)
    assert table.intensity(row) == pytest.approx(4 * table.intensity(by_name["onnxruntime-fp32"]))


def test_the_recommendation_is_whoever_is_fastest_at_equal_accuracy(table: PeerTable) -> None:
    found = table.recommend(1)
    assert found.choice is not None
    turned_down = {r.candidate.name for r in found.rejected}
    equal = [row.p50_ms[1] for row in table.rows if f"good/{row.name}" not in turned_down]
    assert found.choice.p50_ms is not None
    assert found.choice.p50_ms <= 1.05 * min(equal)


def test_the_table_is_a_file_of_measurements(table: PeerTable, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "peers.json"
    table.measured.save(path)
    found = Measurements.load(path)
    assert [item.name for item in found] == [f"good/{row.name}" for row in table.rows]
    assert {item.engine.name for item in found} == {"executorch", "onnxruntime", "torchscript", "eager"}
    for item in found:
        assert len(item.latency.times) == 4 * CALLS
        assert item.latency.clock == "cpu"
        assert None not in (item.memory, item.start, item.quality)
    assert cli.main(["compare", str(path), str(path), "--fail", "median:5%"]) == 0
    slower = json.loads(path.read_text())
    for times in ("wall_s", "cpu_s"):
        slower["measurements"][0][times] = [1.2 * t for t in slower["measurements"][0][times]]
    summary = slower["measurements"][0]["summary"]
    slower["measurements"][0]["summary"] = {name: 1.2 * value for name, value in summary.items()}
    (tmp_path / "slower.json").write_text(json.dumps(slower))
    capsys.readouterr()
    assert cli.main(["compare", str(path), str(tmp_path / "slower.json"), "--fail", "median:5%"]) == 1
    assert "1 of 5 worse than allowed" in capsys.readouterr().out


def test_text_markdown_and_picture(table: PeerTable, tmp_path: Path) -> None:
    text, page = str(table), table.markdown()
    for row in table.rows:
        assert row.peer.label in text
        assert row.peer.label in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    assert len({line.count("|") for line in lines}) == 1
    table.plot().savefig(tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 10_000


def test_programs_are_made_once(model: Model, out: Path, table: PeerTable) -> None:
    said: list[str] = []
    images = calibration(model, None)
    assert images is not None
    made = programs(model, choose(["onnxruntime"]), images, out=out, log=said.append)
    assert said == ["linux-onnx-fp32: as it was", "linux-onnx-int8: as it was"]
    assert all(p.path is not None and p.path.is_file() for p in made)


def test_a_missing_environment_is_a_row(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_PEERS", str(tmp_path))
    made = programs(model, choose(["openvino", "litert", "mnn"]), (), out=tmp_path, log=lambda _: None)
    for one in made:
        assert one.missing == f"not installed: python tools/peers.py env {one.peer.environment}"
    inputs = Tried(np.ones((3, *SHAPE[1:]), np.float32), ((),) * 3, "ones")
    found = compare_programs(model, made, inputs, "nothing", threads=(1,), rounds=1)
    assert "openvino-int8: not installed: python tools/peers.py env peers." in str(found)
    assert list(found.measured) == []


def test_converted_programs_are_kept_by_content(
    model: Model, out: Path, table: PeerTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[dict[str, Any]] = []

    def fake(python: Path, order: dict[str, Any], timeout: float) -> None:
        orders.append(order)
        if order["do"] == "mnn":
            raise WorkerFailed("converting failed: Unsupported op")
        calibrated = np.load(order["calibration"]).shape if "calibration" in order else None
        Path(order["into"], "model.xml").write_text(str(calibrated))

    monkeypatch.setattr("edge_lab.peers.prepare.convert", fake)
    monkeypatch.setattr("edge_lab.peers.prepare.interpreter", lambda _: Path(sys.executable))
    monkeypatch.setattr("edge_lab.peers.prepare.unsupported", lambda _: "")
    images = calibration(model, None)
    assert images is not None
    peers = choose(["openvino", "mnn-fp32"])

    def made() -> dict[str, Program]:
        return {p.peer.name: p for p in programs(model, peers, images, out=out, log=lambda _: None)}

    first = made()
    assert first["openvino-fp32"].path == first["openvino-bf16"].path, "one file, told to compute in bfloat16"
    int8 = first["openvino-int8"].path
    assert int8 is not None
    assert int8.read_text() == "(32, 3, 32, 32)"
    assert [p.name for p in int8.parent.iterdir()] == ["model.xml"]
    assert first["mnn-fp32"].missing == "converting failed: Unsupported op"
    count = len(orders)
    assert made()["openvino-int8"].path == int8
    assert [order["do"] for order in orders[count:]] == ["mnn"], "what failed is tried again, what is there is not"
    images = images.take(8)
    assert made()["openvino-int8"].path != int8, "other calibration, other program"


def test_workers_need_nothing_of_edge_lab() -> None:
    for script in (WORKER, CONVERTER):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name.startswith("edge_lab")]
        top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert not top & {"torch", "openvino", "onnxruntime", "executorch"}


def test_what_calibrates_is_not_measured() -> None:
    digits = edge_lab.from_module(
        Good(), SHAPE, name="d", preprocess=Preprocess(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    )
    images = data.load("digits").take(60)
    used = calibration(digits, images)
    assert used is not None
    assert len(used) == 32
    assert len(tried(digits, images, None, used).x) == 28
    with pytest.raises(InputError, match="calibrated with all of them"):
        tried(digits, used, None, used)
    default = calibration(digits, None)
    assert default is not None
    assert (default.name, tried(digits, None, 5, default).name) == ("calibration", "crops")


def test_a_model_without_pictures_has_no_int8(tmp_path: Path) -> None:
    plain = edge_lab.from_module(Good(), SHAPE, name="plain", task="tensor")
    assert calibration(plain, None) is None
    assert len(tried(plain, None, 4).x) == 4
    for refused in (lambda: tried(plain, data.load("digits"), 4), lambda: calibration(plain, data.load("digits"))):
        with pytest.raises(InputError, match="ready tensor"):
            refused()
    made = programs(plain, choose(["onnxruntime-int8"]), (), out=tmp_path, log=lambda _: None)
    assert "nothing calibrates int8" in made[0].missing


def test_a_model_that_hears_is_tried_on_recordings() -> None:
    hears = edge_lab.create("speechnet")
    used = calibration(hears, None)
    assert used is not None
    inputs = tried(hears, None, None, used)
    assert (used.name, inputs.name) == ("spoken-digits", "spoken-digits")
    assert len(used) + len(inputs.x) == len(data.load_sounds("spoken-digits"))  # none is in both
    assert score(outputs_of(edge_lab.eager(hears), inputs.x[:, None]), inputs.targets).top1 > 80  # type: ignore[operator]
    for refused in (lambda: tried(hears, data.load("digits"), 4), lambda: calibration(hears, data.load("digits"))):
        with pytest.raises(InputError, match="takes recordings, so pictures are no use to it"):
            refused()


def test_names_of_engines() -> None:
    assert choose(None) == PEERS
    assert [p.name for p in choose(["openvino-int8"])] == ["openvino-int8"]
    assert [p.name for p in choose(["aoti"])] == [p.name for p in choose(["inductor"])] == ["inductor-fp32"]
    assert {p.engine for p in choose(["*-int8"])} == {"executorch", "onnxruntime", "openvino", "litert"}
    assert len({p.name for p in PEERS}) == len(PEERS)
    with pytest.raises(InputError, match="openvino"):
        choose(["opnvino"])


def test_bfloat16_is_asked_of_the_cpu(tmp_path: Path) -> None:
    (bf16,) = choose(["openvino-bf16"])
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx2 avx512_bf16\n")
    assert unsupported(bf16, cpuinfo) == ""
    cpuinfo.write_text("flags\t\t: fpu avx2\n")
    assert unsupported(bf16, cpuinfo) == "this CPU has no bfloat16 arithmetic"
    assert unsupported(bf16, tmp_path / "none") != ""
    assert unsupported(choose(["openvino-int8"])[0], cpuinfo) == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.json"], "two are compared"),
        (["tinynet", "--fail", "median:5%"], "--fail does not go with a model"),
        (["a.json", "b.json", "--limit", "3", "--engines", "mnn"], "--engines, --limit does not go with two files"),
        (["tinynet", "--engines", "tensorrt"], "no engine 'tensorrt'"),
        (["tinynet", "--engines", ""], "names no engine"),
        (["tinyent"], "no model called"),
        (["tinynet", "--threads", "0"], "--threads"),
        (["tinynet", "--images", "nowhere/"], "nowhere"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "fix:" in error


def test_the_command_prints_the_table(out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["compare", "tinynet", "--engines", "onnxruntime-fp32,mnn-none*,onnxruntime-fp32"]
    assert cli.main([*words, "--out", str(out)]) == 2
    words[3] = "onnxruntime-fp32"
    words += [
        "--limit",
        "4",
        "--threads",
        "1,2",
        "--rounds",
        "2",
        "--json",
        str(tmp_path / "a.json"),
        "--out",
        str(out),
    ]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "ONNX Runtime" in text
    assert "ms, 2 threads" in text
    assert "2 threads, recommended: tinynet/onnxruntime-fp32" in text
    assert (out / "tinynet" / "peers" / "roofline.png").is_file()
    assert [item.latency.threads for item in Measurements.load(tmp_path / "a.json")] == [1, 2]


@pytest.mark.slow
def test_the_engines_of_the_other_environments(model: Model, out: Path, table: PeerTable) -> None:
    """Each of them loads what its converter makes of our bundle, and answers as PyTorch does."""
    if interpreter("peers") is None:
        pytest.skip("no .venv-peers here (python tools/peers.py env peers)")
    found = compare(model, engines=["openvino-fp32", "ncnn", "mnn-fp32"], limit=12, threads=(1,), rounds=2, out=out)
    for row in found.rows:
        assert row.problem == "", row
        assert row.sqnr_db is not None
        assert row.sqnr_db > 45, row
