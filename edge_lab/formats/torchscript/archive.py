"""What a TorchScript or lite archive holds, read without running, resolving or allocating anything that it names.

PyTorch's C++ readers trust these files. They don't run Python, but a method in the archive may write files as soon as
the archive is opened, and an index that is too large is read behind the end of a table. So the file is read here first.
This finds damage and file access. It is no sandbox: load programs from people you trust.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_lab.core.errors import BundleError

AGAIN = "export the model again with edge_lab.to(model, target), or copy the file again."
_ITEM_BYTES = {"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
_ITEM_BYTES |= {"Bool": 1, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "ComplexFloat": 8, "ComplexDouble": 16}
# Operators that reach out of the program: files, other processes, raw memory.
_FORBIDDEN = re.compile(r"aten::(save|from_file)|(c10d|_c10d_functional|symm_mem|rpc|inductor)::.*|aten::rpc_.*")
_FORBIDDEN_WORDS = re.compile(r"\b(from_file|save|c10d|_c10d_functional|symm_mem|rpc_(?:sync|async|remote))\b")
_HIDDEN_NAME = re.compile(r"getattr\s*\([^)]*\\")  # getattr(torch, "\x73ave")
# Which table the first number of an instruction points into.
_TABLE = {"OP": "operators", "OPN": "operators", "LOADC": "constants", "INTERFACE_CALL": "constants"}
_TABLE |= dict.fromkeys(("LIST_CONSTRUCT", "DICT_CONSTRUCT", "NAMED_TUPLE_CONSTRUCT", "CREATE_OBJECT"), "types")
_REGISTERS = ("LOAD", "MOVE", "STORE", "STOREN", "DROPR")
_JUMPS = ("JF", "JMP", "LOOP")
_OTHERS = """RET DROP CALL GET_ATTR SET_ATTR LIST_UNPACK TUPLE_CONSTRUCT TUPLE_SLICE TUPLE_INDEX ISINSTANCE DICT_INDEX
 RAISE_EXCEPTION UNCHECKED_CAST __IS__ UN_INITIALIZED __ISNOT__ FORMAT DEVICE DTYPE DIM __NOT__ TO_LIST NUM_TO_TENSOR
 IS_CUDA WARN ENTER EXIT FORK WAIT AWAITABLE"""
_INSTRUCTIONS = frozenset((*_TABLE, *_REGISTERS, *_JUMPS, *_OTHERS.split()))


@dataclass(frozen=True)
class Method:
    """One compiled method: `instructions` are (name, x, n), their numbers point into the tables beside them."""

    name: str
    instructions: tuple[tuple[str, int, int], ...]
    operators: tuple[str, ...]
    constants: tuple[object, ...] = field(repr=False)
    types: tuple[str, ...]
    registers: int

    @property
    def calls(self) -> tuple[str, ...]:
        """The operators in the order in which the code names them, once for each place."""
        return tuple(self.operators[x] for name, x, _ in self.instructions if name in ("OP", "OPN"))


@dataclass(frozen=True)
class LiteFile:
    """A .ptl: version of its bytecode, its methods, the size of every member in bytes, and the files added to it."""

    version: int
    methods: tuple[Method, ...]
    members: Mapping[str, int] = field(repr=False)
    extra: Mapping[str, bytes] = field(repr=False)

    @property
    def forward(self) -> Method:
        """The method that a call runs."""
        return next(m for m in self.methods if m.name.rsplit(".", 1)[-1] == "forward")

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of all operators, sorted: what a runtime must have."""
        return tuple(sorted({name for method in self.methods for name in method.operators}))


def read_lite(path: Path | str) -> LiteFile:
    """Read the bytecode of a .ptl as data.

    Raises:
        BundleError: damaged, not written for the lite interpreter, or holding what is never loaded (see the module).
    """
    path = Path(path)
    archive, members = _open(path)
    with archive:
        if "bytecode.pkl" not in members:
            raise BundleError(
                f"{path} was refused: it holds no bytecode for the lite interpreter.",
                "it was written by torch.jit.save, or by another tool.",
                "write it with edge_lab.to(model, 'android-lite-fp32'), or _save_for_lite_interpreter.",
            )
        try:
            pickles = _check_pickles(path, archive, members)
            version, *methods = pickles["bytecode.pkl"]
            owner = str(pickles["data.pkl"])
            for name, _, *schema in methods:
                _check_owner(name, schema)
            read = tuple(_method(name, dict(table)) for name, table, *_ in methods)
            if not isinstance(version, int):
                raise TypeError(f"its version is {version!r}")
            for method in read:
                _check_method(method)
            file = LiteFile(version, read, {n: i.file_size for n, i in members.items()}, _extra(archive, members))
            if f"{owner}.forward" not in (m.name for m in read):
                raise ValueError(f"{owner} has no method forward")
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise _damaged(path, f"its bytecode makes no sense: {error}") from error
    for name in file.operators:
        if _FORBIDDEN.fullmatch(name.partition(".")[0]):
            raise _reaches_out(path, name)
    return file


def explain_lite(path: Path, error: RuntimeError) -> BundleError:
    """A BundleError for what PyTorch's lite loader says: an operator or a bytecode that it does not know."""
    text = str(error)
    operators = re.search(r"ops cannot be found: \[([^\]]*)\]", text)
    if operators:
        return BundleError(
            f"{path} uses operators that this PyTorch does not have: {operators[1].rstrip(', ')}.",
            "it was written by another version, or the library that adds them was not imported.",
            "import that library first (torchvision adds nms, for example), or export the model again.",
        )
    versions = re.search(r"must be between (\d+) and (\d+) but the model version is (\d+)", text)
    if versions:
        return BundleError(
            f"{path} has bytecode {versions[3]}; this PyTorch reads {versions[1]} to {versions[2]}.",
            "it was written by a newer PyTorch, or by a very old one.",
            "upgrade torch, or have it written with Lite(bytecode=...) for an older runtime.",
        )
    return _damaged(path, (text.strip().splitlines() or ["the loader gives no reason"])[0][:200])


def refuse_unsafe_script(path: Path) -> None:
    """Raise BundleError if a TorchScript archive is damaged or holds what is never loaded (see the module)."""
    archive, members = _open(path)
    with archive:
        if "model.json" in members or "constants.pkl" not in members:
            raise BundleError(
                f"{path} was refused: it is no TorchScript program of PyTorch 1.4 or later.",
                "it holds weights only, or was written by another tool or a much older PyTorch.",
                'write it with edge_lab.to(model, "linux-torchscript-fp32"), or torch.jit.save.',
            )
        try:
            _check_pickles(path, archive, members)
            for name in members:
                if name.endswith(".py"):
                    source = archive.read(members[name]).decode("utf-8")
                    word = _FORBIDDEN_WORDS.search(source) or _HIDDEN_NAME.search(source)
                    if word:
                        raise _reaches_out(path, word[0])
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(path, str(error)) from error


def _open(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive, and its members by their names without the folder that all of them are in."""
    with path.open("rb") as file:
        beginning = file.read(8)
    if beginning[4:] in (b"PTMF", b"PTMB"):
        raise BundleError(
            f"{path} was refused: it is in the FlatBuffer form of the lite format.",
            "that form can't be checked before it is loaded, and was never finished.",
            "write it again without _use_flatbuffer=True.",
        )
    if not beginning:
        raise _damaged(path, "it is empty")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path, "it is no zip archive, or its end is missing") from error
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise _damaged(path, "it holds two members of one name")
    return archive, members


def _extra(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, bytes]:
    return {name[6:]: archive.read(info) for name, info in members.items() if name.startswith("extra/")}


def _check_pickles(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """The pickles that the loaders read, as inert data."""
    found = {}
    sizes = {name: info.file_size for name, info in members.items()}
    for name in ("data.pkl", "constants.pkl", "bytecode.pkl"):
        if name in members:
            try:
                found[name] = _Inert(archive.read(members[name]), sizes).load()
            except BundleError:
                raise
            except Exception as error:  # a damaged pickle raises anything
                raise _damaged(path, f"{name}: {error}") from error
    return found


class _Opaque:
    """Stands for an object of the archive. It knows the name of its class, keeps nothing and does nothing."""

    def __new__(cls, *_: object) -> _Opaque:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __str__(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class _Storage:
    items: int


class _Inert(pickle._Unpickler):
    """Reads a pickle and resolves none of the names in it: each becomes a function or class of this module.

    The Python implementation, on purpose: the one in C allocates memory for any memo number that a file names.
    """

    def __init__(self, content: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_qtensor", "_rebuild_tensor"):
            return _tensor
        if module == "torch" and name.removesuffix("Storage") in _ITEM_BYTES:
            return name
        if module == "torch" and (name.startswith("per_") or name == "device"):
            return _nothing  # a quantization scheme; where a tensor was
        if (module, name) == ("collections", "OrderedDict"):
            return _nothing
        if module == "torch.jit._pickle":
            return _value
        if module.split(".")[0] == "__torch__" or module.startswith("torch.classes"):
            return type(f"{module}.{name}", (_Opaque,), {})
        raise ValueError(f"it names {module}.{name}, which is no part of a program")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, type_name, key, _, items = pid
        width = _ITEM_BYTES[type_name.removesuffix("Storage")]
        stored = [self._sizes[p + key] for p in ("constants/", "data/", "bytecode/", "") if p + key in self._sizes]
        if kind != "storage" or not stored or not 0 <= items * width <= max(stored):
            raise ValueError(f"the numbers of tensor {key} are missing or cut off")
        return _Storage(items)


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> str:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset), default=0) < 0 or (all(size) and last >= storage.items):
        raise ValueError("a tensor reaches over the end of its numbers")
    return f"tensor{tuple(size)}"


def _nothing(*_: object) -> None:
    return None


def _value(value: object, *_: object) -> object:
    """A list or a typed value, as the pickle holds it."""
    return value


def _method(name: str, table: Mapping[str, Any]) -> Method:
    operators = (n + ("." + overload if overload else "") for n, overload, *_ in table["operators"])
    code = tuple((str(op), int(x), int(n)) for op, x, n in table["instructions"])
    types = tuple(map(str, table["types"]))
    return Method(str(name), code, tuple(operators), tuple(table["constants"]), types, int(table["register_size"]))


def _check_owner(name: str, schema: list[Any]) -> None:
    """A method's first argument is the object that it belongs to; old bytecodes have no schema."""
    if schema:
        first = dict(dict(schema[0])["arguments"][0])
        if first["type"] != name.rpartition(".")[0]:
            raise ValueError(f"{name} belongs to another class, {first['type']!r}")


def _check_method(method: Method) -> None:
    """Raise ValueError where an instruction points out of its table, its registers or the code."""
    lengths: dict[str, int] = {t: len(getattr(method, t)) for t in ("operators", "constants", "types")}
    code = method.instructions
    for i, (name, x, n) in enumerate(code):
        if name not in _INSTRUCTIONS:
            raise ValueError(f"instruction {i} is {name!r}, which the lite interpreter does not have")
        if name in _TABLE and not 0 <= x < lengths[_TABLE[name]]:
            raise ValueError(f"instruction {i} ({name}) points behind the end of its {_TABLE[name]}")
        if name == "ISINSTANCE" and not 0 <= x <= x + n <= lengths["types"]:
            raise ValueError(f"instruction {i} ({name}) points behind the end of its types")
        if name in _REGISTERS and not 1 <= x <= x + (n - 1 if name == "STOREN" else 0) <= method.registers:
            raise ValueError(f"instruction {i} ({name}) uses a register that there is not")
        if name in _JUMPS and not 0 <= i + x < len(code):
            raise ValueError(f"instruction {i} ({name}) jumps out of the code")
    if not code or code[-1][0] != "RET":
        raise ValueError(f"{method.name} does not end")
    if not 0 <= method.registers < 1_000_000:
        raise ValueError(f"{method.name} wants {method.registers} registers")


def _damaged(path: Path, why: str) -> BundleError:
    return BundleError(f"{path} was refused: it is not a whole program.", f"{why}.", AGAIN)


def _reaches_out(path: Path, what: str) -> BundleError:
    return BundleError(
        f"{path} was refused: it uses {what}.",
        "that reads or writes files or other processes, and a model has no reason to.",
        "export the model again from its source; never load such a file from elsewhere.",
    )
