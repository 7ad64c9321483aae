"""Trains the teacher of lab 07: tinynet on all 20,000 labelled digits in the wild.

    python tools/make_teacher.py [OUT.safetensors]

Default: labs/checkpoints/teacher_digits.safetensors. Takes a few minutes on two cores; a run that was killed goes on
where it was. The weights are stored in half precision; the accuracy printed is that of the stored file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_lab import data, train, zoo
from edge_lab.files import sha256, writing_file
from edge_lab.zoo import Model

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "labs" / "checkpoints" / "teacher_digits.safetensors"
CONFIG = train.FitConfig(epochs=6, batch_size=64, lr=0.15, seed=0)


def store(model: Model, path: Path) -> None:
    """Write the weights of a model as float16; counters stay integers."""
    from safetensors.torch import save_file

    state = model.module.state_dict()
    with writing_file(path) as temporary:
        save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}, temporary)


def main(arguments: list[str]) -> int:
    """Train, store, and score what was stored."""
    path = Path(arguments[0]) if arguments else OUT
    learn = data.load("digits", "train")
    checkpoint = ROOT / "artifacts" / "lab07" / f"teacher-{learn.fingerprint[:8]}-{CONFIG.key}.pt"
    result = train.fit(zoo.create("tinynet"), learn, data.load("digits", "val"), CONFIG, checkpoint=checkpoint)
    for epoch in result.history:
        print(f"epoch {epoch.number}   loss {epoch.loss:.3f}   validation {epoch.val_top1:.2f} %")
    store(result.model, path)
    stored = zoo.create("tinynet", weights=str(path))
    test = data.load("digits", "test")
    for name, model in (("as trained", result.model), ("as stored", stored)):
        print(f"test accuracy {name}: {train.evaluate_module(model, test).top1:.2f} %")
    path.chmod(0o644)
    print(f"{path.stat().st_size / 1e3:.0f} kB, sha256 {sha256(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
