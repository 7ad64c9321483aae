"""edge-lab-runner listen: a pipe that stays open, signals, and a microphone, which is a program named arecord."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runner_build import run
from test_runner_audio import RATE, expected, same, speech, spoken, tones

from edge_lab.bundle.folder import Bundle
from edge_lab.signals.audio import resample
from edge_lab.signals.recognize import Word

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bundle(artifacts: Path) -> Bundle:
    return tones(artifacts)


class Pipe:
    """`listen -` with a pipe that stays open."""

    def __init__(self, runner: Path, *arguments: object) -> None:
        command = [str(runner), "listen", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def write(self, samples: np.ndarray) -> None:
        self.stdin.write(np.round(samples * 32767).astype("<i2").tobytes())
        self.stdin.flush()

    def end(self) -> tuple[str, str]:
        out, error = self.process.communicate(timeout=300)
        return out.decode(), error.decode()


@pytest.mark.parametrize("stop", [None, signal.SIGINT, signal.SIGTERM])
def test_a_pipe_is_heard_as_it_flows(stop: signal.Signals | None, runner: Path, bundle: Bundle) -> None:
    pipe = Pipe(runner, bundle.path, "-", "--json", "--stats")
    pipe.write(speech()[: int(2.4 * RATE)])
    first = Word(**json.loads(pipe.stdout.readline()))  # comes although the pipe is open
    assert first.label == "low"
    if stop is not None:
        pipe.process.send_signal(stop)
    else:
        pipe.write(speech()[int(2.4 * RATE) :])
        pipe.stdin.write(b"\1")  # half a sample
    out, error = pipe.end()
    assert pipe.process.returncode == 0, error
    assert "windows" in error
    assert [word.label for word in spoken(out)] == ([] if stop else ["high"])


def test_raw_samples_of_another_rate(runner: Path, bundle: Bundle) -> None:
    wanted, _ = expected(bundle, resample(np.round(speech(8000) * 32767).astype(np.float32) / 32768, 8000, RATE))
    pipe = Pipe(runner, bundle.path, "-", "--json", "--rate", "8000")
    pipe.write(speech(8000))
    assert same(spoken(pipe.end()[0]), wanted)


def test_the_microphone_is_arecord(runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(np.round(speech() * 32767).astype("<i2").tobytes())
    arecord = tmp_path / "arecord"
    arecord.write_text(f'#!/bin/sh\ncase "$*" in *"-r 16000"*) cat {raw};; esac\n')
    arecord.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run(runner, "listen", bundle.path, "--microphone", "--json", env=path)
    assert done.returncode == 0, done.stderr
    assert [word.label for word in spoken(done.stdout)] == ["low", "high"]
    arecord.write_text("#!/bin/sh\necho no soundcards found >&2\nexit 3\n")
    done = run(runner, "listen", bundle.path, "--microphone", env=path)
    assert done.returncode == 2
    assert "no soundcards found\nedge-lab-runner: arecord ended with status 3" in done.stderr
    arecord.unlink()
    done = run(runner, "listen", bundle.path, "--microphone", env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "there is no microphone" in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_a_microphone_that_is_stopped_takes_arecord_with_it(runner: Path, bundle: Bundle, tmp_path: Path) -> None:
    arecord = tmp_path / "arecord"
    arecord.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\nexec sleep 60\n"
    )
    arecord.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen([runner, "listen", bundle.path, "--microphone"], env=environment)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
