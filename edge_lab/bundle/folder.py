"""A bundle: a folder with a model and everything a device needs to run it correctly.

`Bundle.load` is the only way in. It refuses, in one sentence that says what to do, a bundle that is missing,
damaged, newer than this reader, or made for a newer runtime.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_lab.bundle.spec import ModelSpec, TensorSpec
from edge_lab.core.errors import BundleError
from edge_lab.core.files import sha256, size_of, writing_file

SCHEMA_VERSION = 3  # the newest that this reader understands
MANIFEST = "bundle.json"
LABELS = "labels.txt"

Format = Literal["torchscript", "pt2", "onnx", "pte", "mlpackage", "aoti", "ort", "ptl", "c"]
Scheme = Literal[
    "fp32",
    "fp16",
    "bf16",
    "int8-static",  # 8-bit weights and activations, ranges fixed beforehand
    "int8-dynamic",  # 8-bit weights; activations rounded to 8 bits as they come
    "int4-dynamic",  # the same with 4-bit weights
    "int8-weights",  # 8-bit weights, widened before use: arithmetic in floats
    "int4-weights",
    "palette6",  # weights are places in a list of 64 values per layer; arithmetic in floats
    "palette4",  # ... of 16 values
]
Method = Literal["ptq", "qat"]
Reference = Literal["self", "eager", "interpreted"]
_SCHEMES_OF_VERSION_1 = ("fp32", "fp16", "int8-static")
_FORMATS_OF_VERSION_2 = ("aoti", "ort", "ptl")


@dataclass(frozen=True)
class Runtime:
    """The engine a program needs.

    `package` is the Python distribution that loads it, `made_with` the version that wrote it; apps must bring
    at least `min_version`. `delegated` is the share of operators inside the delegate (None: no such notion),
    `operators` names those left outside.
    """

    format: Format
    backend: str
    package: str
    made_with: str
    min_version: str
    delegated: float | None = None
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantization:
    """Precision of the program, and how it came by it.

    `calibration` names the inputs that the ranges came from, `samples` how many. `method`: integers rounded after
    training ("ptq") or trained for ("qat"); None: floats, or not known. `quantized` of `layers` layers with weights
    hold integers; None: not counted.
    """

    scheme: Scheme
    calibration: str | None = None
    samples: int = 0
    method: Method | None = None
    quantized: int | None = None
    layers: int | None = None


@dataclass(frozen=True)
class FileEntry:
    """Checksum and size of one file or folder of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Golden:
    """One recorded case: encoded input, preprocessed tensor, expected outputs (file names), tolerance.

    `reference`: who computed the outputs. The PyTorch model (always for float32 programs, and where the program could
    not run), the program itself where it rounds, or a reference interpretation of it. In the last two cases `eager`
    names the PyTorch model's own outputs. `atol` is the largest of `atols`, one tolerance for each output, which are
    written where there are several.
    """

    input: str | None
    tensor: str
    outputs: tuple[str, ...]
    atol: float
    reference: Reference
    atols: tuple[float, ...] | None = None
    eager: tuple[str, ...] | None = None

    @property
    def tolerances(self) -> tuple[float, ...]:
        """Largest absolute difference that still counts as equal, for each output."""
        return self.atols or (self.atol,) * len(self.outputs)


@dataclass(frozen=True)
class OutputParity:
    """How near an output is to the PyTorch model's: SQNR over all cases, -200 to 200 dB, and its limit."""

    name: str
    sqnr_db: float
    limit_db: float

    @property
    def ok(self) -> bool:
        """Whether it keeps the limit."""
        return self.sqnr_db >= self.limit_db


@dataclass(frozen=True)
class ProgramParity:
    """What `to` compared with the PyTorch model before it wrote the bundle.

    Attributes:
        compared: the program was "run" in its own engine, "interpreted", or "no": it could not be compared here.
        inputs: what both were given.
        outputs: one entry for each output; empty if nothing was compared.
        allowed: an output is below its limit, and whoever exported it said `allow_divergence`.
        starts_at: the layer where it starts, as far as anybody can see; None if no output is below its limit.
    """

    compared: Literal["run", "interpreted", "no"]
    inputs: str
    outputs: tuple[OutputParity, ...] = ()
    allowed: bool = False
    starts_at: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every output that was compared keeps its limit."""
        return all(output.ok for output in self.outputs)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Fields mirror bundle.json (schema/bundle.schema.json)."""

    path: Path
    target: str
    spec: ModelSpec
    runtime: Runtime
    quantization: Quantization
    program: str
    outputs: tuple[TensorSpec, ...]
    golden: tuple[Golden, ...]
    files: dict[str, FileEntry] = field(default_factory=dict)
    metrics: dict[str, float | str | None] = field(default_factory=dict)
    made_by: dict[str, str | None] = field(default_factory=dict)
    parity: ProgramParity | None = None  # None: written before `to` compared

    @property
    def name(self) -> str:
        """Model and kind, such as `efficientnet_lite0/xnnpack-int8`."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def program_path(self) -> Path:
        """The file (or folder) that the runtime loads."""
        return self.path / self.program

    @property
    def program_bytes(self) -> int:
        """Size of the program in bytes, labels and golden vectors not counted."""
        return self.files[self.program].bytes

    def golden_cases(self) -> Iterator[tuple[Golden, np.ndarray, tuple[np.ndarray, ...]]]:
        """Yield each golden case with its input tensor and expected outputs as arrays."""
        for case in self.golden:
            x = self._array(case.tensor, self.spec.input)
            yield case, x, tuple(self._array(f, o) for f, o in zip(case.outputs, self.outputs, strict=True))

    def eager_cases(self) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
        """Yield each golden input with what the PyTorch model answers; nothing for cases that do not hold that."""
        for case in self.golden:
            files = case.outputs if case.reference == "eager" else case.eager
            if files is not None:
                x = self._array(case.tensor, self.spec.input)
                yield x, tuple(self._array(f, o) for f, o in zip(files, self.outputs, strict=True))

    def _array(self, file: str, tensor: TensorSpec) -> np.ndarray:
        little_endian = np.dtype(tensor.dtype).newbyteorder("<")
        return np.fromfile(self.path / file, dtype=little_endian).astype(tensor.dtype).reshape(tensor.shape)

    def save(self) -> None:
        """Write bundle.json (and the checksums of everything beside it), checked against the schema."""
        if self.spec.labels:
            (self.path / LABELS).write_text("\n".join(self.spec.labels) + "\n", encoding="utf-8")
        names = _payload(self.path, self.program)
        files = {name: FileEntry(sha256(self.path / name), size_of(self.path / name)) for name in names}
        replace(self, files=files)._save_manifest()

    def _save_manifest(self) -> None:
        document = _to_json(self)
        validate(document)
        with writing_file(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def record(self, **metrics: float | str | None) -> Bundle:
        """Add metrics (top1, agreement, sqnr_db, ...) to bundle.json and return the updated bundle.

        Checksums stay those of the export: a file that was damaged since is still found out.
        """
        updated = replace(self, metrics=self.metrics | metrics)
        updated._save_manifest()
        return updated

    def with_parity(self, parity: ProgramParity) -> Bundle:
        """Note a later comparison with the PyTorch model in bundle.json, as `record` does."""
        updated = replace(self, parity=parity)
        updated._save_manifest()
        return updated

    @staticmethod
    def load(path: Path | str, *, verify: bool = True) -> Bundle:
        """Read a bundle folder.

        Args:
            path: the folder that holds bundle.json.
            verify: compare every checksum (about 30 ms for 20 MB).

        Raises:
            BundleError: missing, not JSON, newer schema, schema violation, wrong checksum, runtime too old.
        """
        path = Path(path)
        document = _read_manifest(path)
        bundle = _from_json(path, document)
        if verify:
            _verify_files(bundle)
        _verify_runtime(bundle)
        return bundle


def _payload(path: Path, program: str) -> list[str]:
    """Names to checksum: the program as one entry (a .mlpackage is a folder), every other file by itself."""
    root = path / program
    names = {program}
    for file in path.rglob("*"):
        inside = root.is_dir() and root in file.parents
        if file.is_file() and file != root and not inside and file.name != MANIFEST and ".part-" not in file.name:
            names.add(file.relative_to(path).as_posix())
    return sorted(names)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise BundleError(
            f"no bundle at {path}.",
            f"{MANIFEST} is missing" + ("." if path.is_dir() else ", and so is the folder."),
            "write one with `edge-lab run` or edge_lab.to(model, target), or check the path.",
        )
    again = "make it again with edge_lab.to(model, target), or copy the whole folder again."
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{manifest} can't be read.", f"it is not a bundle manifest: {error!r}.", again) from error
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"bundle {path} has schema version {version}; this edge_lab reads up to {SCHEMA_VERSION}.",
            "it was made by a newer edge_lab.",
            "upgrade edge_lab, or export the bundle again with this version.",
        )
    validate(document, where=str(manifest))
    return document  # type: ignore[no-any-return]


def _verify_files(bundle: Bundle) -> None:
    for name, entry in bundle.files.items():
        file = bundle.path / name
        if not file.exists():
            problem = f"{name} is missing"
        elif size_of(file) != entry.bytes:
            problem = f"{name} has {size_of(file)} bytes instead of {entry.bytes}"
        elif sha256(file) != entry.sha256:
            problem = f"{name} has another SHA-256 than bundle.json says"
        else:
            continue
        raise BundleError(
            f"bundle {bundle.path} is damaged: {problem}.",
            "the file was changed or cut off after the bundle was written.",
            "make the bundle again with edge_lab.to(model, target), or copy the whole folder again.",
        )


def _verify_runtime(bundle: Bundle) -> None:
    from packaging.version import Version

    package, needed = bundle.runtime.package, bundle.runtime.min_version
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return  # loading says so, with the command that installs it
    if Version(installed) < Version(needed):
        raise BundleError(
            f"bundle {bundle.path} needs {package} {needed} or newer; {installed} is installed.",
            "programs run on the version that made them or a newer one, not on an older one.",
            f"pip install '{package}>={needed}', or export the bundle again here.",
        )


@cache
def _validator() -> Any:
    import jsonschema

    text = resources.files("edge_lab").joinpath("schema/bundle.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def validate(document: object, where: str = "the bundle manifest") -> None:
    """Raise BundleError if `document` does not fit the published schema."""
    errors = sorted(_validator().iter_errors(document), key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        first = errors[0]
        spot = "/".join(map(str, first.absolute_path)) or "top level"
        raise BundleError(
            f"{where} does not fit the bundle schema at {spot!r}.",
            first.message[:300] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
            "make the bundle again with edge_lab.to(model, target); the schema is schema/bundle.schema.json.",
        )


@cache
def _converter() -> Any:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook(float | None, lambda v, _: None if v is None else float(v))
    converter.register_structure_hook(float | str | None, lambda v, _: v)
    return converter


def _to_json(bundle: Bundle) -> dict[str, Any]:
    # The oldest version that can say it: older readers go on reading what they understand.
    first = (
        bundle.quantization.scheme in _SCHEMES_OF_VERSION_1
        and bundle.runtime.format not in _FORMATS_OF_VERSION_2
        and all(case.reference != "interpreted" for case in bundle.golden)
    )
    version = 3 if bundle.runtime.format == "c" or bundle.spec.audio is not None else 1 if first else 2
    labels = LABELS if bundle.spec.labels else None
    document: dict[str, Any] = {"schema_version": version, "labels": labels} | _converter().unstructure(bundle)
    del document["path"], document["spec"]["labels"]  # labels live in labels.txt
    if bundle.spec.audio is None:
        del document["spec"]["audio"]
    if not bundle.spec.assumed:
        del document["spec"]["assumed"]
    if bundle.parity is None:
        del document["parity"]
    for case in document["golden"]:
        for name in [name for name in ("atols", "eager") if case[name] is None]:
            del case[name]
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]  # tuples become lists, as a reader sees them


def _from_json(path: Path, document: dict[str, Any]) -> Bundle:
    labels: tuple[str, ...] = ()
    if document.get("labels"):
        file = path / document["labels"]
        labels = _lines(file.read_bytes().decode("utf-8", "replace")) if file.is_file() else ()
    body = {k: v for k, v in document.items() if k not in ("schema_version", "labels")}
    body |= {"path": path, "spec": body["spec"] | {"labels": labels}}
    bundle: Bundle = _converter().structure(body, Bundle)
    return bundle


def _lines(text: str) -> tuple[str, ...]:
    """Lines that end at "\\n" and nowhere else, as every reader splits them, without "\\r" at their ends."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return tuple(line.rstrip("\r") for line in lines)
