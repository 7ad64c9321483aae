"""What code does, as a hash that no edit of a comment, a docstring or a line break changes, and any other edit does."""

from __future__ import annotations

import ast
import dis
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

PACKAGES = (
    "torch",
    "torchvision",
    "torchao",
    "executorch",
    "onnx",
    "onnxruntime",
    "coremltools",
    "timm",
    "numpy",
    "bakenn",
)
_PACKAGE = Path(__file__).parents[1]
# What decides what is in a bundle. Models and data sets are hashed by what they give.
_OWN = (
    "bundle/*.py",
    "capture/**/*.py",
    "compress/**/*.py",
    "core/*.py",
    "export/**/*.py",
    "formats/**/*.py",
    "quality/agreement.py",
    "signals/*.py",
    "zoo/steady.py",
)


def code_digest(code: CodeType) -> bytes:
    """SHA-256 of what a code object does: its steps with the constants they take, its names, and the code inside it.

    Where it stands, its line numbers and its docstring are left out.
    """
    digest = hashlib.sha256()
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & 0xFFFF)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    digest.update(repr((code.co_name, shape, names)).encode())
    raw, arguments = code.co_code, bytearray(code.co_code[1::2])
    for i, step in enumerate(raw[::2]):
        if step in _TAKES_CONSTANT:  # where it stands among the constants depends on the docstring, which is one
            wide = arguments[i - 1] << 8 if i and raw[2 * i - 2] == dis.EXTENDED_ARG else 0
            arguments[i] = 0
            if wide:
                arguments[i - 1] = 0
            if not _is_docstring(code, raw, 2 * i):
                digest.update(_constant(code.co_consts[raw[2 * i + 1] | wide]) + b"\0")
    digest.update(raw[::2] + arguments)
    return digest.digest()


_TAKES_CONSTANT = frozenset(dis.hasconst)


def _is_docstring(code: CodeType, raw: bytes, at: int) -> bool:
    """Whether this step loads the docstring of a class or a module: the next one stores it as `__doc__`."""
    after = raw[at + 2 : at + 4]
    return len(after) == 2 and after[0] == _STORE_NAME and code.co_names[after[1] : after[1] + 1] == ("__doc__",)


_STORE_NAME = dis.opmap["STORE_NAME"]


def _constant(value: object) -> bytes:
    if isinstance(value, CodeType):
        return code_digest(value)
    if isinstance(value, frozenset):  # its order changes from process to process
        return repr(sorted(map(repr, value))).encode()
    return repr(value).encode()


@cache
def own_source() -> bytes:
    """Hash of the code of this package that decides what is in a bundle."""
    digest = hashlib.sha256()
    for file in own_files():
        code = SourceFileLoader(file.stem, str(file)).get_code(file.stem)  # from its .pyc, where that is up to date
        assert code is not None
        digest.update(file.name.encode() + code_digest(code))
    return digest.digest()


def own_files() -> list[Path]:
    """The files behind `own_source`, sorted."""
    return sorted({file for pattern in _OWN for file in _PACKAGE.glob(pattern)})


def _code_without_docstrings(file: Path) -> CodeType | None:
    """A file's code. None: not Python, or not to be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass(lineno=1, col_offset=0)]
    return compile(tree, file.name, "exec", dont_inherit=True)


def is_library(module: str) -> bool:
    """Whether a module is an installed one: its version stands for its code."""
    top = module.partition(".")[0]
    if top in ("edge_lab", "__main__", "__mp_main__") or top.startswith("edge_lab_user_"):
        return False
    return top in sys.stdlib_module_names or top in PACKAGES or top.startswith("_cython_") or _is_installed(module)


@cache
def _is_installed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" in Path(file).parts or "dist-packages" in Path(file).parts


@cache
def library(module: str) -> str:
    """The name of a library module and the version of its package."""
    top = module.partition(".")[0]
    try:
        version = "" if top in sys.stdlib_module_names or top in PACKAGES else metadata.version(top)
    except metadata.PackageNotFoundError:  # a package whose name is not its module's: say what it says itself
        version = str(getattr(sys.modules.get(top), "__version__", ""))
    return f"{module} {version}"


def versions() -> dict[str, str | None]:
    """The versions of the packages that make programs; None: not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def files_digest(modules: Iterable[str]) -> bytes:
    """Hash of the user's files behind some modules, and of what these files import from files of the user's."""
    done: dict[Path, bytes] = {}
    waiting = [file for module in modules if (file := _file_of(module))]
    while waiting:
        file = waiting.pop()
        if file not in done:
            code = _code_without_docstrings(file)
            done[file] = code_digest(code) if code else b""
            waiting += _neighbours(code, file) if code else ()
    return b"".join(sorted(done.values()))


def _file_of(module: str) -> Path | None:
    """The file of a module of the user's; None for a library, this package, a notebook."""
    if module.partition(".")[0] == "edge_lab" or is_library(module):
        return None
    name = getattr(sys.modules.get(module), "__file__", None)
    return Path(name) if name and Path(name).suffix == ".py" and Path(name).is_file() else None


def _neighbours(code: CodeType, file: Path) -> Iterator[Path]:
    """The user's files that a file imports, at its top or inside its functions."""
    for module, level in _imports(code):
        above = file.parents[level - 1] if 0 < level <= len(file.parents) else file.parent
        place = above.joinpath(*module.split("."))
        near = [place.with_suffix(".py"), place / "__init__.py"] if module else [above / "__init__.py"]
        loaded = None if level else _file_of(module)
        yield from [loaded] if loaded else [f for f in near if f.is_file() and not (level == 0 and is_library(module))]


def _imports(code: CodeType) -> Iterator[tuple[str, int]]:
    """Every import in a code object: the module, and how many folders up its name starts (0: an absolute name)."""
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            module, level = str(step.argval), steps[i - 2].argval
            yield module, level if isinstance(level, int) else 0
            wanted = steps[i - 1].argval
            yield from ((f"{module}.{name}".strip("."), level) for name in wanted or () if level is not None)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _imports(inner)
