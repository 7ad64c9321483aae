"""A process that tries networks, so that a crash, a hang or a full memory costs one of them.

`Worker.ask` starts it when it is needed and again after it died. It serves many networks: its first one pays for half a
minute of imports and of tables that the converters build.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from fuzz_check import TARGETS, Cell, check, says_nothing
from fuzz_modules import Net, from_json, make, to_json

CPU_S = 200  # for one network on all targets; the first one gets more
MEMORY = 14 << 30  # address space
LIFE = 150  # networks, then a fresh process: converters keep things


@dataclass
class Worker:
    """At most one child process."""

    process: subprocess.Popen[bytes] | None = None
    served: int = 0
    seconds: float = field(default=0.0)

    def ask(self, net: Net, targets: Sequence[str] = TARGETS) -> dict[str, Cell] | str:
        """Every target's verdict, or why this network says nothing."""
        cells: dict[str, Cell] = {}
        while missing := [t for t in targets if t not in cells]:
            ended = self._serve(net, missing, cells)
            if ended is None:
                break
            if isinstance(ended, str):
                return ended
            cells[missing[len([t for t in missing if t in cells])]] = _death(ended)
        return cells

    def _serve(self, net: Net, missing: list[str], cells: dict[str, Cell]) -> str | int | None:
        """Fill `cells`; a reason to pass the network over, or the exit status of a child that died on the way."""
        if self.process is None or self.served >= LIFE:
            self.close()
            me = [sys.executable, __file__]
            self.process, self.served = subprocess.Popen(me, stdin=subprocess.PIPE, stdout=subprocess.PIPE), 0
        self.served += 1
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"net": to_json(net), "targets": missing}).encode() + b"\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            answer = json.loads(line)
            if "done" in answer:
                self.seconds += answer["done"]
                return answer["reason"] or None
            cells[answer["target"]] = Cell(**answer["cell"])
        status = self.process.wait()
        self.process = None
        return status

    def close(self) -> None:
        """End the child."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()
            self.process = None


def _death(status: int) -> Cell:
    if status < 0:
        name = signal.Signals(-status).name
        return Cell("hang" if name in ("SIGXCPU", "SIGALRM") else "crash", f"the process ended by {name}")
    return Cell("crash", f"the process ended with {status}")


def _main() -> None:
    """Read networks from stdin, answer on stdout. Whatever converters print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _prepare()
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        before = _used()
        limit = int(before) + CPU_S + (0 if number else 200)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        signal.alarm(20 * CPU_S)  # whoever sleeps for ever uses no processor time
        reason = ""
        for target, cell in _cells(from_json(request["net"]), request["targets"]):
            if cell is None:
                reason = target
            else:
                answers.write(json.dumps({"target": target, "cell": asdict(cell)}) + "\n")
        answers.write(json.dumps({"done": round(_used() - before, 2), "reason": reason}) + "\n")
        gc.collect()
        if number == 0:
            gc.freeze()


def _cells(net: Net, targets: Sequence[str]) -> Any:
    """(target, verdict) one by one; (reason, None) if the network is to be passed over."""
    module, inputs = make(net)
    reason = None if net.second_input else says_nothing(module, inputs)
    if reason:
        yield reason, None
        return
    for target in targets:
        yield target, check(module, inputs, net.shape, target)


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _prepare() -> None:
    """Half the time of small exports goes into the collector and into tables that are the same every time."""
    import torch
    import torch._export.utils as export_utils
    from torch.onnx._internal.exporter import _registration

    torch.set_num_threads(1)
    gc.disable()
    registry: Any = _registration.ONNXRegistry
    registry.from_torchlib = staticmethod(cache(registry.from_torchlib))
    fill, filled = export_utils._materialize_cpp_cia_ops, [0]

    def fill_if_grown() -> None:
        count = len(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
        if count != filled[0]:
            fill()
            filled[0] = count

    export_utils._materialize_cpp_cia_ops = fill_if_grown


if __name__ == "__main__":
    _main()
