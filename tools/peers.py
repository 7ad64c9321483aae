"""Peers: environments for the engines that `edge-lab compare MODEL` measures beside ours, and the page of results.

    python tools/peers.py env peers       makes .venv-peers: OpenVINO, nncf, ncnn, pnnx, MNN (about 390 MB)
    python tools/peers.py env litert      makes .venv-litert: LiteRT, its converter and its quantizer (about 790 MB)
    python tools/peers.py versions        what is installed where

    edge-lab compare tools/peers.py:mobilenet_digits --images digits --calibration digits

Each environment holds only what differs and sees the packages of this one behind it, so that PyTorch is downloaded
once. LiteRT's converter needs older typing_extensions and pydantic than Jupyter here; OpenVINO and MNN would fit in
here, but OpenVINO's delegate of ExecuTorch needs another OpenVINO (see tools/accelerators.py).

LiteRT's Python packages also ask for transformers and others that only its language models need: left out. So is
openvino-telemetry, which OpenVINO and nncf ask for: it reports each import and each call to Intel unless told not to,
and without it they report nothing.

These pins are the one place where versions of peers are stated. None of them is needed by anything else.
"""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path
from subprocess import run
from typing import TYPE_CHECKING

from edge_lab.peers.places import ENVIRONMENTS, interpreter

if TYPE_CHECKING:
    from edge_lab.zoo import Model

ROOT = Path(__file__).resolve().parent.parent
PINS = {
    "peers": (
        "openvino==2026.4.1",
        "nncf==3.4.0",
        "ncnn==1.0.20261020",
        "pnnx==20261020",
        "MNN==3.6.1",
        "portalocker==4.4.2",  # ncnn
        "pydot==4.0.1",  # nncf, with the next three
        "rich==15.0.0",
        "markdown-it-py==4.3.0",
        "mdurl==0.1.2",
    ),
    "litert": (
        "litert-torch==0.10.0",
        "litert-converter==0.5.0",
        "ai-edge-litert==2.3.0",
        "ai-edge-quantizer==0.10.0",
        "jax==0.10.2",
        "jaxlib==0.10.2",
        "jaxtyping==0.3.11",
        "opt_einsum==3.4.0",
        "wadler_lindig==0.1.8",
        "absl-py==2.5.1",
        "backports.strenum==1.2.8",
        "immutabledict==4.2.1",
        "xdsl==0.28.0",
        "typing_extensions==4.12.2",
        "rich==15.0.0",
        "markdown-it-py==4.3.0",
        "mdurl==0.1.2",
    ),
}


def make(name: str) -> None:
    """Create an environment with the pinned packages, in front of the packages of this one."""
    place = ROOT / ENVIRONMENTS[name]
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "edge_lab_main.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PINS[name]], check=True)
    print(place)


def mobilenet_digits() -> Model:
    """The trained MobileNetV3-Small of lab 06 (tools/make_mobilenet_digits.py), for `edge-lab compare`."""
    from edge_lab import data, zoo

    weights = ROOT / "labs" / "checkpoints" / "mobilenet_digits.safetensors"
    source = f"{ROOT / 'tools' / 'make_mobilenet_digits.py'}:build"
    return zoo.create(source, weights=str(weights), labels=data.load("digits").labels)


def versions() -> None:
    """One line for each environment: the packages that it holds itself, or how to make it."""
    for name, pins in PINS.items():
        there = interpreter(name) is not None
        print(f"{name}: {', '.join(pins)}" if there else f"{name}: not installed: python tools/peers.py env {name}")


def main() -> None:
    """See the top of this file."""
    words = sys.argv[1:]
    if words[:1] == ["env"] and len(words) == 2 and words[1] in PINS:
        make(words[1])
    elif words == ["versions"]:
        versions()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
