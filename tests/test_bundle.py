"""A bundle is refused, with a sentence that helps, unless all of it is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

from edge_lab.bundle.folder import Bundle, validate
from edge_lab.core.errors import BundleError
from edge_lab.export import to
from edge_lab.formats.runtime import load


@pytest.fixture(scope="module")
def made(artifacts: Path) -> Bundle:
    return to(nets.good(), "linux-onnx-fp32", out=artifacts)


@pytest.fixture
def bundle(made: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(path: Path, change: Any) -> None:
    manifest = path / "bundle.json"
    document = json.loads(manifest.read_text())
    change(document)
    manifest.write_text(json.dumps(document))


def test_reads_back_what_was_written(made: Bundle) -> None:
    again = Bundle.load(made.path)
    assert again == made
    assert again.spec == nets.good().spec
    assert again.runtime.package == "onnxruntime"
    assert again.made_by["torch"]


def test_golden_vectors_are_real_and_hold(made: Bundle) -> None:
    from edge_lab.bundle.spec import preprocess

    session = load(made)
    cases = list(made.golden_cases())
    assert len(cases) >= 5
    for case, x, outputs in cases:
        assert case.input is not None
        np.testing.assert_array_equal(preprocess(made.path / case.input, made.spec), x)
        assert np.abs(session(x) - outputs[0]).max() <= case.atol
        assert np.abs(session(-x) - outputs[0]).max() > case.atol  # the tolerance can fail


def test_moved_folders_still_work(bundle: Path) -> None:
    assert load(bundle)(nets.noise()[0]).shape == (1, 10)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden/0.png", "golden/0.input.bin"])
def test_one_changed_byte_is_found(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"damaged.*{name}"):
        Bundle.load(bundle)


def test_truncated_and_missing_files_are_found(bundle: Path) -> None:
    program = bundle / "model.onnx"
    program.write_bytes(program.read_bytes()[:-10])
    with pytest.raises(BundleError, match="bytes instead of"):
        Bundle.load(bundle)
    program.unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.load(bundle)


def test_no_bundle_here(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere"):
        Bundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        Bundle.load(tmp_path)


def test_newer_schema_is_refused(bundle: Path) -> None:
    edit(bundle, lambda d: d.update(schema_version=4))
    with pytest.raises(BundleError, match="schema version 4; this edge_lab reads up to 3"):
        Bundle.load(bundle)


def test_newer_runtime_is_refused(bundle: Path) -> None:
    edit(bundle, lambda d: d["runtime"].update(min_version="999.0"))
    with pytest.raises(BundleError, match=r"needs onnxruntime 999\.0"):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("runtime"),
        lambda d: d["spec"].update(task="magic"),
        lambda d: d["runtime"].update(delegated=1.5),
        lambda d: d.update(program="../../etc/passwd"),
        lambda d: d.update(program="/etc/passwd"),
        lambda d: d["golden"][0].update(tensor="golden/../../x"),
        lambda d: d["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}),
    ],
)
def test_manifests_that_break_the_schema_are_refused(bundle: Path, change: Any) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match="schema"):
        Bundle.load(bundle)


@pytest.mark.parametrize("text", ["", "[]", "not json", '{"schema_version": "one"}', "\x00\x01"])
def test_manifests_that_are_not_manifests(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(BundleError):
        Bundle.load(bundle)


def test_unknown_fields_are_ignored_by_older_readers(bundle: Path) -> None:
    edit(bundle, lambda d: d.update(colour="blue"))
    assert Bundle.load(bundle).spec.name == "good"


def test_metrics_are_recorded(bundle: Path) -> None:
    Bundle.load(bundle).record(top1=81.5, agreement=None)
    metrics = Bundle.load(bundle).metrics
    assert (metrics["top1"], metrics["agreement"]) == (81.5, None)
    assert metrics["sqnr_db"] > 60  # recorded at export, over the golden cases


def test_schema_is_a_schema() -> None:
    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "schema" / "bundle.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(BundleError):
        validate({"schema_version": 1})
