"""rpi/install.sh in a scratch root, with the runner of this machine: all of it or nothing; its service and script."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import pytest
from aarch64_build import ROOT
from machine_tools import tool
from runner_build import CLIENT, installed_runner
from torch import nn

import edge_lab
from edge_lab.core.files import sha256

pytestmark = pytest.mark.filterwarnings("ignore")
SCRIPTS = ("install.sh", "edge-lab-listen", "edge-lab-listen.service")
Install = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def built(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is copied to a board, as `make runner-aarch64` fills it, but for this machine."""
    place = installed_runner(artifacts, tmp_path_factory.mktemp("install") / "dist")
    (place / "python").mkdir()
    for file in (CLIENT, *(ROOT / "rpi" / name for name in SCRIPTS)):
        shutil.copy(file, place / "python" if file == CLIENT else place)
    return place


@pytest.fixture(scope="module")
def words(artifacts: Path) -> Path:
    """A keyword bundle."""
    model = nets.tensor_model(nn.Sequential(nn.Linear(800, 4), nn.Tanh()), (1, 800))
    spec = replace(model.spec, name="words", task="keyword", labels=("yes", "no", "on", "off"))
    return edge_lab.to(replace(model, spec=spec), "linux-portable-fp32", out=artifacts).path


@pytest.fixture
def dist(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(built, tmp_path / "dist")
    return tmp_path / "dist"


@pytest.fixture
def install(dist: Path, tmp_path: Path) -> Install:
    """Run it in `tmp_path/root`; programs in `tmp_path/bin` come first."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "root").mkdir()

    def call(*arguments: object, script: Path = dist / "install.sh") -> subprocess.CompletedProcess[str]:
        env = os.environ | {"DESTDIR": str(tmp_path / "root"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run([str(script), *map(str, arguments)], capture_output=True, text=True, env=env, timeout=60)

    return call


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "\n  why: " in done.stderr
    assert "\n  fix: " in done.stderr


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_it_installs_a_runner_a_client_and_a_recognizer(install: Install, words: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    program(tmp_path / "bin", "arecord", "exit 0")
    done = install("--listen", words)
    assert done.returncode == 0, done.stdout + done.stderr
    prefix = root / "opt/edge-lab"
    assert os.readlink(root / "usr/local/bin/edge-lab-runner") == "/opt/edge-lab/bin/edge-lab-runner"
    listening = root / "var/lib/edge-lab/listen"
    checked = subprocess.run([prefix / "bin/edge-lab-runner", "check", listening], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    code = f"from edge_lab_runner import Model; print(Model({str(listening)!r}).labels)"
    python = tool("python3", package="python3")
    client = subprocess.run([python, "-c", code], cwd=prefix / "python", capture_output=True, text=True)
    assert client.stdout.strip() == "('yes', 'no', 'on', 'off')", client.stderr
    assert (
        "ExecStart=/opt/edge-lab/bin/edge-lab-listen"
        in (root / "etc/systemd/system/edge-lab-listen.service").read_text()
    )
    settings = root / "etc/default/edge-lab-listen"
    settings.write_text("EDGE_LAB_MICROPHONE=plughw:2,0\n")
    before, content = files_in(root), sha256(prefix)
    assert install("--listen", words).returncode == 0
    assert (files_in(root), sha256(prefix)) == (before, content)
    assert settings.read_text() == "EDGE_LAB_MICROPHONE=plughw:2,0\n"
    assert install("--uninstall").returncode == 0
    assert files_in(root) == set()


def test_another_prefix_is_followed_everywhere(install: Install, words: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    program(tmp_path / "bin", "arecord", "exit 0")
    assert install("--prefix", "/srv/lab/", "--listen", words).returncode == 0
    assert "ExecStart=/srv/lab/bin" in (root / "etc/systemd/system/edge-lab-listen.service").read_text()
    assert (root / "srv/lab/bin/edge-lab-runner").is_file()
    (root / "opt/edge-lab").mkdir(parents=True)
    (root / "opt/edge-lab/thesis.txt").write_text("mine")
    refused(install("--uninstall"), "it is something else")
    assert (root / "opt/edge-lab/thesis.txt").is_file()
    for prefix in ("here", "/", "/srv/edge lab", "/srv/$(id)"):
        refused(install("--prefix", prefix), "an absolute path")
    assert install("--uninstall", "--prefix", "/srv/lab").returncode == 0
    assert files_in(root) == {"opt/edge-lab/thesis.txt"}


def test_dry_run_changes_nothing(install: Install, words: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin", "arecord", "exit 0")
    done = install("--dry-run", "--listen", words)
    assert done.returncode == 0, done.stderr
    assert "would copy" in done.stdout
    assert "nothing was changed" in done.stdout
    assert files_in(tmp_path / "root") == set()


def test_boards_and_files_that_do_not_fit(install: Install, dist: Path, words: Path, tmp_path: Path) -> None:
    fake, runner = tmp_path / "bin", dist / "bin/edge-lab-runner"
    program(fake, "uname", "echo armv7l")
    refused(install(), "write a card with the 64-bit")
    (fake / "uname").unlink()
    program(fake, "getconf", "echo 32")
    refused(install(), "32-bit on a 64-bit kernel")
    program(fake, "getconf", '[ "$1" = LONG_BIT ] && echo 64 || echo glibc 2.31')
    refused(install(), "its C library is 2.31")
    (fake / "getconf").unlink()
    program(fake, "df", "echo Filesystem; echo /dev/root 9999 9000 500 95% /")
    refused(install(), "not enough space")
    (fake / "df").unlink()
    refused(install("--listen", tmp_path), "no bundle at")
    refused(install("--listen"), "--listen needs a folder")
    refused(install("--lisen"), "no option --lisen")
    refused(install("--from", tmp_path), "there is no runner")
    program(fake, "arecord", "exit 0")
    shutil.copytree(words, tmp_path / "damaged")
    (tmp_path / "damaged/model.pte").write_bytes(b"")
    refused(install("--listen", tmp_path / "damaged"), "the bundle does not work here")
    whole = runner.read_bytes()
    runner.write_bytes(whole[:18] + b"\xb7\x00" + whole[20:])
    refused(install(), "made for aarch64 processors")
    runner.write_bytes(whole)
    (dist / "lib/libexecutorch.so").unlink()
    refused(install(), "libexecutorch.so")
    assert files_in(tmp_path / "root") == set()


def test_an_upgrade_that_fails_leaves_the_old_one(install: Install, dist: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert install().returncode == 0
    before, content = files_in(root), sha256(root / "opt/edge-lab")
    (dist / "lib/libedge_lab.so").write_bytes(b"newer")
    real = shutil.which("cp")
    program(
        tmp_path / "bin",
        "cp",
        f'case "$*" in *python*) echo "cp: No space left on device" >&2; exit 1;; esac; exec {real} "$@"',
    )
    assert install().returncode != 0
    assert (files_in(root), sha256(root / "opt/edge-lab")) == (before, content)


def test_the_scripts_are_clean() -> None:
    shellcheck = tool("shellcheck", package="shellcheck")
    names = [str(ROOT / "rpi" / name) for name in ("install.sh", "edge-lab-listen", "emulate")]
    done = subprocess.run([shellcheck, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_service_is_what_systemd_understands(install: Install, words: Path, tmp_path: Path) -> None:
    text = (ROOT / "rpi/edge-lab-listen.service").read_text()
    for line in (
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "PrivateNetwork=yes",
        "MemoryMax=150M",
        "User=edge-lab",
        "StandardOutput=journal",
    ):
        assert line in text.splitlines()
    assert "ProcSubset=" not in text  # would hide /proc/cpuinfo, by which the engine chooses its kernels
    if analyze := shutil.which("systemd-analyze"):
        program(tmp_path / "bin", "true", "")
        unit = tmp_path / "edge-lab-listen.service"
        unit.write_text(text.replace("/opt/edge-lab/bin/edge-lab-listen", str(tmp_path / "bin/true")))
        done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if "edge-lab-listen" in line]
        assert (done.returncode, said) == (0, []), done.stderr


def test_listening_ends_with_an_error_when_the_microphone_goes(tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    shutil.copy(ROOT / "rpi/edge-lab-listen", place)
    program(place, "edge-lab-runner", 'echo "$@"; cat > "$HOME/heard"')
    env = os.environ | {"HOME": str(tmp_path), "PATH": f"{place}:{os.environ['PATH']}"}

    def listen(**more: str) -> subprocess.CompletedProcess[str]:
        command = [str(place / "edge-lab-listen"), "words"]
        return subprocess.run(command, capture_output=True, text=True, env=env | more, timeout=30)

    cards = "card 2: Device [USB Audio Device], device 0: USB Audio [USB Audio]"
    record = (
        f'[ "$1" != -l ] || {{ echo "**** List ****"; echo "{cards}"; exit; }}; echo "$@" >> "$HOME/asked"; echo sound'
    )
    program(place, "arecord", record)
    done = listen()
    assert (done.returncode, done.stdout) == (0, "listen words -\n"), done.stderr
    assert (tmp_path / "heard").read_text() == "sound\n"
    assert listen(EDGE_LAB_MICROPHONE="plughw:1,0").returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[2] for line in asked] == ["plughw:2,0", "plughw:1,0"]
    assert all("-t raw -f S16_LE -r 16000 -c 1" in line for line in asked)
    program(place, "arecord", f"{record}; echo 'arecord: read error: No such device' >&2; exit 1")
    assert listen(EDGE_LAB_MICROPHONE="plughw:2,0").returncode == 1
    program(place, "arecord", "exit 0")
    done = listen()
    assert done.returncode == 1
    assert "there is no microphone" in done.stderr
    program(place, "arecord", f"{record}; cat /dev/zero")
    program(place, "edge-lab-runner", "exit 2")  # refuses the bundle: the service must not start it again
    assert listen().returncode == 2
