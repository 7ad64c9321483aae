"""One command on a device, through the ssh of this machine with its configuration, keys and known hosts.

Nothing is ever asked: a missing key, an unknown host, a host whose key changed and a connection that breaks are errors,
each with what to do. Scripts are written for a POSIX shell, as in Debian or BusyBox.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote, urlsplit

from edge_lab.core.errors import EdgeLabError, InputError, MissingTool

_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=INFO")
_SSH_FAILED = 255


@dataclass(frozen=True)
class Device:
    """A board. `folder`: where edge-lab keeps its files on it, relative to the home folder unless it starts with /."""

    host: str
    user: str | None = None
    port: int | None = None
    folder: str = "edge-lab"

    @staticmethod
    def parse(url: str) -> Device:
        """Read ssh://[user@]host[:port][/folder].

        Raises:
            InputError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        host, user = parts.hostname or "", unquote(parts.username) if parts.username else None
        safe = all(re.fullmatch(r"[\w.:%][\w.:%-]*", word) for word in (host, user) if word is not None)
        if parts.scheme != "ssh" or not safe or parts.query or parts.fragment or parts.password:
            raise InputError(
                f"--device {url!r} is no address of a device.",
                "only ssh is known, and keys instead of passwords.",
                "write it like ssh://pi@raspberrypi.local or ssh://pi@192.168.1.20:2222.",
            )
        return Device(host, user, port, unquote(parts.path).rstrip("/") or "edge-lab")

    def __str__(self) -> str:
        return (f"{self.user}@" if self.user else "") + self.host + (f":{self.port}" if self.port else "")

    @property
    def arguments(self) -> list[str]:
        """What ssh needs to find it."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, *(["-l", self.user] if self.user else []), "--", self.host]


@dataclass(frozen=True)
class Done:
    """How a command on the device ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Facts:
    """What decides which programs run on a device; `throttled`: bits of the firmware, None if it tells nothing."""

    arch: str
    bits: int
    libc: str
    cores: int
    installed: str | None
    throttled: int | None


def shell(device: Device, script: str, *, stdin: IO[bytes] | None = None) -> Done:
    """Run a script on the device; its exit code is the caller's to look at.

    Raises:
        MissingTool: this machine has no ssh.
        EdgeLabError: no connection, or it broke.
    """
    if shutil.which("ssh") is None:
        raise MissingTool("there is no ssh here.", "devices are reached through it.", "install openssh-client.")
    options = [word for option in _OPTIONS for word in ("-o", option)]
    remote = "exec sh -c " + shlex.quote("LC_ALL=C; export LC_ALL\n" + script)
    command = ["ssh", "-T", *options, *device.arguments, remote]
    done = subprocess.run(command, stdin=stdin or subprocess.DEVNULL, capture_output=True)
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace").replace("\r", "")
    if done.returncode == _SSH_FAILED:
        raise _no_connection(device, err)
    if "No space left on device" in err or "Disk quota exceeded" in err:
        raise EdgeLabError(
            f"{device} is full.",
            "nothing half-written was left in place of what was there.",
            f"free some space, or name a folder of another disk: ssh://{device}/media/disk/edge-lab",
        )
    return Done(done.returncode, out, err)


def checked(device: Device, script: str, doing: str, *, stdin: IO[bytes] | None = None) -> str:
    """The output of a script that must succeed.

    Raises:
        EdgeLabError: it did not.
    """
    done = shell(device, script, stdin=stdin)
    if done.code != 0:
        last = " ".join(done.err.strip().splitlines()[-2:]) or f"exit code {done.code}."
        raise EdgeLabError(f"{doing} failed on {device}.", last, f"look at it there: ssh {' '.join(device.arguments)}")
    return done.out


_FACTS = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
say arch "$(uname -m)"
say bits "$(getconf LONG_BIT 2> /dev/null || echo 0)"
say libc "$(getconf GNU_LIBC_VERSION 2> /dev/null || echo unknown)"
say cores "$(nproc 2> /dev/null || echo 1)"
for one in /opt/edge-lab/bin/edge-lab-runner "$(command -v edge-lab-runner)"; do
  if [ -x "$one" ]; then say installed "$one"; break; fi
done
say throttled "$(vcgencmd get_throttled 2> /dev/null | sed -n 's/^throttled=//p')"
"""


def facts(device: Device) -> Facts:
    """Ask the device what it is.

    Raises:
        EdgeLabError: no connection.
    """
    text = checked(device, _FACTS, "looking around")
    known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    bits = re.fullmatch(r"0x([0-9a-fA-F]+)", known.get("throttled", ""))
    return Facts(
        known.get("arch", "unknown"),
        _whole(known.get("bits")),
        known.get("libc", "unknown"),
        max(1, _whole(known.get("cores"))),
        known.get("installed"),
        int(bits[1], 16) if bits else None,
    )


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _no_connection(device: Device, err: str) -> EdgeLabError:
    """ssh ended with 255: what it said decides what to do."""
    at = ("-p " + str(device.port) + " " if device.port else "") + (f"{device.user}@" if device.user else "")
    known = f"[{device.host}]:{device.port}" if device.port else device.host
    log_in = f"ssh {at}{device.host}"
    for sign, what, why, fix in (
        (
            "IDENTIFICATION HAS CHANGED",
            f"{device} is not the machine that this address was before.",
            "its host key changed: a newly written card has a new one, and so would somebody in between.",
            f"if you wrote the card anew: ssh-keygen -R '{known}', then {log_in} once and compare the fingerprint.",
        ),
        (
            "Host key verification failed",
            f"{device} is not known yet.",
            "its host key was never confirmed, and nobody can be asked here.",
            f"{log_in} once, and compare the fingerprint it shows with the board's.",
        ),
        (
            "Permission denied",
            f"{device} does not let us in.",
            "no key of yours is accepted there, and passwords are not asked for.",
            f"ssh-copy-id {at}{device.host} (ssh-keygen before it, if you have no key).",
        ),
    ):
        if sign in err:
            return EdgeLabError(what, why, fix)
    lines = [line for line in err.strip().splitlines() if line and not line.startswith("Warning: Permanently")]
    last = lines[-1] if lines else "ssh said nothing."
    if re.search(r"connect to host|resolve hostname|Connection timed out|banner exchange", err):
        return EdgeLabError(
            f"{device} can't be reached.", last, "is it on, in this network, and is ssh enabled (raspi-config)?"
        )
    return EdgeLabError(
        f"the connection to {device} broke.",
        f"{last} What was sent is kept aside there and not in use.",
        "run the same command again: only what is missing is sent.",
    )
