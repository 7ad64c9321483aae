"""nbval runs the labs as tests. After the first failure in a notebook the rest of it would only repeat it: skip it."""

from __future__ import annotations

import os

import pytest

_CLOSED = "http://127.0.0.1:9"  # kernels inherit it: a lab that reaches for the network fails at once
os.environ |= {"HTTP_PROXY": _CLOSED, "HTTPS_PROXY": _CLOSED, "NO_PROXY": "127.0.0.1,localhost,::1"}
os.environ |= {name.lower(): os.environ[name] for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")}
os.environ["HF_HUB_OFFLINE"] = "1"

_failed: dict[str, str] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Remember the first cell of a notebook that fails."""
    outcome = yield
    if outcome.get_result().failed:
        _failed.setdefault(str(item.path), item.name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a cell that comes after a failed one."""
    if str(item.path) in _failed:
        pytest.skip(f"{item.path.name}: {_failed[str(item.path)]} failed before")
