"""What a Python value holds, as a hash: tensors, numbers, objects, and the functions and classes behind them.

Two values with the same digest compute the same. Addresses, names of files and the order of a set leave no trace. What
can't be looked into gets another digest every time: whatever rests on it is made again rather than taken for unchanged.
"""

from __future__ import annotations

import contextvars
import dis
import functools
import hashlib
import io
import os
import re
import threading
import types
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_lab.export.sources import code_digest, is_library, library

if TYPE_CHECKING:
    import torch

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type(...), type(NotImplemented))
_OF_PROCESS = (type(threading.Lock()), type(threading.RLock()), contextvars.ContextVar)  # no part of any answer
# In the dictionary of a class, and said elsewhere or of no consequence.
_ABOUT_CLASS = frozenset(
    (
        *("__doc__", "__module__", "__qualname__", "__dict__", "__weakref__", "__slots__", "_abc_impl"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__firstlineno__", "__static_attributes__"),
        *("__dataclass_fields__", "__dataclass_params__", "__match_args__"),
    )
)
# In a graph module: what the code was written from, and notes about it.
_ABOUT_GRAPH = frozenset(("_graph", "_code", "_lineno_map", "_prologue_start", "_tracer_cls", "_tracer_extras", "meta"))
_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
_MOST = 500_000  # values; whoever holds more of them exports again


class Contents:
    """Digests of values that may share parts: each part is hashed once.

    `modules` are the names of the user's modules whose classes and functions were met.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._done: dict[int, bytes] = {}
        self._kept: list[Any] = []  # so that no other value gets the same id
        self._open: dict[int, int] = {}

    def digest(self, value: Any) -> bytes:
        """SHA-256 of a value and of all that it holds."""
        if type(value) in _PLAIN:
            return _hash(type(value).__name__, repr(value))
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:  # a circle: how far back it closes
            return _hash("circle", str(len(self._open) - self._open[id(value)]))
        self._open[id(value)] = len(self._open)
        self._kept.append(value)
        try:
            found = _hash(*self._parts(value)) if len(self._kept) < _MOST else os.urandom(32)
        except Exception:  # an object may raise whatever it likes when it is looked at
            found = os.urandom(32)
        del self._open[id(value)]
        self._done[id(value)] = found
        return found

    def _parts(self, value: Any) -> Iterator[bytes | str]:
        import torch

        if isinstance(value, torch.Tensor):
            yield from self._tensor(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            yield from self._array(np.asarray(value))
        elif isinstance(value, torch.nn.Module):
            yield from self._module(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, (types.MethodType, staticmethod, classmethod)):
            yield self.digest(value.__func__)
            yield self.digest(getattr(value, "__self__", None))
        elif isinstance(value, property):
            yield from map(self.digest, (value.fget, value.fset))
        elif isinstance(value, types.ModuleType):
            yield from self._whole_module(value)
        elif isinstance(value, types.CodeType):
            yield code_digest(value)
        elif isinstance(value, torch.ScriptObject):
            yield self.digest(value.__getstate__())  # type: ignore[no-untyped-call]
        elif isinstance(value, _OF_PROCESS):
            yield type(value).__name__
        elif isinstance(value, functools._lru_cache_wrapper):
            yield self.digest(value.__wrapped__)
        elif isinstance(value, weakref.ref):
            yield self.digest(value())
        else:
            yield from self._object(value)

    def _object(self, value: Any) -> Iterator[bytes | str]:
        kind = type(value)
        yield self.digest(kind)
        if is_library(kind.__module__) and kind not in (list, tuple, dict, set, frozenset, types.MappingProxyType):
            made = value.__reduce_ex__(2)  # its author says what it is made of
            yield from [made] if isinstance(made, str) else map(self._listed, made)
            return
        if isinstance(value, (list, tuple)):
            yield from map(self.digest, value)
        elif isinstance(value, (dict, types.MappingProxyType)):
            yield from (self.digest(part) for item in value.items() for part in item)
        elif isinstance(value, (set, frozenset)):
            yield from sorted(map(self.digest, value))
        elif isinstance(value, _PLAIN):
            base: Any = next(base for base in kind.__mro__ if base in _PLAIN)
            yield base.__repr__(value)
        yield from self._attributes(_state(value))

    def _listed(self, part: Any) -> bytes:
        return self.digest(list(part) if isinstance(part, Iterator) else part)

    def _attributes(self, found: Mapping[str, Any]) -> Iterator[bytes | str]:
        for name in sorted(found, key=str):
            yield str(name)
            yield self.digest(found[name])

    def _tensor(self, value: torch.Tensor) -> Iterator[bytes | str]:
        import torch

        if hasattr(value, "__tensor_flatten__"):  # torchao: tensors inside a tensor
            names, about = value.__tensor_flatten__()
            yield f"{type(value)} {about}"
            yield from (self.digest(getattr(value, name)) for name in names)
            return
        yield f"{value.dtype} {tuple(value.shape)}"
        yield from self._attributes(vars(value))
        if value.is_quantized:
            yield repr(value)  # its scales; only a few of its values
            value = value.int_repr()
        flat = value.detach().contiguous().cpu().resolve_conj().resolve_neg().flatten()
        yield flat.view(torch.uint8).numpy().data  # type: ignore[misc]  # NumPy has no bfloat16

    def _array(self, value: np.ndarray) -> Iterator[bytes | str]:
        yield f"{value.dtype.descr} {value.shape}"
        yield self.digest(value.tolist()) if value.dtype.hasobject else value.tobytes()

    def _module(self, value: torch.nn.Module) -> Iterator[bytes | str]:
        import torch

        if isinstance(value, torch.jit.ScriptModule):
            yield from _scripted(value)
            return
        graph = isinstance(value, torch.fx.GraphModule)
        if graph:
            yield str(value.code)
            yield self.digest(type(value).forward)
        else:
            yield self.digest(type(value))
        found = {k: v for k, v in vars(value).items() if not (k.endswith(_HOOKS) or (graph and k in _ABOUT_GRAPH))}
        yield from self._attributes(found)
        for name in ("_forward_pre_hooks", "_forward_hooks"):  # their keys count all hooks that this process has known
            with_names = getattr(value, f"{name}_with_kwargs")
            yield from (self.digest((name, hook, key in with_names)) for key, hook in getattr(value, name).items())

    def _class(self, value: type) -> Iterator[bytes | str]:
        for kind in value.__mro__:
            yield f"{library(kind.__module__) if is_library(kind.__module__) else ''} {kind.__qualname__}"
            if is_library(kind.__module__):
                continue
            self.modules.add(kind.__module__)
            own = {k: v for k, v in vars(kind).items() if k not in _ABOUT_CLASS and not _is_slot(v)}
            yield from self._attributes(own)

    def _function(self, value: types.FunctionType) -> Iterator[bytes | str]:
        home = str(value.__globals__.get("__name__", ""))
        yield from map(self.digest, (value.__defaults__, value.__kwdefaults__, vars(value)))
        yield from (self.digest(_cell(cell)) for cell in value.__closure__ or ())
        if is_library(home):
            yield f"{library(home)} {value.__qualname__} {value.__code__.co_name}"
            return
        self.modules.add(home)
        yield code_digest(value.__code__)
        for name, found in sorted(_globals(value.__code__, value.__globals__).items()):
            yield name
            yield self.digest(found)

    def _whole_module(self, value: types.ModuleType) -> Iterator[bytes | str]:
        yield library(value.__name__) if is_library(value.__name__) else value.__name__
        if not is_library(value.__name__):
            self.modules.add(value.__name__)
            own = {k: v for k, v in vars(value).items() if not k.startswith("__")}
            yield from self._attributes({k: v for k, v in own.items() if not isinstance(v, types.ModuleType)})


def _hash(*parts: bytes | str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object of a user's class, those in slots too."""
    slots = (name for kind in type(value).__mro__ for name, slot in vars(kind).items() if _is_slot(slot))
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _is_slot(value: Any) -> bool:
    return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return "an empty cell"


def _globals(code: types.CodeType, known: Mapping[str, Any]) -> dict[str, Any]:
    """What a function reads from its module, by name; of another module of the user's, only the names it speaks of."""
    found = {}
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in known:
            found[str(step.argval)] = known[step.argval]
    for name, value in list(found.items()):
        if isinstance(value, types.ModuleType) and not is_library(value.__name__):
            found[name] = {n: vars(value)[n] for n in code.co_names if n in vars(value)}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _globals(inner, known)
    return found


def _scripted(module: torch.jit.ScriptModule) -> Iterator[bytes | str]:
    """A scripted module as it would be saved: code, constants, attributes; without the places of its source."""
    import torch

    buffer = io.BytesIO()
    torch.jit.save(module, buffer)  # type: ignore[no-untyped-call]
    with zipfile.ZipFile(buffer) as archive:
        for name in sorted(archive.namelist()):
            if any(part in name for part in ("/code/", "/data", "/constants")) and not name.endswith(".debug_pkl"):
                yield from (_MANGLED.sub(b"", part) for part in (name.encode(), archive.read(name)))


_MANGLED = re.compile(rb"\.?_*torch_mangle_\d+")  # counts the classes that this process has scripted
