"""`edge-lab bench --device` and `edge-lab deploy` against a real sshd on this machine, and everything that can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nets
import pytest
from board import Board, running_board
from machine_tools import tool
from runner_build import installed_runner

import edge_lab.core.files
from edge_lab.bundle.folder import Bundle
from edge_lab.cli import main as cli
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.devices import remote
from edge_lab.devices.remote import bench
from edge_lab.flow.bench import BenchConfig
from edge_lab.measure import Energy, Engine, Gate, Latency, Measurement, Measurements

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def dist(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner of this machine, installed: it is the board's."""
    return installed_runner(artifacts, tmp_path_factory.mktemp("runner") / "dist")


@pytest.fixture(scope="module")
def the_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def board(the_board: Board) -> Board:
    the_board.clear()
    return the_board


@pytest.fixture
def bundle(artifacts: Path, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    made = edge_lab.to(nets.good(), "linux-xnnpack-fp32", out=artifacts)
    shutil.copytree(made.path, tmp_path / "good/xnnpack-fp32")
    return Bundle.load(tmp_path / "good/xnnpack-fp32")


def fails(board: Board, bundle: Bundle, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What `edge-lab bench` says; it must be three lines, and nothing may be in use on the board."""
    capsys.readouterr()
    assert cli.main(["bench", str(bundle.path), "--device", board.url, "--rounds", "1", *more]) == 2
    said = capsys.readouterr().err
    assert "\n  why: " in said
    assert "\n  fix: " in said
    assert "Traceback" not in said
    return said


def test_bench_brings_measurements_back(
    board: Board, bundle: Bundle, dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board.program(
        "vcgencmd", 'if [ -e "$HOME/seen" ]; then echo throttled=0x50005; else echo throttled=0x0; fi; : > "$HOME/seen"'
    )
    out = tmp_path / "m.json"
    scenarios = [f"--scenario={name}" for name in ("single_stream", "offline_batch", "cold_start")]
    arguments = ["--runner", str(dist), "--rounds", "4", "--json", str(out), *scenarios]
    assert cli.main(["bench", str(bundle.path), "--device", board.url, *arguments]) == 0
    shown = capsys.readouterr()
    assert "sent 7 of 7 files" in shown.err
    found = Measurements.load(out)
    assert (found.tool, found.recorded) == ("edge-lab-runner", None)
    items = {item.latency.scenario: item for item in found}
    assert [len(items[s].latency.samples_s) for s in ("single_stream", "offline_batch", "cold_start")] == [4, 5, 3]
    assert all(item.name == "good/xnnpack-fp32" and item.engine.name == "executorch" for item in found)
    assert items["single_stream"].pinned_cpus is not None
    assert "127.0.0.1" not in out.read_text()
    assert "--device ssh://DEVICE" in found.command
    assert found.device["throttled"] == "0x50005"
    assert found.gate.state == "hot"
    assert "supply voltage" in " ".join(found.gate.reasons)
    assert "glibc" in found.device["libc"]
    assert "good/xnnpack-fp32" in shown.out


def test_only_what_changed_is_sent(board: Board, bundle: Bundle, dist: Path) -> None:
    device = remote.Device.parse(board.url)
    about = remote.facts(device)
    runner, first = remote.deploy_runner(device, about, dist)
    assert first is not None
    assert first.files == first.of_files == 7
    again = remote.deploy_runner(device, about, dist)[1]
    assert again is not None
    assert again.files == 0
    sent = remote.deploy(device, bundle.path)
    assert sent.files == len(bundle.files) + 1
    assert remote.deploy(device, bundle.path).files == 0
    (board.home / sent.folder / "golden/0.png").write_bytes(b"damaged")
    (board.home / sent.folder / "of an older bundle").touch()
    sent = remote.deploy(device, bundle.path)
    assert (sent.files, sent.bytes) == (1, bundle.files["golden/0.png"].bytes)
    there = {str(p.relative_to(board.home / sent.folder)) for p in (board.home / sent.folder).rglob("*") if p.is_file()}
    assert there == {*bundle.files, "bundle.json"}
    (board.home / runner).unlink()
    assert remote.deploy_runner(device, about, dist)[1] == remote.Sent(
        "edge-lab/runner", 1, (dist / "bin/edge-lab-runner").stat().st_size, 7
    )
    assert not list(board.home.rglob("*.part")) + list(board.home.rglob("*.old"))


def test_deploy_checks_the_bundle_on_the_board(
    board: Board, bundle: Bundle, dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"{board.url}{tmp_path}/another disk"
    arguments = ["--device", elsewhere, "--runner", str(dist)]
    assert cli.main(["deploy", str(bundle.path), *arguments]) == 0
    shown = capsys.readouterr().out
    assert shown.count("PASS") == 5
    assert "ready on 127.0.0.1" in shown
    assert (tmp_path / "another disk/bundles/good/xnnpack-fp32/bundle.json").is_file()
    document = json.loads((bundle.path / "bundle.json").read_text())
    document["golden"][0]["atol"] = 1e-9
    expected = bundle.path / "golden/0.output.bin"
    expected.write_bytes(bytes(len(expected.read_bytes())))
    document["files"]["golden/0.output.bin"]["sha256"] = edge_lab.core.files.sha256(expected)
    (bundle.path / "bundle.json").write_text(json.dumps(document))
    assert cli.main(["deploy", str(bundle.path), *arguments]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_connection_that_breaks_leaves_the_old_bundle_and_goes_on_later(
    board: Board, bundle: Bundle, dist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = remote.Device.parse(board.url)
    place = board.home / remote.deploy(device, bundle.path).folder
    old = (place / "bundle.json").read_bytes()
    (bundle.path / "notes.bin").write_bytes(bytes(range(256)) * 8000)
    (bundle.path / "a-note.bin").write_bytes(b"first")
    bundle.save()
    changed = Bundle.load(bundle.path)
    (board.home / "break").write_text("200000")
    said = fails(board, changed, capsys, "--runner", str(dist))
    assert "the connection to 127.0.0.1" in said
    assert "only what is missing is sent" in said
    with pytest.raises(EdgeLabError, match="broke"):
        remote.deploy(device, changed.path)
    assert (place / "bundle.json").read_bytes() == old
    assert not (place / "notes.bin").exists()
    (board.home / "break").unlink()
    sent = remote.deploy(device, changed.path)
    assert 0 < sent.files < 3  # the note that had arrived is not sent again
    assert (place / "notes.bin").read_bytes() == (bundle.path / "notes.bin").read_bytes()
    assert (place / "bundle.json").read_bytes() != old
    assert not list(place.parent.glob("*.part"))


def test_who_can_not_be_reached(board: Board, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    board.client(key="stranger")
    said = fails(board, bundle, capsys)
    assert "does not let us in" in said
    assert f"ssh-copy-id -p {board.port} 127.0.0.1" in said
    board.client(known="known-nobody")
    assert "is not known yet" in fails(board, bundle, capsys)
    board.client(known="known-other")
    said = fails(board, bundle, capsys)
    assert "is not the machine that this address was before" in said
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in said
    board.client()
    nobody = Board(board.place, 9)
    assert "can't be reached" in fails(nobody, bundle, capsys)


def test_boards_that_do_not_fit(
    board: Board,
    bundle: Bundle,
    dist: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge_lab, "__file__", str(tmp_path / "none/edge_lab/__init__.py"))
    monkeypatch.chdir(tmp_path)  # no runner is found by itself
    said = fails(board, bundle, capsys)
    assert "there is no runner for x86_64" in said
    assert "make runner" in said
    board.program("uname", "echo riscv64")
    assert "there is no runner for riscv64" in fails(board, bundle, capsys)
    board.program("uname", "echo aarch64")
    said = fails(board, bundle, capsys, "--runner", str(dist))
    assert "it is made for x86_64 processors, the device has aarch64" in said
    assert "make arm-tools runner-aarch64" in said
    board.program("getconf", "echo 32")
    assert "32-bit system" in fails(board, bundle, capsys, "--runner", str(dist))
    assert "holds no runner" in _of_fresh(board, bundle, capsys, tmp_path)
    assert not (board.home / "edge-lab").exists()


def _of_fresh(board: Board, bundle: Bundle, capsys: pytest.CaptureFixture[str], empty: Path) -> str:
    board.clear()
    return fails(board, bundle, capsys, "--runner", str(empty))


def test_a_board_that_is_full(board: Board, bundle: Bundle, dist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board.program("df", "echo Filesystem; echo /dev/mmcblk0p2 9999 9000 5000 99% /")
    assert "has no room for edge-lab/runner" in fails(board, bundle, capsys, "--runner", str(dist))
    board.clear()
    board.program("tar", "cat > /dev/null; echo 'tar: lib: Cannot write: No space left on device' >&2; exit 2")
    said = fails(board, bundle, capsys, "--runner", str(dist))
    assert "is full" in said
    assert not list(board.home.rglob("*.part"))
    assert not (board.home / "edge-lab/runner").exists()


def test_a_runner_that_does_not_start_says_what_is_missing(
    board: Board, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = tmp_path / "build"
    (build / "bin").mkdir(parents=True)
    real = Path(tool("true", package="coreutils")).read_bytes()
    (build / "bin/edge-lab-runner").write_bytes(real)  # a program of this processor that answers nothing
    assert "came back damaged" in fails(board, bundle, capsys, "--runner", str(build))
    for text, said in (
        ("error while loading shared libraries: libjpeg.so.62: cannot open shared object file", "libjpeg62-turbo"),
        ("./x: /lib/libc.so.6: version `GLIBC_2.34' not found (required by ./x)", "Bookworm"),
        ("edge-lab-runner: it broke.\n  why: a reason.\n  fix: a cure.", "on 127.0.0.1"),
        ("Illegal instruction", "the runner failed"),
    ):
        error = remote.bench._refused(remote.Device.parse(board.url), text)
        assert said in str(error)


@pytest.mark.parametrize(
    "url", ["pi@raspberrypi", "http://pi", "ssh://", "ssh://-oProxyCommand=x", "ssh://pi:pw@b", "ssh://b:x"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="no address of a device"):
        remote.Device.parse(url)


def test_addresses() -> None:
    device = remote.Device.parse("ssh://pi@raspberrypi.local:2222/media/usb/edge%20lab")
    assert device == remote.Device("raspberrypi.local", "pi", 2222, "/media/usb/edge lab")
    assert str(device) == "pi@raspberrypi.local:2222"
    assert remote.Device.parse("ssh://board") == remote.Device("board")


@pytest.mark.parametrize("asked", [True, False])
def test_energy_is_in_the_result_if_it_was_asked_for(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    item = Measurement("m/a", Engine("e"), Latency((1.0,), (), 0, clock="wall"), energy=Energy("not available"))
    found = Measurements("t", "c", "2026-11-23T08:00:00Z", {}, Gate("quiet"), {}, (item,))
    about = remote.Facts("aarch64", 64, "glibc 2.36", 4, None, None)
    for name, answer in (("facts", about), ("deploy_runner", ("r", None)), ("_deployed", "p"), ("_one", found)):
        monkeypatch.setattr(bench, name, lambda *_, answer=answer: answer)
    (got,) = remote.remote_bench("ssh://127.0.0.1:9", ["b"], BenchConfig(energy=asked))
    assert got.energy == (item.energy if asked else None)


def test_settings_that_only_this_machine_has(bundle: Bundle) -> None:
    for config in (BenchConfig(when_busy="refuse"), BenchConfig(watts_per_core=2.0)):
        with pytest.raises(InputError, match="no meaning with --device"):
            remote.remote_bench("ssh://127.0.0.1:9", [bundle.path], config)
