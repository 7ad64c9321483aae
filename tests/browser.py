"""A real Chromium, headless, and a JupyterLab of its own for it: what the browser tests share.

python tests/browser.py docs/dashboard.png   # the picture in the README: needs the bundles of `make run`
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_MS = 180_000  # for what comes in a second on a machine with nothing else to do
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --no-proxy-server --force-color-profile=srgb"
)

# Contrast as WCAG 2 defines it, of each element's own text against what lies behind it; and the size of that text.
LEGIBLE = """root => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
    return .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const e of document.querySelectorAll(`${root} *`)) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.tagName === 'TITLE' || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const a = light(rgb(svg ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const name = `${e.tagName}.${e.className.baseVal ?? e.className} ${e.textContent.slice(0, 40)}`;
    if (ratio < 4.5) bad.push(`contrast ${ratio.toFixed(2)} ${name}`);
    if (parseFloat(style.fontSize) < 12) bad.push(`${style.fontSize} ${name}`);
  }
  return bad;
}"""


# Elements that reach beyond the right edge of a window of this width.
STICKS_OUT = """([root, width]) => innerWidth !== width ? [`the window has ${innerWidth}`] :
  [...document.querySelectorAll(`${root} *`)].filter(e => e.getBoundingClientRect().right > innerWidth)
    .map(e => `${e.tagName}.${e.className.baseVal ?? e.className}`)"""


def at_rest(page: Any, faults: str, argument: object) -> list[str]:
    """What `faults`, a function that lists what is wrong, finds when the page is laid out: looks until nothing is."""
    from playwright.sync_api import TimeoutError as NeverSo

    with contextlib.suppress(NeverSo):
        page.wait_for_function(f"given => ({faults})(given).length === 0", arg=argument, timeout=PATIENCE_MS // 6)
    return list(page.evaluate(faults, argument))


@contextmanager
def chromium(executable: str) -> Iterator[Any]:
    """A browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=_ARGUMENTS.split())
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def jupyterlab(folder: Path, *, theme: str = "JupyterLab Light") -> Iterator[str]:
    """A JupyterLab that serves `folder` to this machine only; yields its address, which ends in the token."""
    port, token = _free_port(), secrets.token_hex(16)
    home = Path(tempfile.mkdtemp(prefix="edge-lab-jupyter-"))
    settings = home / "settings"
    quiet = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/apputils-extension:themes": {"theme": theme},
    }
    for name, values in quiet.items():
        file = settings / f"{name.replace(':', '/')}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    places |= {"IPYTHONDIR": "ipython", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "XDG_CACHE_HOME": "cache"}
    environment = os.environ | {key: str(home / name) for key, name in places.items()}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "OMP_NUM_THREADS": "1", "HOME": str(home)}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly", "--LabApp.news_url="]
    command += ["--LabApp.expose_app_in_browser=True"]  # so that a test can change the theme
    with (home / "log.txt").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, home / "log.txt")
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            shutil.rmtree(home, ignore_errors=True)


def notebook(path: Path, code: str) -> None:
    """A notebook of one code cell."""
    cell = {"cell_type": "code", "id": "only", "metadata": {}, "execution_count": None, "outputs": [], "source": code}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document), encoding="utf-8")


def open_and_run(page: Any, address: str) -> None:
    """Open a notebook and run its cell; returns when the dashboard is there and idle."""
    page.goto(address)
    cell = page.locator(".jp-CodeCell").first
    cell.wait_for(timeout=PATIENCE_MS)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=PATIENCE_MS)
    prompt = cell.locator(".jp-InputPrompt")
    for _ in range(200):  # what is sent while the page still connects to the kernel is lost
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)
        if prompt.inner_text().strip("[]: "):
            break
    try:
        page.locator(".edge-lab .el-card, .edge-lab .el-note").first.wait_for(timeout=PATIENCE_MS)
    except Exception as error:
        raise RuntimeError(f"no dashboard came; the page says:\n{page.locator('body').inner_text()[:3000]}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(PATIENCE_MS // 100):
        if server.poll() is not None:
            break
        try:
            direct.open(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-2000:]}")


def picture(
    target: Path, *, theme: str = "JupyterLab Light", width: int = 1280, model: str = "efficientnet_lite0"
) -> None:
    """Draw the dashboard of ROOT/artifacts after a measurement, as the README shows it."""
    executable = next(found for name in CHROMIUM if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory(dir=ROOT / "labs") as folder:
        notebook(
            Path(folder) / "dashboard.ipynb", 'from edge_lab.widgets import dashboard\n\ndashboard("../../artifacts")'
        )
        with jupyterlab(Path(folder), theme=theme) as address, chromium(executable) as browser:
            page = browser.new_page(
                viewport={"width": width, "height": 1300 if width > 700 else 2400}, device_scale_factor=1.5
            )
            open_and_run(page, address.format("dashboard.ipynb"))
            page.keyboard.press("Control+b")  # the file browser takes a third of a narrow window
            if page.get_by_label("Model").input_value() != model:
                page.get_by_label("Model", exact=True).select_option(model)
            page.get_by_role("button", name="Measure").click()
            page.get_by_text("Latency, every call").wait_for(timeout=PATIENCE_MS)
            for _ in range(2):
                page.get_by_role("button", name="Next").click()
            page.wait_for_timeout(1500)
            page.locator(".edge-lab").first.screenshot(path=str(target))
    from PIL import Image

    Image.open(target).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)


if __name__ == "__main__":
    arguments = dict(argument.split("=") for argument in sys.argv[2:])
    picture(
        Path(sys.argv[1]), theme=arguments.get("theme", "JupyterLab Light"), width=int(arguments.get("width", 1280))
    )
