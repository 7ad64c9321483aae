"""Write docs/clinic.md from the cases of the export clinic: what each converter really says, and what helps.

python tools/clinic_docs.py
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_lab.clinic import clinic
from edge_lab.clinic.case import call_each
from edge_lab.core.files import writing_file

DOCS = Path(__file__).resolve().parent.parent / "docs" / "clinic.md"
_LINE = 110

_HEAD = """# The export clinic

Small modules that a converter refuses, or takes and gets wrong; what it really says, why, and the version that works.
Find your message with Ctrl-F. `python tools/clinic_docs.py` wrote this page by running every converter. A test
compares it, runs each repaired version and compares its answers with those of the broken module in eager mode.

Your own module, all four converters at once. Answers are compared on several inputs, so that a program that is
silently wrong shows up, too:

```python
from edge_lab.clinic import clinic

for finding in clinic.checkup(my_module, x, another_x):
    print(finding)
```
"""


def catalogue(examinations: Sequence[clinic.Examination]) -> str:
    """The page as Markdown."""
    rows = ["| case | refused by | what it says |", "|---|---|---|"]
    for each in examinations:
        says = _short(each.line, 70) if each.line else "nothing: the program is written, and wrong"
        rows.append(f"| [{each.case.name}](#{each.case.name}) | {each.case.refuses or 'nobody'} | {says} |")
    return "\n".join([_HEAD, *rows, "", *map(_section, examinations)])


def _short(text: str, width: int) -> str:
    cut = textwrap.shorten(text, width, placeholder=" ...").replace("|", "\\|")
    return f"`{cut}`" if "`" not in cut else cut


def _section(each: clinic.Examination) -> str:
    case = each.case
    parts = [f"## {case.name}", ""]
    if each.diagnosis is not None and each.line is not None:
        message = textwrap.fill(f"{case.refuses}: {each.error}: {each.line}", _LINE, break_long_words=False)
        parts += ["```text", message, "```", ""]
    else:
        parts += ["No message. The program is written, and its answers are those of the first call for ever.", ""]
    parts += [f"**Cause.** {case.cause}", "", f"**Remedy.** {case.remedy}", ""]
    if each.diagnosis is not None:
        parts += ["`edge_lab.to` says:", "", "```text", *_three_lines(each.diagnosis), "```", ""]
    code = f"# broken\n{_source(case.broken)}\n\n\n# repaired\n{_source(case.fixed)}"
    if case.app is not call_each:
        code += f"\n\n\n# the app's side\n{_source(case.app)}"
    return "\n".join([*parts, "```python", code, "```", ""])


def _three_lines(diagnosis: Any) -> list[str]:
    lines = str(diagnosis).splitlines()
    return [textwrap.fill(line, _LINE, subsequent_indent="       ", break_long_words=False) for line in lines]


def _source(thing: Callable[..., object]) -> str:
    return textwrap.dedent(inspect.getsource(thing)).rstrip()


def main() -> int:
    """Examine every case and write the page."""
    page = catalogue([clinic.examine(case) for case in clinic.cases()])
    with writing_file(DOCS) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{DOCS.name}: {len(clinic.cases())} cases")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
