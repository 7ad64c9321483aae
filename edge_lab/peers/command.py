"""`edge-lab compare MODEL`: the table of peers in the terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from edge_lab.core.errors import InputError
from edge_lab.core.files import writing_file
from edge_lab.data import ImageSet
from edge_lab.peers import compare
from edge_lab.peers.engines import choose
from edge_lab.zoo import create

FLAGS = ("engines", "images", "limit", "threads", "rounds", "calibration", "weights", "input", "json", "out")


def refuse_flags(a: Namespace) -> None:
    """Two files are compared: what belongs to the table of engines does not go with them.

    Raises:
        InputError: one of its flags was given.
    """
    given = [f"--{name}" for name in FLAGS if getattr(a, name) is not None]
    if given:
        raise InputError(
            f"{', '.join(given)} does not go with two files.",
            "`compare A.json B.json` reads what was measured before.",
            "leave it out, or compare engines: edge-lab compare MODEL.",
        )


def refuse_one_file(a: Namespace) -> None:
    """One argument that is a file of measurements is half of a comparison, and --fail needs both halves.

    Raises:
        InputError: it is that, or --fail was given.
    """
    if str(a.before).endswith(".json"):
        raise InputError(
            f"{a.before} is one file of measurements; two are compared.",
            "a regression is a difference between before and after.",
            "edge-lab compare A.json B.json, or edge-lab compare MODEL for a table of engines.",
        )
    if a.fail:
        raise InputError(
            "--fail does not go with a model.",
            "it limits what may get worse between two files.",
            "write one with --json FILE, another one later, then: edge-lab compare A.json B.json --fail median:5%.",
        )


def compare_engines(a: Namespace, images: ImageSet | None, calibration: ImageSet | None) -> int:
    """Measure, print the table, write the picture and the file: 0 if at least one engine ran."""
    names = [word.strip() for word in a.engines.split(",") if word.strip()] if a.engines is not None else None
    choose(names)  # an unknown name is said before the model is made
    out = a.out or "artifacts"
    model = create(str(a.before), weights=a.weights or "default", input_shape=a.input)
    table = compare(
        model,
        engines=names,
        images=images,
        calibrate=calibration,
        limit=a.limit,
        threads=a.threads or (1, 2),
        rounds=a.rounds or 30,
        out=out,
        command=a.command_line,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(table)
    if all(not row.p50_ms for row in table.rows):
        print("no engine ran", file=sys.stderr)
        return 1
    for count in (n for n in table.threads if any(n in row.p50_ms for row in table.rows)):
        print(f"\n{count} thread{'s' if count > 1 else ''}, {table.recommend(count)}")
    name = model.spec.name.replace("/", "_").replace(":", "_")

    picture = Path(out) / name / "peers" / "roofline.png"
    with writing_file(picture) as temporary:
        table.plot().savefig(temporary, dpi=110, format="png")
    print(f"\npicture {picture}")
    if a.json:
        table.measured.save(a.json)
        print(f"data    {a.json}")
    return 0
