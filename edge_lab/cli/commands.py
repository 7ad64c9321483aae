"""What each command of `edge-lab` does: from parsed arguments to an exit code. Answers go to stdout."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lab.core.errors import InputError

if TYPE_CHECKING:
    from edge_lab.data import ImageSet


def version(_: Namespace) -> int:
    """`edge-lab --version`."""
    import edge_lab

    print(f"edge-lab {edge_lab.__version__}")
    return 0


def doctor(_: Namespace) -> int:
    """`edge-lab doctor`."""
    from edge_lab.clinic import doctor as clinic

    print("trying every runtime; this takes some seconds", file=sys.stderr)
    checks = clinic.check()
    print("\n".join(clinic.lines(checks)))
    broken = [c.name for c in checks if c.ok is False and c.required]
    print()
    print(
        f"{len(broken)} required checks fail: {', '.join(broken)}." if broken else "Everything that is required works."
    )
    return 0 if clinic.healthy(checks) else 1


def run(a: Namespace) -> int:
    """`edge-lab run`: 0 if at least one target came out; with --strict, only if all did and kept their budgets."""
    from edge_lab import flow, report

    result = flow.run(
        a.model,
        targets=_targets(a.targets) if a.targets else None,
        images=a.images,
        calibration=a.calibration,
        input_shape=a.input,
        weights=a.weights,
        out=a.out,
        budget=_budget(a.budget),
        limit=a.limit,
        jobs=a.jobs,
        progress=not a.quiet,
        allow_divergence=a.allow_divergence,
    )
    result = replace(result, command=a.command_line)
    result.save(a.out / "run.json")
    page = report.write(result, a.report or a.out / "report.html")
    print(report.table(result))
    print(f"\nreport  {page}\ndata    {a.out / 'run.json'}")
    tried = result.rows[1:]
    came_out = [row for row in tried if row.status == "ok"]
    strict = len(came_out) == len(tried) and all(v.ok is not False for row in tried for v in row.verdicts)
    return 0 if came_out and (strict or not a.strict) else 1


def _targets(text: str) -> list[str]:
    """Names and patterns, separated by commas, each target once."""
    from edge_lab.export import target, targets

    names: list[str] = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        found = targets(part)
        names += found or [target(part).name]  # an unknown name raises, and offers the nearest
    if not names:
        raise InputError(
            f"--targets {text!r} names no target.", "it is empty.", "leave it out, or see `edge-lab targets`."
        )
    return list(dict.fromkeys(names))


def _budget(given: Path | None) -> Path | None:
    """The file that was named; else budgets.toml of the current folder; else the package's defaults."""
    here = Path("budgets.toml")
    return given or (here if here.is_file() else None)


def export(a: Namespace) -> int:
    """`edge-lab export`."""
    from edge_lab.export import target, to
    from edge_lab.export.gate import caution
    from edge_lab.flow.inputs import image_set
    from edge_lab.zoo import create

    goal = target(a.target)
    model = create(a.model, weights=a.weights, input_shape=a.input)
    calibration = image_set(a.calibration).take(32) if a.calibration else None
    bundle = to(model, goal, calibration=calibration, out=a.out, force=a.force, allow_divergence=a.allow_divergence)
    share = bundle.runtime.delegated
    delegated = "" if share is None else f", {100 * share:.0f} % of operators delegated"
    print(f"{bundle.path}  {bundle.program_bytes / 1e6:.2f} MB, {bundle.quantization.scheme}{delegated}")
    if told := caution(bundle):
        print(f"note: {told}.", file=sys.stderr)
    if bundle.spec.assumed:
        print(f"note: preprocessing: {bundle.spec.assumed}", file=sys.stderr)
    if bundle.spec.weights == "random":
        print("note: the weights are random; the program is right, its answers mean nothing.", file=sys.stderr)
    return 0


def compress(a: Namespace) -> int:
    """`edge-lab compress`: 0 if a recipe keeps the budget; without --best-effort nothing is written otherwise."""
    from edge_lab.compress import CompressionBudget, auto
    from edge_lab.export import to
    from edge_lab.flow.inputs import image_set
    from edge_lab.zoo import create

    budget = CompressionBudget(a.min_agreement, a.min_sqnr, a.max_top1_loss, a.max_size_mb)
    model = create(a.model, weights=a.weights, input_shape=a.input)
    images = image_set(a.images)
    images = images.take(a.limit) if a.limit else images
    calibration = image_set(a.calibration).take(32) if a.calibration else None
    result = auto(model, images, budget, calibration=calibration, log=_tell)
    print(result.table())
    if not result.met and not a.best_effort:
        print("no bundle was written; --best-effort writes the closest.", file=sys.stderr)
        return 1
    bundle = to(result.model, "android-xnnpack-int8", golden=images, out=a.out)
    print(f"{bundle.path}  {bundle.program_bytes / 1e6:.2f} MB")
    return 0 if result.met else 1


def coverage(a: Namespace) -> int:
    """`edge-lab coverage`: 0 if no program answers differently from PyTorch.

    What can't be exported is an answer, too, and no error.
    """
    from edge_lab.flow import COVERAGE_TARGETS
    from edge_lab.flow import coverage as cover
    from edge_lab.flow.inputs import image_set
    from edge_lab.zoo import create

    goals = _targets(a.targets) if a.targets else COVERAGE_TARGETS
    model = create(a.model, weights=a.weights, input_shape=a.input)
    images = image_set(a.images).take(a.limit or sys.maxsize) if a.images else None
    found = cover(model, goals, inputs=images, out=a.out, jobs=a.jobs, show=_tell, allow_divergence=a.allow_divergence)
    print(found)
    return 0 if a.allow_divergence or not any(cell.diverges for cell in found.cells) else 1


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def check(a: Namespace) -> int:
    """`edge-lab check`."""
    from edge_lab.flow.check import check as examine
    from edge_lab.report.text import verdict_line

    found = examine(
        a.bundle,
        budget=_budget(a.budget),
        against=a.against,
        images=a.images,
        limit=a.limit,
        board=a.board,
        allow_divergence=a.allow_divergence,
    )
    print(found.bundle)
    for line in found.lines:
        print(f"{_mark(line.ok)}  {line.name}: {line.detail}")
    for verdict in found.verdicts:
        print(f"{_mark(verdict.ok)}  {verdict_line(verdict)}")
    good = found.complete if a.strict else found.ok
    unknown = sum(x is None for x in (*(line.ok for line in found.lines), *(v.ok for v in found.verdicts)))
    print(("fit to ship" if good else "not fit to ship") + (f"; {unknown} not measured here" if unknown else ""))
    if found.lines[0].ok and a.against is None and any(v.value is None for v in found.verdicts):
        print("to measure more: --against the fp32 bundle and --images FOLDER|SET", file=sys.stderr)
    return 0 if good else 1


def listen(a: Namespace) -> int:
    """`edge-lab listen`: a word a line, as it is heard."""
    from edge_lab.flow.listen import listen as heard

    for word in heard(a.bundle, None if a.microphone else a.source):
        print(f"{word.seconds:9.2f} s  {word.label}  {100 * word.probability:.0f} %", flush=True)
    return 0


def inspect(a: Namespace) -> int:
    """`edge-lab inspect`."""
    from edge_lab.formats.pte.file import inspect_pte

    print(inspect_pte(a.path))
    return 0


def _mark(ok: bool | None) -> str:
    return "----" if ok is None else ("PASS" if ok else "FAIL")


def bench(a: Namespace) -> int:
    """`edge-lab bench`."""
    from edge_lab.flow.bench import BenchConfig
    from edge_lab.flow.bench import bench as measure
    from edge_lab.measure.record import Measurements
    from edge_lab.report.measured import table

    if a.replay:
        found = Measurements.replay(a.replay)
    elif not a.bundles:
        raise InputError("there is nothing to time.", "no bundle was named.", "name folders, or a file with --replay.")
    else:
        config = BenchConfig(
            threads=a.threads,
            rounds=a.rounds,
            scenarios=tuple(a.scenario or ["single_stream"]),
            when_busy=a.when_busy,
            pin=not a.no_pin,
            energy=a.energy or a.watts_per_core is not None,
            watts_per_core=a.watts_per_core,
        )
        if a.device:
            from edge_lab.devices.remote.bench import bench_command

            found = bench_command(a, config)
        else:
            found = measure(a.bundles, config, command=a.command_line)
    print(table(found))
    if a.json:
        found.save(a.json)
        print(f"data    {a.json}")
    return 0


def deploy(a: Namespace) -> int:
    """`edge-lab deploy`."""
    from edge_lab.devices.remote.bench import deploy_command

    return deploy_command(a)


def firmware(a: Namespace) -> int:
    """`edge-lab firmware`."""
    from edge_lab.devices.firmware.command import firmware_command

    return firmware_command(a)


def compare(a: Namespace) -> int:
    """`edge-lab compare`: two files of measurements, or one model in every engine."""
    from edge_lab.peers.command import compare_engines, refuse_flags, refuse_one_file

    if a.after is None:
        from edge_lab.flow.inputs import image_set

        refuse_one_file(a)
        images, calibration = (image_set(name) if name else None for name in (a.images, a.calibration))
        return compare_engines(a, images, calibration)
    refuse_flags(a)
    from edge_lab.report.changes import cautions, limits, table
    from edge_lab.report.changes import compare as changes_between

    limit = limits(a.fail or ["median:5%", "instructions:5%"])
    changes = changes_between(a.before, a.after, limit)
    print(table(changes))
    worse = sum(c.worse for c in changes)
    allowed = ", ".join(f"{name} {percent:g} %" for name, percent in limit.items())
    print(f"\n{worse} of {len(changes)} worse than allowed ({allowed})")
    for sentence in cautions(a.before, a.after):
        print(f"warning: {sentence}", file=sys.stderr)
    return 1 if worse else 0


def decide(a: Namespace) -> int:
    """`edge-lab decide`: 0 if something fits the budget, 1 if nothing does."""
    from edge_lab.decide import Candidate, from_file, pareto, recommend, runs_on, unique
    from edge_lab.report.decision import draw, table
    from edge_lab.results.budget import Budgets, load_budget

    read: list[Candidate] = []
    for path in a.files:
        heading, found = from_file(path, threads=a.threads)
        print(heading)
        read += found
    candidates = unique(c for c in read if runs_on(c, a.platform))
    if not candidates:
        why = "every candidate has a target of another platform."
        raise InputError(f"nothing in these files is for {a.platform}.", why, "leave --platform out.")
    budget = load_budget(path) if (path := _budget(a.budget)) else Budgets()
    front, found_best = pareto(candidates), recommend(candidates, budget, objective=a.objective)
    print(f"\n{table(candidates, front)}\n")
    if front.unknown:
        print("not compared for want of a number: " + ", ".join(c.name for c in front.unknown))
    print(found_best)
    if a.plot:
        draw(front, found_best.choice, a.plot)
        print(f"picture {a.plot}")
    return 0 if found_best.choice else 1


def sweep(a: Namespace) -> int:
    """`edge-lab sweep`: 0 if a setting fits the budget."""
    from edge_lab.flow.inputs import image_set
    from edge_lab.results.budget import Budgets, load_budget
    from edge_lab.sweep import Evaluator, SweepConfig
    from edge_lab.sweep import sweep as search
    from edge_lab.zoo import create

    choices: dict[str, tuple[str | float, ...]] = {"target": tuple(_targets(a.targets)), "pruned": _shares(a.pruned)}
    if a.rounding:
        choices["rounding"] = tuple(part.strip() for part in a.rounding.split(","))
    config = SweepConfig(choices, trials=a.trials, storage=a.storage, workers=a.workers)
    images = image_set(a.images)
    images = images.take(a.limit) if a.limit else images
    evaluator = Evaluator(
        create(a.model, weights=a.weights, input_shape=a.input),
        images,
        train=_train_set(a.train) if a.train else None,
        calibration=image_set(a.calibration).take(32) if a.calibration else None,
        out=a.out,
    )
    found = search(evaluator, config, ray=a.ray, show=_tell)
    if a.json:
        found.save(a.json)
    print(found)
    best = found.best(load_budget(path) if (path := _budget(a.budget)) else Budgets())
    print(f"\n{best}")
    return 0 if best.choice else 1


def _train_set(name: str) -> ImageSet:
    """The training split of a set by name; a folder as it is."""
    from edge_lab import data
    from edge_lab.flow.inputs import image_set

    return data.load(name, "train") if name in data.sets() else image_set(name)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        why = "it is a list of shares from 0 to 1."
        raise InputError(f"--pruned {text!r} can't be read.", why, "for example --pruned 0,0.25,0.5") from error


def report(a: Namespace) -> int:
    """`edge-lab report`: a run or a file of measurements, whichever it is."""
    from edge_lab.report.file import page_of

    return page_of(a.result, a.out, markdown=a.markdown)


def targets(a: Namespace) -> int:
    """`edge-lab targets`."""
    from edge_lab import export
    from edge_lab.report.text import aligned

    found = [export.target(name) for name in export.targets(a.pattern)]
    if not found:
        export.target(a.pattern)  # raises, with the nearest names
        raise InputError(f"no target matches {a.pattern!r}.", "the pattern is too narrow.", "see `edge-lab targets`.")
    rows = [["target", "format", "precision"], *([t.name, t.format, t.precision] for t in found)]
    print("\n".join(aligned(rows, left=3)))
    return 0


def models(a: Namespace) -> int:
    """`edge-lab models`."""
    from edge_lab.zoo import list_models

    names = list_models(a.pattern)
    if not names:
        known = ", ".join(list_models())
        raise InputError(
            f"no model matches {a.pattern!r}.", f"the zoo has {known}.", "leave the pattern out to see all."
        )
    print("\n".join(names))
    print("\nalso torchvision:NAME, timm:NAME, and my_model.py:FUNCTION", file=sys.stderr)
    return 0


def data(_: Namespace) -> int:
    """`edge-lab data`. Sets that would have to be downloaded are named, not fetched."""
    from edge_lab.data import sets
    from edge_lab.data.catalog import licence

    for name, about in sets().items():
        text, shipped = licence(name)
        print(f"{name}: {about}" + ("" if shipped else " (from $EDGE_LAB_DATA, or downloaded on first use)"))
        print(f"  licence: {text}")
    return 0
