"""Many architectures in every format: is there a program, what stays outside the delegate, does it compute the same?

    python tools/coverage.py run [--out artifacts/coverage] [--keep] [PATTERN]   goes on where it was stopped
    python tools/coverage.py write [--out artifacts/coverage] [DOC]              docs/coverage.md from the results

One process per network: a crash, a hang or a full memory costs one cell. Results are lines of OUT/results.jsonl. A cell
that was measured with the same versions is not measured again; delete its line (or the file) to do so.

Weights are random, because no download is needed for them, and made alive: see `awake`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import edge_lab
from edge_lab import data
from edge_lab.compress.graphs.norm import refresh_norm
from edge_lab.export.gate import own_precision
from edge_lab.flow.coverage import COVERAGE_TARGETS, Cell, coverage
from edge_lab.quality.agreement import every_output
from edge_lab.zoo import Model

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("artifacts/coverage")
PACKAGES = ("torch", "torchvision", "timm", "executorch", "onnx", "onnxruntime", "coremltools")
SIZE = 96  # pixels: enough for every network to work, and cheap
TIMEOUT_S = 900


@dataclass(frozen=True)
class Architecture:
    """A network of torchvision or timm, at a picture size. `part` of a detector: all before its boxes are filtered."""

    name: str
    kind: str
    size: int = SIZE
    part: bool = False


def _all(kind: str, names: str, **more: Any) -> tuple[Architecture, ...]:
    return tuple(Architecture(name, kind, **more) for name in names.split())


SMALL = _all(
    "mobile classifier",
    "timm:lcnet_050 timm:tinynet_e torchvision:squeezenet1_1 torchvision:shufflenet_v2_x0_5 "
    "torchvision:mobilenet_v3_small torchvision:mnasnet0_5 timm:mobilenetv4_conv_small_050 timm:regnetx_002 "
    "timm:resnet10t",
)
CHEAP = _all("transformer", "timm:deit_tiny_patch16_224 timm:mobilevit_xxs timm:mobilevitv2_050")
ARCHITECTURES = (
    *SMALL,
    *CHEAP,
    *_all("transformer", "timm:levit_128s"),
    *_all("segmentation", "torchvision:lraspp_mobilenet_v3_large"),
    *_all("detector before its filter", "torchvision:ssdlite320_mobilenet_v3_large", part=True),
    *_all(
        "mobile classifier",
        "torchvision:mobilenet_v2 torchvision:mobilenet_v3_large timm:tf_efficientnet_lite0 "
        "torchvision:efficientnet_b0 timm:ghostnet_100 timm:mobileone_s0 timm:fastvit_t8 timm:edgenext_xx_small "
        "timm:mobilenetv1_100 timm:rexnet_100 timm:hardcorenas_a timm:semnasnet_075 timm:starnet_s1 timm:repvit_m0_9",
    ),
    *_all("classifier", "torchvision:resnet18 torchvision:regnet_y_400mf timm:repvgg_a0 timm:convnext_atto"),
    *_all(
        "transformer", "timm:vit_tiny_patch16_224 timm:efficientformerv2_s0 timm:efficientvit_b0 timm:efficientvit_m0"
    ),
    *_all("segmentation", "torchvision:deeplabv3_mobilenet_v3_large"),
    *_all("detector before its filter", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", part=True),
    *_all("classifier", "torchvision:densenet121 torchvision:googlenet timm:eca_nfnet_l0 timm:convnext_femto"),
    *_all("transformer", "timm:swin_tiny_patch4_window7_224 timm:poolformer_s12 timm:xcit_nano_12_p16_224"),
    *_all("transformer", "timm:efficientformer_l1", size=224),
    *_all("classifier", "torchvision:inception_v3 torchvision:resnet50"),
    *_all("mobile classifier", "timm:ghostnetv2_100"),
    *_all("transformer", "timm:swiftformer_xs timm:mixer_s32_224"),
    *_all("segmentation", "torchvision:fcn_resnet50"),
    *_all("detector before its filter", "torchvision:retinanet_resnet50_fpn", part=True),
)


class BeforeFilter(nn.Module):
    """A torchvision detector without its resizing of pictures and without its filter of boxes: backbone and head."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head if hasattr(detector, "head") else detector.rpn.head

    def forward(self, x: torch.Tensor) -> Any:
        """Scores and box offsets of every anchor."""
        return self.head(list(self.backbone(x).values()))


def build(net: Architecture) -> Model:
    """The network with seeded random weights that are awake."""
    shape = (1, 3, net.size, net.size)
    if not net.part:
        return awake(edge_lab.create(net.name, weights="random", input_shape=shape))
    from torchvision import models

    torch.manual_seed(0)
    name = net.name.removeprefix("torchvision:")
    whole = models.get_model(name, weights=None, weights_backbone=None).eval()
    before = edge_lab.from_module(nn.Flatten(), shape, name=name)  # for its default preprocessing
    part = edge_lab.from_module(
        BeforeFilter(whole), shape, name=name, preprocess=before.spec.preprocess, task="tensor", weights="random"
    )
    return awake(part)


def awake(model: Model) -> Model:
    """The model with every branch in use, and with batch norms that have seen pictures.

    Architectures start with branches that are multiplied by zero or by 1e-6 (the scale of a layer, the last norm of a
    block), and with norms that pass anything through. A converter could drop such a branch and nobody would notice.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if not name.endswith("bias") and float(weight.abs().max()) < 1e-3:
                few = weight.numel() == max(weight.shape, default=1)  # one number for each channel: a scale
                weight.copy_(
                    torch.full_like(weight, 0.5) if few else 0.02 * torch.randn(weight.shape, generator=generator)
                )
    norms = [m for m in model.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model = replace(model, origin=None)  # creating it again by name would give it asleep
    if not norms:
        return model
    as_classifier = replace(model, spec=model.spec.with_(task="classify"))  # refresh_norm reads pictures for those only
    fresh = refresh_norm(as_classifier, data.load("crops", limit=32), batch_size=16)
    return replace(model, module=fresh.module)


def spread(model: Model, inputs: np.ndarray) -> float:
    """How much of the output depends on the picture: its deviation between pictures as a share of its size, 0 to 1."""
    y = _side_by_side(edge_lab.eager(model), inputs)
    return float(np.sqrt(np.square(y - y.mean(0)).mean() / np.square(y).mean()))


def _side_by_side(session: edge_lab.Session, inputs: np.ndarray) -> np.ndarray:
    """Every output for every input, (N, values), float64."""
    outputs = every_output(session, (x[None] for x in inputs))
    return np.concatenate([out.reshape(len(out), -1).astype(np.float64) for out in outputs], axis=1)


def half_db(model: Model, inputs: np.ndarray) -> float:
    """SQNR of the network in PyTorch's own float16, no converter involved: the control for Core ML's column."""
    arrays = [x[None] for x in inputs]
    session = edge_lab.eager(model)
    found = own_precision(model, "fp16", arrays, [session.run(x) for x in arrays])
    assert found is not None, f"{model.spec.name} does not run in float16"
    return min(found)


def one(net: Architecture, targets: list[str], out: Path) -> None:
    """What the process of one network does: print a JSON line for each target."""
    from edge_lab.quality.accuracy import prepare

    torch.set_num_threads(1)
    model = build(net)
    x = prepare(data.load("photos").take(8), model.spec).x
    about = {
        "network": net.name,
        "kind": net.kind,
        "size": net.size,
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "spread": spread(model, x),
        "half_db": half_db(model, x),
        "versions": versions(),
    }
    for target in targets:
        clock = time.process_time()
        cell = coverage(model, [target], inputs=[row[None] for row in x], out=out, jobs=0)[target]
        line = about | {"cpu_s": round(time.process_time() - clock, 1)} | asdict(cell)
        print("\n" + json.dumps(line), flush=True)


def versions() -> dict[str, str]:
    """Of all that decides about a cell."""
    return {name: version(name).split("+")[0] for name in PACKAGES}


def run(nets: list[Architecture], out: Path, keep: bool) -> None:
    """Every cell that is not there yet; progress on stderr."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    for number, net in enumerate(nets, 1):
        have = {r["target"] for r in results(file) if r["network"] == net.name and r["versions"] == versions()}
        todo = [t for t in COVERAGE_TARGETS if t not in have]
        while todo:
            lines = _child(net, todo, out)
            with file.open("a", encoding="utf-8") as handle:
                handle.writelines(json.dumps(line) + "\n" for line in lines)
            for line in lines:
                todo.remove(line["target"])
                told = f"{line['sqnr_db']:.0f} dB" if line["sqnr_db"] is not None else line["why"]
                print(f"[{number}/{len(nets)}] {net.name} {line['target']}: {told}", file=sys.stderr, flush=True)
        if not keep:
            shutil.rmtree(out / net.name.partition(":")[2], ignore_errors=True)


def _child(net: Architecture, todo: list[str], out: Path) -> list[dict[str, Any]]:
    """Lines of the process of one network, and one more for the cell that ended it."""
    command = [sys.executable, "-W", "ignore", __file__, "one", net.name, *todo, "--out", str(out)]
    why = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
        stdout = done.stdout
        if done.returncode:
            said = [s for s in done.stderr.splitlines() if s.strip()] or ["no message"]
            how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
            why = f"the process died: {how}, {said[-1].strip()[:200]}"
    except subprocess.TimeoutExpired as error:
        stdout = (error.stdout or b"").decode(errors="replace")
        why = f"no answer within {TIMEOUT_S} s"
    lines = [json.loads(line) for line in stdout.splitlines() if line.startswith('{"network"')]
    left = [t for t in todo if t not in {line["target"] for line in lines}]
    if left:
        about = {"network": net.name, "kind": net.kind, "size": net.size, "versions": versions()}
        lines.append(about | asdict(Cell(left[0], False, why=why, fix="leave this target out.")))
    return lines


def results(file: Path) -> list[dict[str, Any]]:
    """All lines; of two about the same cell, the later."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return list({(row["network"], row["target"]): row for row in rows}.values())


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "write", "one"))
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--keep", action="store_true", help="leave the bundles there")
    a = parser.parse_args()
    if a.verb == "one":
        one(next(n for n in ARCHITECTURES if n.name == a.words[0]), a.words[1:], a.out)
    elif a.verb == "run":
        pattern = a.words[0] if a.words else "*"
        run([n for n in ARCHITECTURES if fnmatch.fnmatch(n.name, pattern)], a.out, a.keep)
    else:
        from coverage_page import page

        doc = Path(a.words[0]) if a.words else ROOT / "docs" / "coverage.md"
        doc.write_text(page(results(a.out / "results.jsonl")), encoding="utf-8")
        print(doc)


if __name__ == "__main__":
    main()
