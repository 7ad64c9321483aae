"""Measurements as a file: one form for Python, the C++ runner, phones, boards (schema/measurement.schema.json).

`Measurements.load` is the only way in. It holds the percentiles that a file states against its raw samples, so that a
table can't say what its data does not.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from edge_lab.core.errors import InputError
from edge_lab.core.files import writing_file
from edge_lab.measure.cold import ColdStart, Memory
from edge_lab.measure.joules import Energy
from edge_lab.measure.timing import Latency
from edge_lab.results.readiness import Gate

SCHEMA_VERSION = 1
_PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}


@dataclass(frozen=True)
class Engine:
    """What ran the program: "executorch", "onnxruntime", ..., and its version."""

    name: str
    version: str | None = None


@dataclass(frozen=True)
class Quality:
    """Answers on `images` inputs of `dataset`, in percent; SQNR in dB, both against the PyTorch fp32 model."""

    dataset: str
    images: int
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Firmware:
    """What a microcontroller's program costs: bytes, and instructions that an emulator counted (no cycles, no times).

    Attributes:
        board: whose memory it was linked for; `machine`: what ran it.
        flash_bytes: code, weights and tables of a build without tests and text.
        ram_bytes: variables of that build (arena, input, output), and the stack.
        stack_bytes: high-water mark during an inference.
        instructions: of one inference, median over the inputs; `macs`: its multiply-adds.
        front_end_instructions: from samples to features for one window, if the device computes them.
    """

    board: str
    machine: str
    flash_bytes: int
    ram_bytes: int
    arena_bytes: int
    stack_bytes: int
    instructions: int
    macs: int
    front_end_instructions: int | None = None

    @property
    def per_mac(self) -> float:
        """Instructions for one multiply-add."""
        return self.instructions / self.macs if self.macs else float("nan")


@dataclass(frozen=True)
class Measurement:
    """One program in one engine in one scenario.

    `start` holds the steps to the first answer of a fresh process (NaN for a step that nobody timed), `memory` what
    that process took; sizes are in bytes, shares from 0 to 1. What was not measured is None.
    """

    name: str
    engine: Engine
    latency: Latency
    model: str | None = None
    target: str | None = None
    format: str | None = None
    precision: str | None = None
    size_bytes: int | None = None
    delegated: float | None = None
    start: ColdStart | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    quality: Quality | None = None
    pinned_cpus: tuple[int, ...] | None = None
    firmware: Firmware | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What tells it from the others of a file: name, engine, scenario, threads, batch."""
        return self.name, self.engine.name, self.latency.scenario, self.latency.threads, self.latency.batch


@dataclass(frozen=True)
class Recorded:
    """Where a recording comes from: nothing in it was measured now."""

    source: str
    note: str = ""


@dataclass(frozen=True)
class Measurements:
    """What one device was measured to do in one sitting. `date` is UTC, as 2026-11-23T08:00:00Z."""

    tool: str
    command: str
    date: str
    device: dict[str, str]
    gate: Gate
    versions: dict[str, str]
    items: tuple[Measurement, ...]
    recorded: Recorded | None = field(default=None)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.items)

    def save(self, path: Path | str) -> None:
        """Write as JSON, checked against the schema; the file is whole or absent."""
        document = to_json(self)
        _validate(document, str(path))
        with writing_file(Path(path)) as temporary:
            temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path | str) -> Measurements:
        """Read what `save` or another tool wrote.

        Raises:
            InputError: missing, not JSON, newer schema, schema violation, percentiles that are not those of its
                samples, two entries that nothing tells apart.
        """
        return from_json(_document(Path(path)), str(path))

    @staticmethod
    def replay(path: Path | str, *, source: str | None = None) -> Measurements:
        """Read a file as a recording: where the device is not, this stands in, and says so.

        Args:
            path: a measurement file, of a phone or a board.
            source: where it comes from; default: what the file says, else its name.
        """
        found = Measurements.load(path)
        origin = source or (found.recorded.source if found.recorded else Path(path).name)
        return replace(found, recorded=Recorded(origin, found.recorded.note if found.recorded else ""))

    @property
    def labels(self) -> list[str]:
        """One name for each measurement: its own, and what else it takes to tell it from the others."""
        short = [item.name for item in self]
        for part in (_scenario, _engine):
            twice = {name for name, count in Counter(short).items() if count > 1}
            short = [part(item, name) if name in twice else name for item, name in zip(self, short, strict=True)]
        return short

    @property
    def heading(self) -> str:
        """One line for the top of a table: what was measured when, or that it is a recording."""
        device = self.device.get("board") or self.device.get("cpu") or "unknown device"
        state = "" if self.gate.state == "quiet" else f", machine {self.gate.state}"
        if self.recorded:
            origin = f"from {self.recorded.source}. Nothing was measured now."
            return f"RECORDED on {device}, {self.date[:10]}{state}; {origin}"
        return f"measured on {device}, {self.date[:10]}{state}"


def _scenario(item: Measurement, name: str) -> str:
    times = item.latency
    batch = f", batch {times.batch}" if times.batch > 1 else ""
    return f"{name} ({times.scenario}, {times.threads} thread{'s' if times.threads > 1 else ''}{batch})"


def _engine(item: Measurement, name: str) -> str:
    return f"{name} in {item.engine.name}"


def now() -> str:
    """The time of this moment as measurement files write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def to_json(found: Measurements) -> dict[str, Any]:
    """Plain JSON types in the form of the schema."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": found.tool,
        "command": found.command,
        "date": found.date,
        "device": found.device,
        "versions": found.versions,
        "gate": _converter().unstructure(found.gate) | {"reasons": list(found.gate.reasons)},
        "recorded": _converter().unstructure(found.recorded),
        "measurements": [_one_to_json(item) for item in found.items],
    }


def from_json(document: dict[str, Any], where: str = "the document") -> Measurements:
    """The inverse of `to_json`, checked; see `Measurements.load`."""
    _validate(document, where)
    items = tuple(_one_from_json(entry, where) for entry in document["measurements"])
    _refuse_twins(items, where)
    plain = {key: document[key] for key in ("tool", "command", "date", "device", "gate", "versions", "recorded")}
    shell: Measurements = _converter().structure(plain | {"items": ()}, Measurements)
    return replace(shell, items=items)


def _one_to_json(item: Measurement) -> dict[str, Any]:
    times = item.latency
    entry: dict[str, Any] = _converter().unstructure(replace(item, start=None, memory=None))
    del entry["latency"]
    entry |= {
        "scenario": times.scenario,
        "threads": times.threads,
        "batch": times.batch,
        "warmup": times.warmup,
        "clock": times.clock,
        "wall_s": list(times.samples_s),
        "cpu_s": list(times.cpu_s) or None,
        "summary": {name: 1e3 * times.percentile(q) for name, q in _PERCENTILES.items()},
        "start": _start_to_json(item.start),
        "memory": _memory_to_json(item.memory),
    }
    return json.loads(json.dumps(entry))  # type: ignore[no-any-return]  # tuples become lists


def _start_to_json(start: ColdStart | None) -> dict[str, Any] | None:
    if start is None:
        return None
    steps = {"import_ms": start.import_ms, "load_ms": start.load_ms, "first_ms": start.first_ms}
    return {name: value if value == value else None for name, value in steps.items()}


def _memory_to_json(memory: Memory | None) -> dict[str, Any] | None:
    if memory is None:
        return None
    values = _converter().unstructure(memory) | {"delta_mb": memory.delta_mb}
    return {name: value if value == value else None for name, value in values.items()}


def _one_from_json(entry: dict[str, Any], where: str) -> Measurement:
    times = Latency(
        tuple(map(float, entry["wall_s"])),
        tuple(map(float, entry["cpu_s"] or ())),
        entry["warmup"],
        entry["threads"],
        entry["batch"],
        entry["scenario"],
        entry["clock"],
    )
    for name, q in _PERCENTILES.items():
        if abs(entry["summary"][name] - 1e3 * times.percentile(q)) > 1e-3 + 1e-4 * entry["summary"][name]:
            raise InputError(
                f"{where}: {entry['name']} states {name} {entry['summary'][name]:.4g}.",
                f"its own samples give {1e3 * times.percentile(q):.4g}.",
                "make the file again with the tool that measured; never edit one by hand.",
            )
    start, memory = entry.get("start"), entry.get("memory")
    known = {key: value for key, value in entry.items() if key not in ("start", "memory")}
    item: Measurement = _converter().structure(known | {"latency": times.to_dict()}, Measurement)
    return replace(
        item,
        start=_start_from_json(start) if start else None,
        memory=Memory(*(_number(memory, f"{k}_mb") for k in ("baseline", "loaded", "peak"))) if memory else None,
    )


def _start_from_json(start: dict[str, Any]) -> ColdStart:
    steps = {name: _number(start, name) for name in ("import_ms", "load_ms", "first_ms")}
    return ColdStart(**steps, steady_ms=float("nan"))


def _number(values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    return float("nan") if value is None else float(value)


def _refuse_twins(items: Iterable[Measurement], where: str) -> None:
    seen = set()
    for item in items:
        if item.key in seen:
            raise InputError(
                f"{where} measures {item.name} twice with {item.engine.name}, {item.latency.scenario}.",
                "nothing tells the two apart: name, engine, scenario, threads and batch are the same.",
                "keep one of them, or give them names of their own.",
            )
        seen.add(item.key)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read.", f"{error.strerror}.", "check the path.") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not JSON.", f"{error}.", "make one with `edge-lab bench BUNDLE --json FILE`."
        ) from error
    return document if isinstance(document, dict) else {}


def is_measurements(document: object) -> bool:
    """Whether a JSON document says that it holds measurements (it may still break the schema)."""
    return isinstance(document, dict) and "measurements" in document


def _validate(document: dict[str, Any], where: str) -> None:
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{where} has measurement schema version {version}; this edge_lab reads up to {SCHEMA_VERSION}.",
            "it was made by a newer edge_lab.",
            "upgrade edge_lab, or measure again with this version.",
        )
    errors = sorted(_validator().iter_errors(document), key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        spot = "/".join(map(str, errors[0].absolute_path)) or "top level"
        raise InputError(
            f"{where} does not fit the measurement schema at {spot!r}.",
            errors[0].message[:300] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
            "make it again with the tool that measured; the schema is schema/measurement.schema.json.",
        )


@cache
def _validator() -> Any:
    import jsonschema

    text = resources.files("edge_lab").joinpath("schema/measurement.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


@cache
def _converter() -> Any:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook(float | None, lambda v, _: None if v is None else float(v))
    return converter
