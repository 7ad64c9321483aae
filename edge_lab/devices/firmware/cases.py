"""Inputs with the bytes that must come out, and the C table that a test firmware is linked with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, InputError
from edge_lab.core.files import writing_file
from edge_lab.formats.c.run import CLibrary
from edge_lab.signals.audio import LogMel, fit, read_wav, resample
from edge_lab.signals.fixed_mel import FixedMel, c_header, fixed_mel, log2_energy, quantized


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
        pixels = output.transpose(0, 2, 3, 1) if output.ndim == 4 else output
        q = np.rint(pixels / np.float32(numbers.output_scale)) + numbers.output_zero
        found.append(Case(library.quantized(x).reshape(-1), q.astype(np.int8).reshape(-1)))
    if not found:
        raise BundleError(
            f"{bundle.path} has no golden cases.",
            "there is nothing to compare the firmware's answers with.",
            "export it with golden=...",
        )
    return found


@dataclass(frozen=True, eq=False)
class SoundCase:
    """int16 samples (N,) in whole hops, int8 features (frames, mels) of the integer front end, and the int8 output."""

    samples: np.ndarray
    features: np.ndarray
    output: np.ndarray
    hop: int


def hears(bundle: Bundle) -> bool:
    """Whether the firmware computes this model's features from samples."""
    return bundle.spec.audio is not None and bundle.spec.audio.features is not None


def sounds_of(bundle: Bundle, library: CLibrary, waveforms: Iterable[np.ndarray]) -> list[SoundCase]:
    """float32 waveforms of the model's rate and length, as `signals.fixed_mel` and the same C here answer them."""
    front, recipe = _front(bundle)
    numbers = library.numbers
    found = []
    for waveform in waveforms:
        samples = np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)
        used = samples[: (numbers.input_shape[1] - 1) * recipe.hop + recipe.window]
        features = quantized(log2_energy(used, front), numbers.input_scale, numbers.input_zero)
        found.append(SoundCase(used, features, library.run(features), recipe.hop))
    return found


def golden_sounds(bundle: Bundle, library: CLibrary) -> list[SoundCase]:
    """The recordings among the golden cases, as samples; none for a model that does not hear."""
    audio = bundle.spec.audio
    if audio is None or not hears(bundle):
        return []
    files = [bundle.path / case.input for case in bundle.golden if case.input]
    heard = [read_wav(file) for file in files]
    return sounds_of(
        bundle, library, [fit(resample(s.samples, s.rate, audio.sample_rate), audio.samples) for s in heard]
    )


def _front(bundle: Bundle) -> tuple[FixedMel, LogMel]:
    audio = bundle.spec.audio
    if audio is None or audio.features is None:
        raise InputError(
            f"{bundle.name} takes no recordings.",
            "its spec has no audio features for the firmware to compute.",
            "leave the sounds out, or export a model that hears (speechnet_features).",
        )
    return fixed_mel(audio.sample_rate, audio.features), audio.features


def write_tables(bundle: Bundle, library: CLibrary, folder: Path) -> None:
    """Write the front end's tables, el_mel_tables.h."""
    front, _ = _front(bundle)
    numbers = library.numbers
    header = c_header(front, numbers.input_shape[1], numbers.input_scale, numbers.input_zero)
    _write(header, folder / "el_mel_tables.h")


def cases_of(library: CLibrary, inputs: Iterable[np.ndarray]) -> list[Case]:
    """float32 inputs (1, C, H, W), with the answers of the same C on this machine."""
    quantized = [library.quantized(x).reshape(-1) for x in inputs]
    return [Case(q, library.run(q)) for q in quantized]


def write_cases(cases: Sequence[Case], path: Path, sounds: Sequence[SoundCase] | None = None) -> None:
    """Write the C table; `sounds` is None for a model whose firmware has no front end."""
    if not cases:
        raise InputError("a test firmware needs at least one input.", "none was given.", "give one.")
    rows = "".join(f"    {{{{{_list(c.input)}}},\n     {{{_list(c.output)}}}}},\n" for c in cases)
    text = (
        f'#include "cases.h"\n\nconst Case el_cases[] = {{\n{rows}}};\nconst uint32_t el_case_count = {len(cases)}u;\n'
    )
    if sounds is not None:
        rows = "".join(_sound(s) for s in sounds) or "    {{{0}}, {0}, {0}},\n"  # C has no empty arrays
        text += f"const Sound el_sounds[] = {{\n{rows}}};\nconst uint32_t el_sound_count = {len(sounds)}u;\n"
    _write(text, path)


def _sound(sound: SoundCase) -> str:
    # The samples are a table of hops: C fills its rows in order, but wants their braces under -Wall.
    rows = ", ".join(f"{{{_list(hop)}}}" for hop in sound.samples.reshape(-1, sound.hop))
    return f"    {{{{{rows}}},\n     {{{_list(sound.features.reshape(-1))}}},\n     {{{_list(sound.output)}}}}},\n"


def _list(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))


def _write(text: str, path: Path) -> None:
    """A file that says the same already is left alone, so that make has nothing to do."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with writing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
