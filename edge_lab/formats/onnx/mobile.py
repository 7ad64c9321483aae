"""The .ort format: an ONNX graph, optimised beforehand, that the small ONNX Runtime of a phone app loads."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import replace
from pathlib import Path

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.core.errors import BundleError
from edge_lab.core.made_with import version_of
from edge_lab.formats.onnx.file import read_onnx
from edge_lab.formats.onnx.onnx import export_onnx

OPERATORS = "required_operators.config"


@exporter("ort", "ort", ("android", "linux"), ("fp32", "int8"))
def export_ort(job: Job) -> Program:
    """Write model.ort, and beside it the list of operators that a minimal build of ONNX Runtime must contain."""
    program = export_onnx(replace(job, target=replace(job.target, format="onnx", backend="onnx")))
    source = job.folder / program.file
    to_ort(source, job.folder)
    source.unlink()
    version = version_of("onnxruntime")
    return Program("model.ort", Runtime("ort", "cpu", "onnxruntime", version, version), program.report)


def to_ort(source: Path | str, folder: Path | str) -> Path:
    """Convert an .onnx file to NAME.ort in `folder`, with `required_operators.config` beside it.

    The optimisations of level "all" are done now and stored, except for layouts of one processor, so that the file runs
    on any: loading it parses nothing and optimises nothing. The list names each operator with its domain and version.
    `build.sh --minimal_build --include_ops_by_config` of ONNX Runtime builds a library that holds these alone.

    Raises:
        BundleError: `source` can't be used, or ONNX Runtime could not convert it.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    source, folder = Path(source), Path(folder)
    read_onnx(source)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{source.stem}.ort"
    said = io.StringIO()
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(said):
            convert_onnx_models_to_ort(source, output_dir=folder, optimization_styles=[OptimizationStyle.Fixed])
    finally:
        logging.disable(logging.NOTSET)
    if not written.is_file():
        raise BundleError(
            f"{source} can't be converted to the .ort format.",
            said.getvalue().strip().splitlines()[-1][:300]
            if said.getvalue().strip()
            else "the converter said nothing.",
            "ship the .onnx file: every build of ONNX Runtime but the minimal one reads it.",
        )
    listed = folder / f"{source.stem}.{OPERATORS}"
    lines = [line for line in listed.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    listed.unlink()  # its comments name folders of this computer
    (folder / OPERATORS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written
