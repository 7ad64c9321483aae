"""Which bundles there are to choose from, and how to make those that are missing. No widgets here."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edge_lab.bundle.folder import Bundle
from edge_lab.core.errors import BundleError, InputError

FIRST_CHOICE = ("android-xnnpack-int8", "linux-onnx-int8")  # what a reader most likely wants to see beside fp32
_FLOATS = ("xnnpack", "onnx", "torchscript", "pt2", "inductor", "lite")  # as a reference, in this order
_USUAL = (
    "android-xnnpack-fp32",
    "android-xnnpack-int8",
    "linux-onnx-fp32",
    "linux-onnx-int8",
    "linux-pt2-fp32",
    "ios-coreml-fp16",
)


@dataclass(frozen=True)
class Choice:
    """One bundle as it is chosen: `model` is its folder's name, `target` is "android-xnnpack", `precision` "int8"."""

    model: str
    target: str
    precision: str
    bundle: Bundle

    @property
    def label(self) -> str:
        """Target and precision: "android-xnnpack int8"."""
        return f"{self.target} {self.precision}"


@dataclass(frozen=True)
class Catalog:
    """The usable bundles below a folder; `broken` holds a sentence for each that can't be read."""

    folder: Path
    choices: tuple[Choice, ...]
    broken: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """Those with most bundles first."""
        return [name for name, _ in Counter(c.model for c in self.choices).most_common()]

    def of(self, model: str) -> list[Choice]:
        """All bundles of a model."""
        return [c for c in self.choices if c.model == model]

    def targets(self, model: str) -> list[str]:
        """Of this model, each once."""
        return list(dict.fromkeys(c.target for c in self.of(model)))

    def precisions(self, model: str, target: str) -> list[str]:
        """Of this model and target."""
        return [c.precision for c in self.of(model) if c.target == target]

    def find(self, model: str, target: str, precision: str) -> Choice:
        """The one that was chosen.

        Raises:
            InputError: there is none.
        """
        for choice in self.of(model):
            if (choice.target, choice.precision) == (target, precision):
                return choice
        raise InputError(
            f"there is no bundle of {model} for {target} {precision}.",
            f"{self.folder} does not hold it.",
            f"make it: {how_to_make(model, f'{target}-{precision}', self.folder)}.",
        )

    def first(self, model: str) -> Choice:
        """What is shown first: int8 where there is any."""
        mine = {c.bundle.target: c for c in reversed(self.of(model))}
        wanted = [mine[name] for name in FIRST_CHOICE if name in mine]
        integers = [c for c in self.of(model) if c.precision.startswith("int8")]
        return (wanted + integers + self.of(model))[0]

    def reference(self, choice: Choice, *, but_not: Collection[Path] = ()) -> Choice:
        """What a bundle is shown beside: float32 of the same model, of the same backend if it is another precision.

        Args:
            choice: the bundle; it is shown beside itself if there is nothing else.
            but_not: folders of bundles that are known not to run here.
        """
        others = [c for c in self.of(choice.model) if c != choice and c.bundle.path not in but_not]
        floats = [c for c in others if c.precision == "fp32" and _runs_anywhere(c)]
        order = (_backend(choice), *_FLOATS)
        rank = {name: i for i, name in reversed(list(enumerate(order)))}
        return min(floats, key=lambda c: rank.get(_backend(c), len(order)), default=choice)

    def missing(self, model: str) -> list[tuple[str, str]]:
        """The usual targets that a model of the zoo has no bundle for, each with the command that makes it."""
        from edge_lab.zoo import list_models

        if model not in list_models():
            return []  # a lab or a script made it: only that can make more
        made = {c.bundle.path.name for c in self.of(model)}  # platforms share programs
        return [(name, how_to_make(model, name, self.folder)) for name in _USUAL if name.split("-", 1)[1] not in made]


def catalog(folder: Path | str) -> Catalog:
    """Read every FOLDER/MODEL/KIND/bundle.json. Checksums are compared when a bundle is loaded, not here."""
    folder = Path(folder)
    choices, broken = [], []
    for manifest in sorted(folder.glob("*/*/bundle.json")):
        try:
            bundle = Bundle.load(manifest.parent, verify=False)
        except BundleError as error:
            broken.append(f"{manifest.parent.parent.name}/{manifest.parent.name}: {error.why}")
            continue
        choices.append(_choice(bundle))
    choices.sort(key=lambda c: (c.model, c.target, _order(c.precision)))
    return Catalog(folder, tuple(choices), tuple(broken))


def how_to_make(model: str, target: str, folder: Path) -> str:
    """The command that writes this bundle."""
    return shlex.join(["edge-lab", "export", model, "--target", target, "--out", str(folder)])


def _choice(bundle: Bundle) -> Choice:
    """`android-xnnpack-int8` taken apart; a target that this version does not know goes by its folder's name."""
    from edge_lab.export import target

    try:
        goal = target(bundle.target)
    except InputError:
        return Choice(bundle.path.parent.name, bundle.path.name, bundle.quantization.scheme, bundle)
    return Choice(bundle.path.parent.name, goal.name.removesuffix(f"-{goal.precision}"), goal.precision, bundle)


def _order(precision: str) -> tuple[int, str]:
    known = ("fp32", "fp16", "bf16", "int8")
    return (known.index(precision) if precision in known else len(known), precision)


def _backend(choice: Choice) -> str:
    return choice.target.rpartition("-")[2]


def _runs_anywhere(choice: Choice) -> bool:
    return choice.bundle.runtime.format != "mlpackage" and "coreml" not in choice.bundle.runtime.backend
