"""What every test shares: one thread, no network, a folder for bundles, and the `real_data` marker."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two workers share two cores

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `make test &` ignores Ctrl-C, and children inherit that

_CLOSED = "http://127.0.0.1:9"  # child processes inherit it: a download fails at once instead of hanging
os.environ |= {"HTTP_PROXY": _CLOSED, "HTTPS_PROXY": _CLOSED, "NO_PROXY": "127.0.0.1,localhost,::1"}
os.environ |= {name.lower(): os.environ[name] for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")}
os.environ["HF_HUB_OFFLINE"] = "1"


# Files and labs that take longest, longest first: `make test` hands them out in this order, so that no worker is left
# with a long one at the end. A name that is missing here costs a minute at most; everything else keeps its place.
LONGEST = (
    "test_labs",
    "test_coverage",
    "test_closed",
    "test_other_cpus",
    "test_qat",
    "test_peers",
    "test_peers_faults",
    "test_runner",
    "test_aarch64",
    "test_mcu_firmware",
    "18_microcontroller",
    "17_raspberry_pi_speech",
    "02_measure_first",
    "09_torch_export_and_aot",
    "05_quantization_aware_training",
    "07_distillation",
    "06_pruning",
    "13_accelerators",
    "04_static_quantization",
    "10_executorch",
    "11_onnx",
    "00_start_here",
    "03_dynamic_and_weight_only",
    "12_core_ml",
    "14_compare_and_decide",
    "01_train_and_evaluate",
    "08_torchscript_and_lite",
    "test_field_files",
    "test_remote",
    "test_sound_train",
    "test_mil",
    "test_mil_programs",
    "test_onnx",
    "test_inductor",
    "test_torchscript",
)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist would hand out files with the most tests first: those are the quick ones."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the same in every worker; tests that measure get their mark."""
    from measured import measured

    for item in items:
        if isinstance(item, pytest.Function) and item.originalname in measured(item.path):
            item.add_marker("measured")
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_data") and not os.environ.get("EDGE_LAB_DATA"):
        pytest.skip("the real data sets are not here: set EDGE_LAB_DATA")


def _is_local(host: object) -> bool:
    if host in (None, "", b"", "localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Tests reach this machine only; anything else fails at once, with the address."""

    def guarded(real: Any) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise OSError(f"a test tried to reach {address[0]}: tests run without a network")
            return real(self, address)

        return connect

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            raise socket.gaierror(f"a test tried to look up {host}: tests run without a network")
        return resolve(host, *args, **kwargs)

    resolve = socket.getaddrinfo
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for bundles that all tests and all xdist workers of one run share (exports are slow, and cached)."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = root / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def build(artifacts: Path) -> Path:
    """Build folder of rpi/runner for this machine, made once for all tests of a run."""
    from runner_build import runner_build

    return runner_build(artifacts)


@pytest.fixture(scope="session")
def runner(build: Path) -> Path:
    """edge-lab-runner."""
    return build / "edge-lab-runner"
