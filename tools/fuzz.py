"""Random small networks, and whether edge_lab keeps its promise about them: right, or refused with a cause and a fix.

    python tools/fuzz.py run [--seed 0] [--seconds 600] [--each 6]   goes on where it was stopped
    python tools/fuzz.py summary                                     what was tried, and what was found
    python tools/fuzz.py again [WORD]       networks with findings (or whose cause holds WORD), with today's code
    python tools/fuzz.py show ID [TARGET]   the smallest network that fails like this one, as a script

Results are lines of OUT/results.jsonl (--out, default artifacts/fuzz); a later line on the same network wins.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz_check import FINDINGS, TARGETS, Cell, cause
from fuzz_modules import Net, from_json, nets, to_json
from fuzz_shrink import script, smallest
from fuzz_worker import Worker
from hypothesis import HealthCheck, Phase, given, seed, settings

BATCH = 150  # networks that one seed of hypothesis draws


@dataclass(frozen=True)
class Result:
    """One network's line. `passed_over`: why it says nothing, then it has no cells."""

    name: str
    net: Net
    cells: dict[str, Cell]
    passed_over: str = ""


def draw(first: int, batch: int, count: int = BATCH) -> list[Net]:
    """The networks of one batch, each once; the same with the same version of hypothesis."""
    found: dict[str, Net] = {}

    @seed(first * 1_000_003 + batch)
    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(nets())
    def collect(net: Net) -> None:
        found.setdefault(json.dumps(to_json(net)), net)

    collect()
    return list(found.values())


def stream(first: int) -> Iterator[tuple[str, Net]]:
    """Named networks without end."""
    batch = 0
    while True:
        for i, net in enumerate(draw(first, batch)):
            yield f"{first}-{batch}-{i}", net
        batch += 1


def read(out: Path) -> dict[str, Result]:
    """What is known, by name."""
    known: dict[str, Result] = {}
    file = out / "results.jsonl"
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # cut off when the run was stopped
            continue
        cells = {target: Cell(**cell) for target, cell in line["cells"].items()}
        before = known[line["name"]].cells if line["name"] in known else {}
        known[line["name"]] = Result(line["name"], from_json(line["net"]), before | cells, line["passed_over"])
    return known


def write(out: Path, result: Result) -> None:
    """Add a line."""
    out.mkdir(parents=True, exist_ok=True)
    line = asdict(result) | {"net": to_json(result.net)}
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def attempt(worker: Worker, name: str, net: Net, targets: Iterable[str]) -> Result:
    """Ask the worker."""
    answer = worker.ask(net, list(targets))
    return Result(name, net, {}, answer) if isinstance(answer, str) else Result(name, net, answer)


def run(out: Path, first: int, seconds: float, each: int) -> int:
    """Try new networks; the number of findings."""
    known, worker, end, count = read(out), Worker(), time.monotonic() + seconds, 0
    found = 0
    try:
        for name, net in stream(first):
            if time.monotonic() > end:
                break
            count += 1
            if name in known:
                continue
            targets = [TARGETS[(count * each + j) % len(TARGETS)] for j in range(each)]
            result = attempt(worker, name, net, targets)
            write(out, result)
            found += report(result)
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here")
    finally:
        worker.close()
    print(summary(read(out)))
    return found


def report(result: Result) -> int:
    """A line of progress, and the number of findings in it."""
    findings = [(target, cell) for target, cell in result.cells.items() if cell.verdict in FINDINGS]
    said = " ".join(
        f"{target.split('-', 1)[1]}:{cell.verdict}{'' if cell.db is None else f' {cell.db:.0f}'}"
        for target, cell in result.cells.items()
    )
    print(result.name, said or f"passed over: {result.passed_over}", flush=True)
    for target, cell in findings:
        print(f"  FOUND {cell.verdict} on {target}: {cause(cell)}", flush=True)
    return len(findings)


def again(out: Path, word: str) -> int:
    """Try once more what was found, or what was refused for a cause that holds `word`."""
    worker, found = Worker(), 0
    for result in read(out).values():
        targets = [
            target
            for target, cell in result.cells.items()
            if (word and word in f"{cell.verdict} {cause(cell)}") or (not word and cell.verdict in FINDINGS)
        ]
        if targets:
            newer = attempt(worker, result.name, result.net, targets)
            write(out, newer)
            found += report(newer)
    worker.close()
    return found


def show(out: Path, name: str, target: str | None, seconds: float) -> str:
    """The smallest network with the same verdict and cause, as a script."""
    result = read(out)[name]
    if target is None:
        target = next((t for t, cell in result.cells.items() if cell.verdict in FINDINGS), TARGETS[0])
    wanted, worker = result.cells[target], Worker()

    def fails(net: Net) -> bool:
        answer = worker.ask(net, [target])
        if isinstance(answer, str):
            return False
        same = answer[target].verdict == wanted.verdict
        return same and (wanted.verdict == "wrong" or cause(answer[target]) == cause(wanted))

    try:
        return script(smallest(result.net, fails, seconds), target)
    finally:
        worker.close()


def summary(known: dict[str, Result]) -> str:
    """Counts per target and verdict; causes of refusals, gaps and findings."""
    tried = [r for r in known.values() if r.cells]
    over = Counter(r.passed_over for r in known.values() if not r.cells)
    lines = [f"{len(tried)} networks tried, {sum(over.values())} passed over: {dict(over)}"]
    for target in TARGETS:
        cells = Counter(r.cells[target].verdict for r in tried if target in r.cells)
        lines.append(
            f"  {target:20s} {sum(cells.values()):5d}  " + ", ".join(f"{n} {v}" for v, n in cells.most_common())
        )
    for verdict in ("refused", "gate", "not compared", *FINDINGS):
        found = Counter[tuple[str, str]]()
        example: dict[tuple[str, str], str] = {}
        for result in tried:
            for target, cell in result.cells.items():
                if cell.verdict == verdict:
                    key = (target, cause(cell))
                    found[key] += 1
                    example.setdefault(key, result.name)
        lines.append(f"{verdict}: {sum(found.values())}")
        lines += [f"  {n:4d} {key[0]} ({example[key]}): {key[1]}" for key, n in found.most_common()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "summary", "again", "show"))
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("artifacts/fuzz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--each", type=int, default=len(TARGETS), help="targets per network, taken in turn")
    args: Any = parser.parse_args(arguments)
    if args.verb == "run":
        return 1 if run(args.out, args.seed, args.seconds, args.each) else 0
    if args.verb == "again":
        return 1 if again(args.out, args.words[0] if args.words else "") else 0
    if args.verb == "show":
        print(show(args.out, args.words[0], args.words[1] if args.words[1:] else None, args.seconds))
    else:
        print(summary(read(args.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
