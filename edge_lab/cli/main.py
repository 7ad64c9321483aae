"""The command `edge-lab`: arguments in, exit code out. What a command does is in `edge_lab.cli.commands`.

Exit codes: 0 good; 1 a check, a budget or a comparison failed; 2 wrong usage or an EdgeLabError; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_lab.cli import commands
from edge_lab.core.errors import EdgeLabError

_ABOUT = "From a PyTorch model to phones, a Raspberry Pi and a microcontroller, and what each step costs."
_CODES = "exit codes: 0 good, 1 a check or budget failed, 2 wrong usage or an error, 130 interrupted"


class _Parser(argparse.ArgumentParser):
    """argparse whose errors end with what to do."""

    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"{self.prog}: {message}\n  fix: {self.prog} --help shows the arguments and an example.", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets "?" instead of a crash
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    parser = _parser()
    try:
        if not argv:
            parser.print_help()
            return 0
        if (code := _unknown_command(argv[0], parser)) is not None:
            return code
        arguments = parser.parse_args(argv)
        arguments.command_line = shlex.join(["edge-lab", *argv])
        return _run(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:  # `edge-lab models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: argparse.Namespace) -> int:
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        kept = f" Finished bundles in {out} are kept." if (out := getattr(arguments, "out", None)) else ""
        print(f"\nedge-lab: interrupted.{kept} Run the same command again to go on.", file=sys.stderr)
        return 130
    except EdgeLabError as error:
        if arguments.debug:
            raise
        print(f"edge-lab: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:  # a path that can't be written, a JSON that is none
        if arguments.debug or isinstance(error, BrokenPipeError):
            raise
        print(f"edge-lab: {error}\n  why: {type(error).__name__}.\n  fix: add --debug for details.", file=sys.stderr)
        return 2


def _unknown_command(word: str, parser: argparse.ArgumentParser) -> int | None:
    names = list(_COMMANDS)
    if word.startswith("-") or word in names:
        return None
    near = difflib.get_close_matches(word, names, n=1)
    fix = f"did you mean `edge-lab {near[0]}`?" if near else "edge-lab --help lists them."
    print(
        f"{parser.prog}: there is no command {word!r}.\n  why: it knows {', '.join(names)}.\n  fix: {fix}",
        file=sys.stderr,
    )
    return 2


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write it like 1x3x224x224, the batch first")
    return shape


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part.strip()) for part in text.split(",")))


def _jobs(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes; 0 runs everything in this one")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge-lab", description=_ABOUT, epilog=_CODES, allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="show the version and stop")
    parser.set_defaults(run=commands.version, debug=False)
    sub = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (about, example, add) in _COMMANDS.items():
        p = sub.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example:\n  {example}\n\n{_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        p.add_argument("--debug", action="store_true", help="show the traceback of an error")
        p.set_defaults(run=getattr(commands, name))
        add(p)
    return parser


def _model_arguments(p: argparse.ArgumentParser, default: str | None) -> None:
    _source_arguments(p, default)
    p.add_argument("--calibration", metavar="FOLDER|SET", help="pictures that int8 is calibrated with")


def _source_arguments(p: argparse.ArgumentParser, default: str | None) -> None:
    p.add_argument(
        "model",
        metavar="MODEL",
        nargs="?" if default else None,
        default=default,
        help="a name from `edge-lab models`, torchvision:NAME, timm:NAME, or my_model.py:FUNCTION"
        + (f" (default: {default})" if default else ""),
    )
    p.add_argument("--input", type=_shape, metavar="1x3x224x224", help="input shape, if not the model's usual one")
    p.add_argument("--weights", default="default", help="default, imagenet, random, or a checkpoint file")
    p.add_argument("--out", type=Path, default=Path("artifacts"), metavar="FOLDER", help="bundles go here (artifacts)")


def _no_arguments(p: argparse.ArgumentParser) -> None:
    del p


def _run_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p, "efficientnet_lite0")
    p.add_argument("--targets", metavar="A,B", help="targets or patterns such as 'android-*' (default: one per format)")
    p.add_argument(
        "--images", metavar="FOLDER|SET", help="pictures to try it on: a folder, or a set of `edge-lab data`"
    )
    p.add_argument("--limit", type=_count, metavar="N", help="at most N pictures, evenly spread")
    p.add_argument("--budget", type=Path, metavar="TOML", help="limits (default: budgets.toml here, if there is one)")
    p.add_argument("--strict", action="store_true", help="exit with 1 if a target fails or breaks a budget")
    p.add_argument("--jobs", type=_jobs, metavar="N", help="processes that export at once (default: one per core)")
    p.add_argument("--report", type=Path, metavar="HTML", help="the page (default: OUT/report.html)")
    p.add_argument("--quiet", action="store_true", help="no progress on stderr")
    _divergence_argument(p)


def _export_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p, None)
    p.add_argument("--target", required=True, help="a name from `edge-lab targets`")
    p.add_argument("--force", action="store_true", help="export even if the bundle is up to date")
    _divergence_argument(p)


def _divergence_argument(p: argparse.ArgumentParser) -> None:
    p.add_argument("--allow-divergence", action="store_true", help="accept programs that answer unlike PyTorch")


def _coverage_arguments(p: argparse.ArgumentParser) -> None:
    _source_arguments(p, None)
    p.add_argument("--targets", metavar="A,B", help="targets or patterns (default: ONNX, XNNPACK, .pt2, Core ML)")
    p.add_argument("--images", metavar="FOLDER|SET", help="pictures to compare on (default: eight shipped ones)")
    p.add_argument("--limit", type=_count, metavar="N", help="at most N pictures, evenly spread")
    p.add_argument("--jobs", type=_jobs, metavar="N", help="processes that export at once (1); 0: this one")
    _divergence_argument(p)


def _compress_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p, None)
    p.add_argument("--images", required=True, metavar="FOLDER|SET", help="pictures that recipes are judged by")
    p.add_argument("--limit", type=_count, metavar="N", help="at most N pictures, evenly spread")
    p.add_argument("--min-agreement", type=float, metavar="PERCENT", help="answers that must be the float model's")
    p.add_argument("--min-sqnr", type=float, metavar="DB", help="signal to noise ratio of the raw outputs")
    p.add_argument("--max-top1-loss", type=float, metavar="POINTS", help="needs labelled pictures")
    p.add_argument("--max-size-mb", type=float, metavar="MB", help="size of the program")
    p.add_argument("--best-effort", action="store_true", help="write the closest program even if it breaks a limit")


def _check_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder with a bundle.json")
    p.add_argument("--budget", type=Path, metavar="TOML", help="limits (default: budgets.toml here, if there is one)")
    p.add_argument("--against", type=Path, metavar="BUNDLE", help="the fp32 bundle that ratios and losses refer to")
    p.add_argument("--images", metavar="FOLDER|SET", help="pictures to measure Top-1 and agreement on")
    p.add_argument("--limit", type=_count, metavar="N", help="at most N pictures, evenly spread")
    p.add_argument("--board", metavar="NAME", help="a microcontroller board that it must fit, such as stm32f405")
    p.add_argument("--strict", action="store_true", help="what could not be measured here fails as well")
    _divergence_argument(p)


def _listen_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="of a model that hears, such as speechnet")
    p.add_argument("source", nargs="?", default="-", metavar="WAV", help="a recording; none or -: raw samples by pipe")
    p.add_argument("--microphone", action="store_true", help="listen to the default microphone (arecord)")


def _inspect_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("path", type=Path, metavar="PATH", help="a .pte file of any origin, or a bundle's folder")


def _bench_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="folders; several are timed in turn")
    p.add_argument("--threads", type=_counts, default=(1,), metavar="N,M", help="CPU threads, each count in turn (1)")
    p.add_argument("--rounds", type=_count, default=30, metavar="N", help="timed runs of each (30)")
    p.add_argument(
        "--scenario",
        action="append",
        choices=("single_stream", "offline_batch", "cold_start"),
        help="may be repeated (single_stream)",
    )
    p.add_argument(
        "--when-busy",
        choices=("label", "wait", "refuse"),
        default="label",
        help="a busy or hot machine: measure and say so, wait up to two minutes, or stop (label)",
    )
    p.add_argument("--no-pin", action="store_true", help="do not bind the process to as many cores as threads")
    p.add_argument("--energy", action="store_true", help="joules by the machine's counters, if it has any")
    p.add_argument("--watts-per-core", type=float, metavar="W", help="estimate energy as CPU time x W where none has")
    p.add_argument("--replay", type=Path, metavar="FILE", help="show a recorded file; nothing is measured")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the numbers for `edge-lab compare`")
    p.add_argument("--device", metavar="URL", help="a board instead of this machine: ssh://[user@]host[:port][/folder]")
    p.add_argument("--runner", type=Path, metavar="FOLDER", help="its runner (default: what make runner-aarch64 built)")


def _deploy_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folders, for ExecuTorch")
    p.add_argument("--device", required=True, metavar="URL", help="ssh://[user@]host[:port][/folder]")
    p.add_argument("--runner", type=Path, metavar="FOLDER", help="its runner (default: what make runner-aarch64 built)")


def _firmware_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="of C sources (targets mcu-*)")
    p.add_argument("--board", default="netduinoplus2", metavar="NAME", help="one of mcu/boards (netduinoplus2)")
    p.add_argument("--images", metavar="FOLDER|SET", help="run these pictures instead of the golden inputs")
    p.add_argument("--limit", type=_count, default=100, metavar="N", help="at most N of them (100)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the costs for `edge-lab compare`")
    p.add_argument("--layers", action="store_true", help="say where the instructions go, kernel by kernel")


def _compare_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("before", type=Path, metavar="A.json|MODEL", help="of `edge-lab bench --json`, or a run.json")
    p.add_argument("after", type=Path, nargs="?", metavar="B.json", help="the same, later")
    p.add_argument(
        "--fail",
        action="append",
        metavar="METRIC:PERCENT",
        help="limit, may be repeated (default: median:5%% and instructions:5%%)",
    )
    peers = p.add_argument_group("one MODEL in every engine that is installed, and no B.json")
    peers.add_argument("--engines", metavar="A,B", help="engines, rows or patterns, as openvino,'*-int8' (all)")
    peers.add_argument("--images", metavar="FOLDER|SET", help="pictures to run (ImageNet sample, else shipped ones)")
    peers.add_argument("--calibration", metavar="FOLDER|SET", help="pictures that int8 is calibrated with")
    peers.add_argument("--limit", type=_count, metavar="N", help="at most N pictures, evenly spread (100)")
    peers.add_argument("--threads", type=_counts, metavar="N,M", help="CPU threads, each count in turn (1,2)")
    peers.add_argument("--rounds", type=_count, metavar="N", help="turns of each engine, three calls each (30)")
    peers.add_argument("--input", type=_shape, metavar="1x3x224x224", help="input shape, if not the model's usual one")
    peers.add_argument("--weights", help="default, imagenet, random, or a checkpoint file")
    peers.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, to compare with later ones")
    peers.add_argument("--out", type=Path, metavar="FOLDER", help="programs and the picture go here (artifacts)")


def _decide_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", type=Path, nargs="+", metavar="FILE.json", help="measurements, or a run.json")
    p.add_argument("--budget", type=Path, metavar="TOML", help="limits (default: budgets.toml here, if there is one)")
    p.add_argument(
        "--objective", choices=("latency", "size"), default="latency", help="what to have little of (latency)"
    )
    p.add_argument("--platform", choices=("android", "ios", "linux", "pi"), help="only targets of this platform")
    p.add_argument("--threads", type=_count, default=1, metavar="N", help="measurements with N threads (1)")
    p.add_argument("--plot", type=Path, metavar="PNG", help="draw size, latency and accuracy")


def _sweep_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p, None)
    p.add_argument("--images", required=True, metavar="FOLDER|SET", help="pictures that accuracy is counted on")
    p.add_argument("--limit", type=_count, metavar="N", help="at most N pictures, evenly spread")
    p.add_argument("--targets", required=True, metavar="A,B", help="names or patterns from `edge-lab targets`")
    p.add_argument("--pruned", default="0", metavar="0,0.25,0.5", help="shares of channels to remove (0)")
    p.add_argument("--rounding", metavar="A,B", help="of XNNPACK int8: nearest, second-order")
    p.add_argument("--train", metavar="SET", help="what pruned networks are trained on for an epoch")
    p.add_argument("--trials", type=_count, default=20, metavar="N", help="settings to try (20)")
    p.add_argument("--storage", metavar="FILE|URL", help="sweep.journal, sqlite:///...: resumable, shared")
    p.add_argument("--workers", type=_count, default=1, metavar="N", help="processes, or trials at once on Ray (1)")
    p.add_argument("--ray", metavar="local|ADDRESS", help="run the trials on a Ray cluster")
    p.add_argument("--budget", type=Path, metavar="TOML", help="limits (default: budgets.toml here, if there is one)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every trial")


def _report_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("result", type=Path, metavar="FILE.json", help="a run.json, the folder it is in, or measurements")
    p.add_argument("-o", "--out", type=Path, metavar="HTML", help="the page (default: beside it)")
    p.add_argument("--markdown", action="store_true", help="print markdown instead, for a README or a pull request")


def _pattern(p: argparse.ArgumentParser) -> None:
    p.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="a shell pattern such as 'mobile*'")


_COMMANDS = {
    "doctor": ("say what works on this machine, and how to mend what does not", "edge-lab doctor", _no_arguments),
    "run": (
        "take a model to every target, run and time each, and write a report",
        "edge-lab run my_model.py:build --input 1x3x224x224 --images photos/ --targets 'android-*'",
        _run_arguments,
    ),
    "export": (
        "write one bundle",
        "edge-lab export efficientnet_lite0 --target android-xnnpack-int8",
        _export_arguments,
    ),
    "coverage": (
        "say which formats take a model, what stays outside the delegate, and whether the programs agree with PyTorch",
        "edge-lab coverage my_model.py:build --input 1x3x224x224 --targets 'linux-*-fp32,ios-coreml-fp16'",
        _coverage_arguments,
    ),
    "compress": (
        "find the cheapest int8 recipe that keeps a budget, and write the bundle",
        "edge-lab compress efficientnet_lite0 --images photos/ --min-agreement 98 --max-size-mb 5",
        _compress_arguments,
    ),
    "check": (
        "verify a bundle, run its golden vectors, hold it against budgets",
        "edge-lab check artifacts/efficientnet_lite0/xnnpack-int8 --budget budgets.toml",
        _check_arguments,
    ),
    "listen": (
        "say the words of a recording, a pipe or the microphone, as they come",
        "edge-lab listen artifacts/speechnet/xnnpack-fp32 recording.wav",
        _listen_arguments,
    ),
    "inspect": (
        "say what is inside an ExecuTorch program, without running it",
        "edge-lab inspect artifacts/efficientnet_lite0/xnnpack-int8",
        _inspect_arguments,
    ),
    "bench": (
        "time bundles side by side",
        "edge-lab bench artifacts/efficientnet_lite0/* --json today.json",
        _bench_arguments,
    ),
    "deploy": (
        "copy a runner and bundles to a board over ssh, and check them there",
        "edge-lab deploy artifacts/efficientnet_lite0/xnnpack-int8 --device ssh://pi@raspberrypi.local",
        _deploy_arguments,
    ),
    "firmware": (
        "build a bundle's firmware, run it on an emulated board, compare every byte, count its costs",
        "edge-lab firmware artifacts/digitnet/cortex-m4-int8 --board netduinoplus2",
        _firmware_arguments,
    ),
    "compare": (
        "compare two benches or runs, fail on a regression; or one model in every engine",
        "edge-lab compare yesterday.json today.json --fail median:5% --fail size:1%",
        _compare_arguments,
    ),
    "sweep": (
        "search over targets, pruning and recipes for what is small, fast and right",
        "edge-lab sweep tinynet --images digits --targets 'linux-*-int8' --pruned 0,0.25,0.5 --storage sweep.journal",
        _sweep_arguments,
    ),
    "decide": (
        "say which of the measured programs nobody beats, and which to ship within a budget",
        "edge-lab decide peers.json --budget budgets.toml --platform linux",
        _decide_arguments,
    ),
    "report": (
        "draw the report of a run again, or that of a file of measurements",
        "edge-lab report artifacts/run.json -o report.html",
        _report_arguments,
    ),
    "targets": ("list targets", "edge-lab targets 'android-*'", _pattern),
    "models": ("list models that have a name", "edge-lab models 'mobile*'", _pattern),
    "data": ("list data sets, with their licence", "edge-lab data", _no_arguments),
}
