"""Writes environment.yml from pyproject.toml and requirements.lock, so that conda and pip install the same pins.

python tools/env_yml.py write     after a change to pyproject.toml or the lock (`make lock` calls it)
python tools/env_yml.py check     exit 1 if the file is out of step
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
_HEAD = """\
# conda env create -f environment.yml && conda activate edge-lab
# Written by tools/env_yml.py from pyproject.toml and requirements.lock: change those, then run `make lock`.
# conda brings Python; pip brings the packages, because the pins are PyPI's.
name: edge-lab
channels:
  - conda-forge
dependencies:
  - python={python}
  - pip
  - pip:
      - -c requirements.lock  # everything that the packages below need in turn, exactly as in the lock
"""


def read_toml(name: str) -> dict[str, Any]:
    """The parsed file `name` of the repository."""
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    """A package name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(python: str, system: str = "linux", machine: str = "x86_64") -> dict[str, str]:
    """Package -> exact version of the lock on one platform; `python` is a minor version such as "3.11"."""
    place = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_system": system.capitalize(),
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }
    pins: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(place):
            name = canonical(requirement.name)
            if name in pins:
                raise ValueError(f"the lock has two versions of {name} for Python {python}: {line}")
            pins[name] = next(iter(requirement.specifier)).version
    return pins


def direct() -> Iterator[tuple[Requirement, str]]:
    """Each requirement of pyproject.toml with the reason that stands beside it."""
    project = read_toml("pyproject.toml")["project"]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for line in [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]:
        found = re.search(rf'^\s*"{re.escape(line)}",[ \t]*#[ \t]*(.+)$', text, re.MULTILINE)
        if not found:
            raise ValueError(f"pyproject.toml gives no reason for {line!r}: add a comment on its line")
        yield Requirement(line), found[1].strip()


def render() -> str:
    """The text that environment.yml must have."""
    python = read_toml("versions.toml")["python"]["default"]
    pins = lock(python)
    text = _HEAD.format(python=python)
    for requirement, reason in direct():
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python, "extra": ""}):
            name = canonical(requirement.name)
            text += f"      - {f'{name}=={pins[name]}':<46} # {reason}\n"
    return text + "      - -e .\n"


def main(arguments: list[str]) -> int:
    target = ROOT / "environment.yml"
    if arguments == ["write"]:
        target.write_text(render(), encoding="utf-8")
        return 0
    if arguments == ["check"]:
        current = target.read_text(encoding="utf-8") if target.exists() else ""
        if current != render():
            print("environment.yml is out of step: run `python tools/env_yml.py write`", file=sys.stderr)
            return 1
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
