"""A board that is this machine: an sshd of its own on 127.0.0.1, with throw-away keys and a home folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine_tools import missing, tool

# Commands arrive here. Programs in bin/ stand in for the board's own; `break` ends the connection in the middle.
_LOGIN = """#!/bin/sh
HOME={home} PATH={bin}:$PATH
export HOME PATH
cd "$HOME" || exit 1
echo "welcome to this board" # as many a .bashrc does
case $SSH_ORIGINAL_COMMAND in
  *"tar -x"*) if [ -e "$HOME/break" ]; then
    session=$PPID
    {{ head -c "$(cat "$HOME/break")"; kill -9 "$session"; }} | sh -c "$SSH_ORIGINAL_COMMAND"
    exit 1
  fi ;;
esac
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
_SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {place}/host
AuthorizedKeysFile {place}/user.pub
PidFile {place}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ForceCommand {place}/login
"""
_CLIENT = """
IdentityFile {place}/{key}
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {place}/{known}
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class Board:
    """Its folder here, its home, and its address."""

    place: Path
    port: int

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    def program(self, name: str, text: str) -> None:
        """Let this shell script stand in for a program of the board."""
        path = self.place / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def client(self, *, key: str = "user", known: str = "known") -> None:
        """What the ssh of this test has: which key, which list of known hosts."""
        text = _CLIENT.format(place=self.place, key=key, known=known)
        (self.place / "client.conf").write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """As it was when it was new."""
        for folder in (self.home, self.place / "bin"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.client()


@contextmanager
def running_board(place: Path) -> Iterator[Board]:
    """Start it, and end it afterwards. `PATH` is changed so that `ssh` knows its keys."""
    keygen = tool("ssh-keygen", package="openssh-client")
    ssh = tool("ssh", package="openssh-client")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if sshd is None:
        missing("sshd is not installed (Debian: openssh-server; all of them: make arm-tools)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        board = Board(place, free.getsockname()[1])
    for name in ("host", "user", "stranger"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", place / name], check=True)
    board.clear()
    _write_settings(board, ssh)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists; a package's script would have made it
    log = (place / "log").open("w")
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(place / "sshd.conf")], stderr=log, stdin=subprocess.DEVNULL)
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", f"{place / 'wrapper'}{os.pathsep}{os.environ['PATH']}")
    try:
        _wait(board, process)
        yield board
    finally:
        patch.undo()
        process.terminate()
        process.wait(10)
        log.close()


def _write_settings(board: Board, ssh: str) -> None:
    place = board.place
    host, stranger = ((place / f"{name}.pub").read_text().rsplit(" ", 1)[0] for name in ("host", "stranger"))
    files = {
        "known": f"[127.0.0.1]:{board.port} {host}\n",
        "known-other": f"[127.0.0.1]:{board.port} {stranger}\n",
        "known-nobody": "",
        "sshd.conf": _SSHD.format(port=board.port, place=place),
        "login": _LOGIN.format(home=board.home, bin=place / "bin"),
        "wrapper/ssh": f'#!/bin/sh\nexec {ssh} -F {place}/client.conf "$@"\n',
    }
    (place / "wrapper").mkdir()
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")
    for name in ("login", "wrapper/ssh"):
        (place / name).chmod(0o755)


def _wait(board: Board, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", board.port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"sshd did not start: {(board.place / 'log').read_text()}")
