"""What is inside an ExecuTorch program (.pte), read as data: nothing is loaded, nothing runs.

Source of the layout: program.fbs in the ExecuTorch package (schema version 0, identifier ET12).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edge_lab.core.errors import BundleError
from edge_lab.formats.pte.flatbuffer import Table

IDENTIFIER, VERSION = b"ET12", 0
DELEGATE = "delegate: "  # before the backend's name, in lists of instructions
_FLOATS = {5: ("float16", 2), 6: ("float32", 4), 7: ("float64", 8), 15: ("bfloat16", 2)}
_SIGNED = {1: ("int8", 1), 2: ("int16", 2), 3: ("int32", 4), 4: ("int64", 8), 11: ("bool", 1)}
_DTYPES = {0: ("uint8", 1), 27: ("uint16", 2), 28: ("uint32", 4), 29: ("uint64", 8)} | _SIGNED | _FLOATS
_TENSOR, _TENSOR_LISTS = 5, (10, 11)
_KERNEL, _DELEGATE, _MOVE, _JUMP, _FREE = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class PteTensor:
    """Shape and dtype. `bounded`: the shape is the largest one; smaller ones are welcome."""

    shape: tuple[int, ...]
    dtype: str
    bounded: bool

    def __str__(self) -> str:
        most = "up to " if self.bounded else ""
        return f"{self.dtype} {most}{'x'.join(map(str, self.shape)) or 'scalar'}"


@dataclass(frozen=True)
class Planned:
    """A tensor with a place in the arena.

    Attributes:
        buffer: number of the arena; the first is 1.
        offset, bytes: place and size in it.
        first, last: instructions between which the place is taken. An input is taken from the start, an output until
            the end. A program that jumps backwards may need a place for longer than that.
        made_by: "input", or the operator or delegate that writes it.
    """

    tensor: PteTensor
    buffer: int
    offset: int
    bytes: int
    first: int
    last: int
    made_by: str


@dataclass(frozen=True)
class PteDelegate:
    """A part of the network that a backend runs: the backend's name, and the bytes it was given."""

    backend: str
    bytes: int


@dataclass(frozen=True)
class PteMethod:
    """An entry point. `arena` has the bytes of each buffer that holds activations; buffer 1 comes first."""

    name: str
    inputs: tuple[PteTensor, ...]
    outputs: tuple[PteTensor, ...]
    instructions: tuple[str, ...]
    operators: tuple[str, ...]
    delegates: tuple[PteDelegate, ...]
    arena: tuple[int, ...]
    planned: tuple[Planned, ...]


@dataclass(frozen=True)
class PteReport:
    """A .pte file. Bytes of constants outside delegates, of named data (weights that delegates share), of the file.

    `external` names the constants that are in a file of weights (.ptd) next to it.
    """

    path: Path
    version: int
    bytes: int
    methods: tuple[PteMethod, ...]
    constant_bytes: int
    named_bytes: int
    external: tuple[str, ...]

    @property
    def backends(self) -> tuple[str, ...]:
        """Backends that must be linked into the runtime, sorted."""
        return tuple(sorted({d.backend for m in self.methods for d in m.delegates}))

    @property
    def operators(self) -> tuple[str, ...]:
        """Kernels outside delegates: what a minimal runtime must contain, sorted."""
        return tuple(sorted({name for m in self.methods for name in m.operators}))

    def selective_build(self) -> str:
        """The option that makes ExecuTorch's CMake build contain these kernels and no others; empty if none is needed.

        Operators of the runtime itself (executorch_prim, symbolic sizes) are always there and not listed.
        """
        names = [name for name in self.operators if not is_prim(name)]
        return f'-DEXECUTORCH_SELECT_OPS_LIST="{",".join(names)}"' if names else ""

    def __str__(self) -> str:
        lines = [f"{self.path.name}: {self.bytes:,} bytes, schema version {self.version}"]
        lines.append(f"constants    {self.constant_bytes:,} bytes, named data {self.named_bytes:,} bytes")
        if self.external:
            lines.append(f"weights file {len(self.external)} tensors are in a .ptd")
        for method in self.methods:
            lines += _method_lines(method)
        kernels = self.selective_build() or "no kernel library: all operators are inside delegates"
        lines += [f"minimal build: backends {', '.join(self.backends) or 'none'}", f"  {kernels}"]
        return "\n".join(lines)


def is_prim(name: str) -> bool:
    """Whether the runtime itself has this operator, so that no kernel library is asked."""
    return name.startswith("executorch_prim::") or name in _PRIMS


_PRIMS = ("aten::sym_size.int", "aten::sym_numel", "aten::_local_scalar_dense")


def _method_lines(method: PteMethod) -> list[str]:
    calls = Counter(method.instructions)
    lines = [f"method {method.name}: {len(method.instructions)} instructions"]
    lines += [f"  input      {tensor}" for tensor in method.inputs]
    lines += [f"  output     {tensor}" for tensor in method.outputs]
    lines += [f"  delegate   {delegate.backend}, {delegate.bytes:,} bytes" for delegate in method.delegates]
    lines += [f"  operator   {name}, {calls[name]} x" for name in method.operators]
    for number, size in enumerate(method.arena, 1):
        held = [p for p in method.planned if p.buffer == number]
        total = sum(p.bytes for p in held)
        lines.append(f"  arena {number}    {size:,} bytes for {len(held)} tensors of {total:,} bytes together")
    return lines


def inspect_pte(path: Path | str) -> PteReport:
    """Read a .pte file, or the one in a bundle's folder.

    Raises:
        BundleError: missing, cut off, of another tool, of a newer schema, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        from edge_lab.bundle.folder import Bundle

        path = Bundle.load(path).program_path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} can't be read.", f"{type(error).__name__}.", "name a .pte file, or a bundle's folder."
        ) from error
    return read_pte(path, content)


def read_pte(path: Path, content: bytes) -> PteReport:
    """`inspect_pte` of bytes that are already in memory; `path` is only named."""
    base, segment_bytes = _header(path, content)
    try:
        root = Table.root(content)
        version = root.number(0, "I")
        if version > VERSION:
            raise BundleError(
                f"{path} is newer than this ExecuTorch.",
                f"its schema has version {version}; this one reads {VERSION}.",
                "upgrade executorch, or export the program again with the version that is installed.",
            )
        return _report(path, content, root, base, segment_bytes)
    except (ValueError, IndexError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise BundleError(
            f"{path} is damaged.", f"{str(error).capitalize()}.", "copy it again, or export it again."
        ) from error


def refuse_unrunnable(
    report: PteReport, backends: Collection[str], operators: Collection[str], *, weights: bool = True
) -> None:
    """Raise BundleError if a runtime with these backends and kernels can't run the program.

    `weights`: whether the file of weights (.ptd) comes with it, if it needs one.
    """
    strange = [name for name in report.backends if name not in backends]
    if strange:
        raise BundleError(
            f"{report.path} can't run here: {', '.join(strange)} is not in this runtime.",
            f"parts of the network were compiled for it; this ExecuTorch has {', '.join(sorted(backends)) or 'none'}.",
            "run it on a device whose runtime links that backend, or export for another target.",
        )
    if report.external and not weights:
        raise BundleError(
            f"{report.path} is a program without its weights.",
            f"{len(report.external)} of its tensors are in a .ptd file, which is not here.",
            "load the pair: executorch.runtime.Runtime.get().load_program(pte, data_path=ptd).",
        )
    missing = [name for name in report.operators if name not in operators]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BundleError(
            f"{report.path} needs an operator that this runtime does not have: {', '.join(missing[:3])}{more}.",
            f"its {len(operators)} kernels were chosen when it was built.",
            "register that kernel (a custom operator needs its library), or export without it.",
        )


def _header(path: Path, content: bytes) -> tuple[int, int]:
    """Where segments begin and how many bytes of them there are; both 0 without segments."""
    found = content[4:8]
    if len(content) < 40 or found != IDENTIFIER:
        kind = "is empty" if not content else f"has the identifier {found!r}, not {IDENTIFIER!r}"
        kind += {b"BP08": ": a program bundled with its tests", b"FT01": ": a file of weights"}.get(found, "")
        newer = found[:2] == b"ET" and found > IDENTIFIER
        raise BundleError(
            f"{path} is {'newer than this ExecuTorch' if newer else 'not an ExecuTorch program'}.",
            f"it {kind}.",
            "upgrade executorch." if newer else "export a program: edge_lab.to(model, 'linux-xnnpack-fp32').",
        )
    if content[8:12] != b"eh00":
        return 0, 0  # a program without segments
    length, program, base = struct.unpack_from("<IQQ", content, 12)
    segment_bytes = struct.unpack_from("<Q", content, 32)[0] if length > 24 else 0
    needed = max(program, base + segment_bytes)
    if len(content) < needed:
        raise BundleError(
            f"{path} is cut off.",
            f"it has {len(content):,} bytes and says that there are {needed:,}.",
            "copy it again, or export it again.",
        )
    return base, segment_bytes


def _report(path: Path, content: bytes, root: Table, base: int, segment_bytes: int) -> PteReport:
    segments = [(s.number(0, "Q"), s.number(1, "Q")) for s in root.tables(4)]
    for offset, size in segments:
        if base + offset + size > len(content):
            raise ValueError("a segment reaches beyond the end of the file")
    sizes = [size for _, size in segments]
    constants = sum(buffer.span(0)[1] for buffer in root.tables(2))
    kept = root.table(5)
    if kept is not None and kept.numbers(1, "Q"):
        constants += sizes[kept.number(0, "I")]
    named = {data.number(1, "I") for data in root.tables(7)}
    inline = [data.span(0)[1] for data in root.tables(3)]
    plans = root.tables(1)
    if not plans:
        raise ValueError("it has no methods")
    read = [_Plan(plan, inline, sizes) for plan in plans]
    external = tuple(sorted({name for plan in read for name in plan.external}))
    methods = tuple(plan.method() for plan in read)
    return PteReport(
        path,
        root.number(0, "I"),
        len(content),
        methods,
        constants,
        sum(sizes[index] for index in named),
        external,
    )


class _Plan:
    """One execution plan, its tables followed to plain values."""

    def __init__(self, plan: Table, inline: list[int], segments: list[int]) -> None:
        self.name = plan.text(0)
        self.tensors: dict[int, Table] = {}
        self.lists: dict[int, tuple[int, ...]] = {}
        values = plan.tables(2)
        for index, value in enumerate(values):
            kind, content = value.number(0, "B"), value.table(1)
            if kind == _TENSOR and content is not None:
                self.tensors[index] = content
            elif kind in _TENSOR_LISTS and content is not None:
                self.lists[index] = content.numbers(0, "i")
        self.inputs, self.outputs = plan.numbers(3, "i"), plan.numbers(4, "i")
        self.operators = tuple(".".join(filter(None, (op.text(0), op.text(1)))) for op in plan.tables(6))
        self.delegates = tuple(_delegate(table, inline, segments) for table in plan.tables(7))
        self.arena = plan.numbers(8, "q")[1:]
        self.calls = [self._call(instruction) for chain in plan.tables(5) for instruction in chain.tables(2)]
        used = {i for _, arguments in self.calls for i in arguments} | {*self.inputs, *self.outputs}
        used |= {i for items in self.lists.values() for i in items if i != -1}  # -1: an optional tensor that is None
        if used and not 0 <= min(used) <= max(used) < len(values):
            raise ValueError("an instruction names a value that does not exist")
        extras = [table.table(9) for table in self.tensors.values()]
        self.external = [e.text(1) for e in extras if e is not None and e.number(2, "b") == 1]

    def _call(self, instruction: Table) -> tuple[str, tuple[int, ...]]:
        """The name of an instruction, and the values it touches."""
        kind, content = instruction.number(0, "B"), instruction.table(1)
        if content is None:
            raise ValueError("an instruction is empty")
        index = content.number(0, "i")
        if kind in (_KERNEL, _DELEGATE) and index < 0:
            raise ValueError("an instruction names an operator that does not exist")
        if kind == _KERNEL:
            return self.operators[index], content.numbers(1, "i")
        if kind == _DELEGATE:
            return DELEGATE + self.delegates[index].backend, content.numbers(1, "i")
        if kind == _MOVE:
            return "move", (index, content.number(1, "i"))
        if kind == _JUMP:
            return "jump back" if content.number(1, "i") <= 0 else "jump", (index,)
        if kind == _FREE:
            return "free", (index,)
        raise ValueError(f"it has an instruction of unknown kind {kind}")

    def method(self) -> PteMethod:
        return PteMethod(
            self.name,
            tuple(_tensor(self.tensors[i]) for i in self.inputs if i in self.tensors),
            tuple(_tensor(self.tensors[i]) for i in self.outputs if i in self.tensors),
            tuple(name for name, _ in self.calls),
            tuple(sorted(set(self.operators))),
            self.delegates,
            self.arena,
            self._planned(),
        )

    def _planned(self) -> tuple[Planned, ...]:
        first: dict[int, int] = dict.fromkeys(self.inputs, 0)
        last: dict[int, int] = {}
        for step, (_, arguments) in enumerate(self.calls):
            for value in (v for a in arguments for v in (a, *self.lists.get(a, ()))):
                first.setdefault(value, step)
                last[value] = step
        end = max(0, len(self.calls) - 1)
        last |= dict.fromkeys(self.outputs, end)
        found = []
        for index, table in self.tensors.items():
            place = table.table(6)
            if place is None:
                continue
            tensor = _tensor(table)
            begin = first.get(index, 0)
            buffer = place.number(0, "I")
            offset = place.number(1, "I") | place.number(2, "I") << 32
            size = _bytes(table)
            if not 1 <= buffer <= len(self.arena) or offset + size > self.arena[buffer - 1]:
                raise ValueError("a tensor lies outside its arena")
            made_by = "input" if index in self.inputs else self.calls[begin][0] if self.calls else "nothing"
            found.append(Planned(tensor, buffer, offset, size, begin, last.get(index, end), made_by))
        return tuple(sorted(found, key=lambda p: (p.buffer, p.first, p.offset)))


def _delegate(table: Table, inline: list[int], segments: list[int]) -> PteDelegate:
    place = table.table(1)
    if place is None:
        raise ValueError("a delegate has no data")
    sizes = segments if place.number(0, "b") else inline
    return PteDelegate(table.text(0), sizes[place.number(1, "I")])


def _tensor(table: Table) -> PteTensor:
    kind = table.number(0, "b")
    dtype = _DTYPES.get(kind, (f"type {kind}", 0))[0]
    return PteTensor(table.numbers(2, "i"), dtype, table.number(8, "b") != 0)


def _bytes(table: Table) -> int:
    size = _DTYPES.get(table.number(0, "b"), ("", 0))[1]
    for length in table.numbers(2, "i"):
        if length < 0:
            raise ValueError("a tensor has a negative size")
        size *= length
    return size
