"""Measure bundles on a device: deploy, run `edge-lab-runner bench` there, and bring its measurements back."""

from __future__ import annotations

import json
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.devices.remote.sending import Sent, deploy, deploy_runner
from edge_lab.devices.remote.ssh import Device, Facts, facts, shell
from edge_lab.flow.bench import BenchConfig
from edge_lab.measure.record import Measurement, Measurements, from_json
from edge_lab.results.readiness import Gate

# Bits of `vcgencmd get_throttled`; sixteen places further up: it happened since the board was started.
_THROTTLED = {0: "the supply voltage is too low", 1: "the clock is capped", 2: "throttled", 3: "at its heat limit"}


def remote_bench(
    url: str,
    bundles: Sequence[Path | str],
    config: BenchConfig | None = None,
    *,
    build: Path | None = None,
    command: str = "",
) -> Measurements:
    """Measure bundles on a device, each in processes of its own there.

    Args:
        url: ssh://[user@]host[:port][/folder].
        bundles: folders here, for ExecuTorch.
        config: as for `bench`; `rounds` are those of single_stream, the others take a tenth (at least 5, or 3 starts).
            The runner binds itself to the last cores of the device: the first serves its interrupts. With `energy`,
            the result says what its counters gave, or why there are none.
        build: see `deploy_runner`.
        command: what to record as the command; the address is taken out of it.

    Raises:
        InputError: settings that the runner does not have.
        EdgeLabError: no connection, the device is full, has another processor, or a bundle does not run there.
    """
    config = config or BenchConfig()
    _refuse_settings(config)
    device = Device.parse(url)
    about = facts(device)
    runner, sent = deploy_runner(device, about, build)
    _say(sent)
    places = [_deployed(device, bundle) for bundle in bundles]
    if len(set(places)) < len(places):
        raise InputError("two bundles have the same name.", "results are told apart by it.", "time them one by one.")
    found = [_one(device, runner, place, *how) for how in _rounds(config, about) for place in places]
    if not config.energy:  # the runner always reads what counters there are
        found = [replace(one, items=tuple(replace(item, energy=None) for item in one)) for one in found]
    return _together(found, about, facts(device), command.replace(url, "ssh://DEVICE"))


def bench_command(a: Namespace, config: BenchConfig) -> Measurements:
    """`edge-lab bench --device`."""
    return remote_bench(a.device, a.bundles, config, build=a.runner, command=a.command_line)


def deploy_command(a: Namespace) -> int:
    """`edge-lab deploy`: 0 if every bundle passes `edge-lab-runner check` on the device, 1 if one does not."""
    device = Device.parse(a.device)
    runner, sent = deploy_runner(device, facts(device), a.runner)
    _say(sent)
    good = True
    for bundle in a.bundles:
        place = _deployed(device, bundle)
        done = shell(device, f"{_run(runner)} check {shlex.quote(place)}")
        if done.code not in (0, 1) or not done.out:
            raise _refused(device, done.err)
        print(done.out, end="")
        good = good and done.code == 0
    print("ready" if good else "not fit to run", f"on {device}:", runner)
    return 0 if good else 1


def _rounds(config: BenchConfig, about: Facts) -> list[list[str]]:
    """The arguments of each call of the runner."""
    calls = []
    for threads in config.threads:
        for scenario in config.scenarios:
            if scenario == "cold_start" and threads != config.threads[0]:
                continue
            least = {"single_stream": config.rounds, "offline_batch": 5, "cold_start": 3}[scenario]
            rounds = max(least, config.rounds // 10)
            call = ["--scenario", scenario, "--threads", str(threads), "--rounds", str(rounds)]
            call += ["--warmup", str(config.warmup)]
            if config.pin and threads < about.cores:
                call += ["--pin", ",".join(str(core) for core in range(about.cores - threads, about.cores))]
            calls.append(call)
    return calls


def _one(device: Device, runner: str, place: str, *arguments: str) -> Measurements:
    script = f"""
set -e
result=$(mktemp)
trap 'rm -f "$result"' EXIT
{_run(runner)} bench {shlex.quote(place)} {shlex.join(arguments)} --json "$result" > /dev/null
cat "$result"
"""
    done = shell(device, script)
    if done.code != 0:
        raise _refused(device, done.err)
    try:
        document = json.loads(done.out[max(0, done.out.find("{")) :])  # a .bashrc may have said something before
    except ValueError as error:
        why = f"it is not JSON: {error}."
        raise EdgeLabError(f"the measurement of {place} came back damaged.", why, "run the command again.") from error
    return from_json(document, f"the measurement of {place} on {device}")


def _run(runner: str) -> str:
    return shlex.quote(runner if runner.startswith("/") else f"./{runner}")


def _together(found: list[Measurements], before: Facts, after: Facts, command: str) -> Measurements:
    """One file: the facts of the device, the worst of all gates, and every measurement."""
    state = _throttled(before, after)
    for one in found:
        state = state.worst(one.gate)
    first = found[0]
    device = first.device | {"libc": after.libc}
    if after.throttled is not None:
        device |= {"throttled": f"0x{after.throttled:x}"}
    items: tuple[Measurement, ...] = tuple(item for one in found for item in one)
    return replace(first, command=command, device=device, gate=state, items=items)


def _throttled(before: Facts, after: Facts) -> Gate:
    """Hot if the firmware held the board back: now, or since the measurement began."""
    bits = after.throttled or 0
    since = (bits & ~(before.throttled or 0)) >> 16
    signs = [text for bit, text in _THROTTLED.items() if (bits | since) >> bit & 1]
    if not signs:
        return Gate("quiet")
    return Gate("hot", reasons=("the board's firmware says: " + ", ".join(signs) + ".",))


def _refuse_settings(config: BenchConfig) -> None:
    for is_set, name, why in (
        (config.when_busy != "label", "--when-busy", "the runner measures at once and says how busy the device was"),
        (config.watts_per_core is not None, "--watts-per-core", "the runner reads counters and estimates nothing"),
    ):
        if is_set:
            raise InputError(f"{name} has no meaning with --device.", f"{why}.", f"leave {name} out.")


def _refused(device: Device, err: str) -> EdgeLabError:
    """The three lines of the runner as ours; or why it did not even start."""
    if lines := re.search(r"edge-lab-runner: (.*)\n  why: (.*)\n  fix: (.*)", err):
        return EdgeLabError(f"on {device}: {lines[1]}", lines[2], lines[3])
    if missing := re.search(r"error while loading shared libraries: (\S+):", err):
        return EdgeLabError(
            f"the runner does not start on {device}.",
            f"{missing[1]} is missing there.",
            "on the device: sudo apt install libjpeg62-turbo libpng16-16 (or rpi/install.sh --packages).",
        )
    if version := re.search(r"version `?(GLIBC\w*_[\d.]+)'? not found", err):
        return EdgeLabError(
            f"the runner does not start on {device}.",
            f"its C library is too old: {version[1]} is needed.",
            "use Raspberry Pi OS 12 (Bookworm) or newer.",
        )
    last = " ".join(err.strip().splitlines()[-2:]) or "it said nothing."
    return EdgeLabError(f"the runner failed on {device}.", last, f"try it there: ssh {' '.join(device.arguments)}")


def _deployed(device: Device, bundle: Path | str) -> str:
    """The bundle's folder on the device."""
    sent = deploy(device, bundle)
    _say(sent)
    return sent.folder


def _say(sent: Sent | None) -> None:
    if sent is not None:
        print(sent, file=sys.stderr)
