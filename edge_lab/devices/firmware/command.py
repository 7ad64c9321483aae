"""`edge-lab firmware`: a bundle on an emulated board, its costs, and a file of measurements."""

from __future__ import annotations

import sys
from argparse import Namespace

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import InputError
from edge_lab.devices.firmware.by_layer import LayerCost, layers
from edge_lab.devices.firmware.emulator import Answer, Run, link, run
from edge_lab.devices.firmware.image import machine
from edge_lab.measure.record import Engine, Measurement, Measurements, now

_SHOWN = 10  # answers that are printed one by one
_CLOCK = "instructions counted by an emulator; the samples are the emulator's time on this machine, not the board's"


def firmware_command(a: Namespace) -> int:
    """0 if every output byte is the expected one, 1 if not."""
    bundle = Bundle.load(a.bundle)
    if not machine(a.board).qemu:
        return _link_only(bundle, a)
    inputs = _images(bundle, a.images, a.limit) if a.images else None
    date = now()
    found = run(bundle, a.board, inputs=inputs)
    print(describe(bundle, found))
    if a.layers:
        print(describe_layers(layers(bundle, a.board)))
    if a.json:
        measurements(bundle, found, date, getattr(a, "command_line", "")).save(a.json)
        print(f"numbers {a.json}", file=sys.stderr)
    return 0 if found.ok else 1


def _link_only(bundle: Bundle, a: Namespace) -> int:
    if a.json:
        raise InputError(
            f"nothing can be counted on {a.board}.",
            "QEMU has no such board: the firmware is linked, not run.",
            "leave --json out, or count on netduinoplus2.",
        )
    image = link(bundle, a.board)
    place = image.machine
    print(
        f"{bundle.name} fits {place.chip}: {image.flash:,} of {place.flash:,} bytes of flash, "
        f"{image.ram:,} of {place.ram:,} bytes of RAM and a stack.\nLinked only: QEMU has no such board."
    )
    return 0


def _images(bundle: Bundle, name: str, limit: int) -> list[np.ndarray]:
    from edge_lab.bundle.spec import preprocess
    from edge_lab.flow.inputs import image_set

    if bundle.spec.preprocess is None:
        raise InputError(f"{bundle.name} takes no images.", "its spec has no preprocessing.", "leave --images out.")
    images = image_set(name).take(limit)
    return [preprocess(images[i], bundle.spec) for i in range(len(images))]


def describe(bundle: Bundle, found: Run) -> str:
    """What the firmware answered and costs, as text."""
    cost = found.cost
    lines = [f"{bundle.name} on {cost.board} ({cost.machine})"]
    lines += _answers("input", found.answers) + _answers("recording", found.sounds)
    lines += [
        f"flash         {cost.flash_bytes:>10,} bytes (code, weights, tables; without tests and text)",
        f"RAM           {cost.ram_bytes:>10,} bytes, of them arena {cost.arena_bytes:,} and stack {cost.stack_bytes:,}",
        f"instructions  {cost.instructions:>10,} for one inference, {cost.per_mac:.2f} for each of "
        f"{cost.macs:,} multiply-adds",
    ]
    if cost.front_end_instructions is not None:
        lines.append(f"front end     {cost.front_end_instructions:>10,} instructions for the features of one window")
    lines.append("Instructions are counted by QEMU: they are not cycles, and not times of a board.")
    return "\n".join(lines)


def describe_layers(found: tuple[LayerCost, ...]) -> str:
    """Instructions of each kernel as a table."""
    total = sum(layer.instructions for layer in found)
    lines = [f"{layer.instructions:>12,}  {100 * layer.instructions / total:4.1f} %  {layer.kernel}" for layer in found]
    return "\n".join(["instructions of each kernel:", *lines])


def _answers(kind: str, answers: tuple[Answer, ...]) -> list[str]:
    if not answers:
        return []
    lines = [
        f"  {kind} {i}: {answer.text}  {'every byte as expected' if answer.ok else 'DIFFERS from what is expected'}"
        for i, answer in enumerate(answers)
        if i < _SHOWN or not answer.ok
    ]
    right = sum(answer.ok for answer in answers)
    what = "outputs" if kind == "input" else "features and outputs"
    return [*lines, f"{what} of {right} of {len(answers)} {kind}s equal to the byte"]


def measurements(bundle: Bundle, found: Run, date: str, command: str = "") -> Measurements:
    """The costs in the form of every measurement file, scenario `emulated`."""
    from edge_lab.measure.host import versions
    from edge_lab.measure.timing import Latency
    from edge_lab.results.readiness import Gate

    each = found.seconds / len(found.answers)
    item = Measurement(
        name=f"{bundle.name} on {found.cost.board}",
        engine=Engine("qemu-system-arm", _qemu_version()),
        latency=Latency((each,), (), 0, scenario="emulated", clock="wall"),
        model=bundle.spec.name,
        target=bundle.target,
        format=bundle.runtime.format,
        precision="int8",
        size_bytes=found.cost.flash_bytes,
        firmware=found.cost,
        notes=(_CLOCK,),
    )
    device = {"board": f"{found.cost.board} (emulated)", "machine": found.cost.machine}
    return Measurements("edge-lab", command, date, device, Gate("unknown"), versions(), (item,))


def _qemu_version() -> str:
    import subprocess

    from edge_lab.devices.firmware.image import tool

    first = subprocess.run([tool("qemu-system-arm"), "--version"], capture_output=True, text=True, timeout=30).stdout
    return first.splitlines()[0].partition("version ")[2] or "unknown"
