"""Which tensors of a checkpoint belong to a network, whatever they were wrapped in when they were saved.

Training scripts nest state dicts ({"state_dict": ...}, {"model_ema": ...}), and wrappers put words into the names:
`module.` (DataParallel, DistributedDataParallel, AveragedModel), `_orig_mod.` (torch.compile), `model.` or whatever the
attribute is called (Lightning). All of that is left out where the rest then fits exactly, names and shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from edge_lab.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_BY_TORCH = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # names of torch's own wrappers
_LEFT_OUT = ((), _BY_TORCH, (*_BY_TORCH, "module"))
_DEPTH = 8  # of nested dicts


@dataclass(frozen=True)
class TensorSet:
    """Tensors by name, and the keys of the dicts around them, outermost first."""

    path: tuple[str, ...]
    tensors: dict[str, Tensor]


def tensor_sets(content: Any) -> list[TensorSet]:
    """Every dict in a checkpoint that holds tensors: alone, and together with the dicts inside of it."""
    return [TensorSet(path, tensors) for path, tensors in _sets(content, ()) if tensors]


def _sets(content: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or len(path) > _DEPTH:
        return
    own = {str(k): v for k, v in content.items() if _is_tensor(v)}
    inner = [found for k, v in content.items() for found in _sets(v, (*path, str(k)))]
    yield path, own
    deep = {".".join((*p[len(path) :], k)): v for p, tensors in inner for k, v in tensors.items()}
    if deep and (own or len({p[len(path)] for p, _ in inner}) > 1):
        yield path, own | deep
    yield from inner


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


@dataclass(frozen=True)
class Match:
    """A set of tensors held against a network's, with `prefix` and the names in `left_out` taken off.

    `pairs` are names of the network and of the file. `beside` are tensors of the same dict outside of the prefix.
    """

    found: TensorSet
    prefix: str
    left_out: tuple[str, ...]
    pairs: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Every name and shape is there, and nothing else under the prefix."""
        return not (self.missing or self.unexpected or self.shapes)

    def tensors(self) -> dict[str, Tensor]:
        """By the network's names."""
        return {name: self.found.tensors[key] for name, key in self.pairs.items()}


def matched(target: Mapping[str, Tensor], sets: list[TensorSet], source: str) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of the network.

    Args:
        target: the network's state dict; lazy parameters have no shape yet and take any.
        sets: what `tensor_sets` found.
        source: path of the checkpoint, for messages.

    Raises:
        DataError: nothing fits (names what is missing), several sets fit and differ, or more than the network is there.
    """
    matches = [match for found in sets for match in _matches(target, found)]
    fitting = _different([m for m in matches if m.fits and not m.beside])
    if not fitting:
        fitting = _different([m for m in matches if m.fits])
    if len(fitting) > 1:
        raise _ambiguous(fitting, source)
    if fitting and not fitting[0].beside:
        return fitting[0].tensors()
    if fitting:
        raise _more(fitting[0], source)
    raise _misfit(
        max(matches, key=lambda m: (len(m.pairs) - len(m.shapes), -len(m.unexpected) - len(m.beside))), source
    )


def _matches(target: Mapping[str, Tensor], found: TensorSet) -> list[Match]:
    """The set against the network: for each way to leave names out, under the prefixes that explain most names."""
    result = []
    for left_out in _LEFT_OUT:
        wanted = {_bare(name, left_out): name for name in target}
        given = {_bare(key, left_out): key for key in found.tensors}
        if len(wanted) < len(target) or len(given) < len(found.tensors):
            continue  # what was left out told two names apart
        counts = _prefixes(wanted, given)
        most = max(counts.values(), default=0)
        for prefix in [p for p, count in counts.items() if count == most] or [""]:
            result.append(_match(target, found, wanted, given, prefix, left_out))
        for prefix in _shared(wanted):  # the file holds the inner network alone
            inner = {name.removeprefix(prefix): full for name, full in wanted.items()}
            result.append(_match(target, found, inner, given, "", left_out))
        if any(m.fits and not m.beside for m in result):
            break
    return result


def _bare(name: str, left_out: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in left_out) if left_out else name


def _shared(names: Iterable[str]) -> list[str]:
    """Prefixes that all of the names have, the shortest first: "a.", "a.b." of a.b.weight and a.b.bias."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    parts = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    return ["".join(f"{part}." for part in parts[: i + 1]) for i in range(len(parts))]


def _prefixes(wanted: Mapping[str, str], given: Mapping[str, str]) -> Counter[str]:
    """How many of the network's names a prefix explains."""
    counts: Counter[str] = Counter()
    for key in given:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    return counts


def _match(
    target: Mapping[str, Tensor],
    found: TensorSet,
    wanted: Mapping[str, str],
    given: Mapping[str, str],
    prefix: str,
    left_out: tuple[str, ...],
) -> Match:
    inside = {key.removeprefix(prefix): full for key, full in given.items() if key.startswith(prefix)}
    beside = [full for key, full in given.items() if not key.startswith(prefix)]
    pairs = {wanted[name]: inside[name] for name in inside if name in wanted}
    missing = [full for name, full in wanted.items() if name not in inside and not name.endswith("num_batches_tracked")]
    extra = [full for name, full in inside.items() if name not in wanted]
    shapes = [
        f"{name} {tuple(found.tensors[key].shape)} instead of {tuple(target[name].shape)}"
        for name, key in pairs.items()
        if not _is_lazy(target[name]) and target[name].shape != found.tensors[key].shape
    ]
    listed = (missing, _weights(extra, found), shapes, _weights(beside, found))
    return Match(found, prefix, left_out, pairs, *(tuple(sorted(names)) for names in listed))


def _is_lazy(tensor: Tensor) -> bool:
    from torch.nn.parameter import is_lazy

    return is_lazy(tensor)


def _weights(names: list[str], found: TensorSet) -> list[str]:
    """Without counters, as `n_averaged`, `step` and `epoch`: one whole number each."""
    return [n for n in names if found.tensors[n].numel() != 1 or found.tensors[n].is_floating_point()]


def _different(matches: list[Match]) -> list[Match]:
    """Without those whose numbers are those of an earlier one."""
    import torch

    kept: list[Match] = []
    for match in matches:
        mine = match.tensors()
        if not any(
            mine.keys() == (t := m.tensors()).keys() and all(torch.equal(t[k], mine[k]) for k in t) for m in kept
        ):
            kept.append(match)
    return kept


def _ambiguous(fitting: list[Match], source: str) -> DataError:
    names = [_place(match) or "the outermost dict" for match in fitting]
    return DataError(
        f"{source} holds {len(fitting)} sets of weights that fit this network.",
        f"{', '.join(names[:-1])} and {names[-1]} have its names and shapes, and other numbers.",
        f"keep the one you mean, for example {names[-1]}: {_code(fitting[-1], source)}.",
    )


def _more(match: Match, source: str) -> DataError:
    return DataError(
        f"{source} holds more than this network.",
        f"what is under {_place(match)} fits; beside it there is {_listed(match.beside)}.",
        f"keep the network's own: {_code(match, source)}.",
    )


def _misfit(match: Match, source: str) -> DataError:
    problems = {
        "missing": match.missing,
        "unexpected": (*match.unexpected, *match.beside),
        "another shape": match.shapes,
    }
    listed = "; ".join(f"{label}: {_listed(names)}" for label, names in problems.items() if names)
    place = _place(match)
    return DataError(
        f"the weights in {source} do not fit this network.",
        f"{listed}{f' (compared with what is under {place})' if place else ''}.",
        "use the checkpoint of the same architecture; labels set the number of outputs.",
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _place(match: Match) -> str:
    return ".".join((*match.found.path, match.prefix)).rstrip(".")


def _code(match: Match, source: str) -> str:
    """A line of Python that writes the matched tensors alone to weights.pt."""
    load = f"load_file({source!r})" if source.endswith(".safetensors") else f"torch.load({source!r})"
    tensors = load + "".join(f"[{key!r}]" for key in match.found.path)
    if match.prefix:
        prefix = _shared(match.pairs.values())[-1]
        tensors = f"{{k: v for k, v in {tensors}.items() if k.startswith({prefix!r})}}"
    return f'torch.save({tensors}, "weights.pt")'
