"""Inputs with the bytes that must come out, and the C table that a test firmware is linked with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lab.bundle import Bundle
from edge_lab.c_library import CLibrary
from edge_lab.errors import BundleError, InputError
from edge_lab.files import writing_file


@dataclass(frozen=True, eq=False)
class Case:
    """int8 input (flat, NHWC) and the int8 output that belongs to it."""

    input: np.ndarray
    output: np.ndarray


def golden_cases(bundle: Bundle, library: CLibrary) -> list[Case]:
    """What the bundle recorded when it was exported, as integers.

    Raises:
        BundleError: it recorded nothing, or what PyTorch answers instead of what this program does.
    """
    found = []
    numbers = library.numbers
    for case, x, (output,) in bundle.golden_cases():
        if case.reference != "self":
            raise BundleError(
                f"{bundle.path} holds no answers of its own program.",
                "it was exported where no C compiler was; its golden outputs are PyTorch's.",
                "export it again on a machine with a C compiler.",
            )
        q = np.rint(output / np.float32(numbers.output_scale)) + numbers.output_zero
        found.append(Case(library.quantized(x).reshape(-1), q.astype(np.int8).reshape(-1)))
    if not found:
        raise BundleError(
            f"{bundle.path} has no golden cases.",
            "there is nothing to compare the firmware's answers with.",
            "export it with golden=...",
        )
    return found


def cases_of(library: CLibrary, inputs: Iterable[np.ndarray]) -> list[Case]:
    """float32 inputs (1, C, H, W), with the answers of the same C on this machine."""
    quantized = [library.quantized(x).reshape(-1) for x in inputs]
    return [Case(q, library.run(q)) for q in quantized]


def write_cases(cases: Sequence[Case], path: Path) -> None:
    """Write the C table; a file that says the same already is left alone, so that make has nothing to do."""
    if not cases:
        raise InputError("a test firmware needs at least one input.", "none was given.", "give one.")
    rows = "".join(f"    {{{{{_list(c.input)}}},\n     {{{_list(c.output)}}}}},\n" for c in cases)
    text = (
        f'#include "cases.h"\n\nconst Case el_cases[] = {{\n{rows}}};\nconst uint32_t el_case_count = {len(cases)}u;\n'
    )
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with writing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _list(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))
