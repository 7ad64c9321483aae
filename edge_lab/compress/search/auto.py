"""Compress to a budget: try remedies in rising order of cost and stop at the first that keeps every limit.

The order: ExecuTorch's stock recipe; layers and their clamps and pads as one unit; corrected biases; second-order
rounding; float scores; other ranges; the layers that lose most in float (mixed precision: the program grows); training
with rounding, if there are images to train on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_lab.compress.graphs.quantized import refuse_quantized
from edge_lab.compress.search.score import CompressionBudget, Judge, Miss, Quality
from edge_lab.compress.sensitive.sensitivity import sensitivity
from edge_lab.compress.static.inputs import CALIBRATION_IMAGES, Inputs, arrays
from edge_lab.compress.static.quantize import StaticInt8, check_weights, quantize
from edge_lab.compress.static.ranges import MovingAverage
from edge_lab.compress.static.rounding import Nearest
from edge_lab.core.errors import EdgeLabError, InputError
from edge_lab.data.images import ImageSet
from edge_lab.zoo import Model

_PLAIN = StaticInt8(correct_bias=False, rounding=Nearest(), float_scores=False)
STOCK = replace(_PLAIN, fuse_relu6=False, fuse_pad=False)  # ExecuTorch's own recipe, with min/max ranges
_IN_FLOAT = (1, 2, 4, 8)
_FEWEST = 8  # inputs that can be split into calibration and evaluation
_FUSED = ("hardtanh", "relu6", "pad.default", "constant_pad_nd")


@dataclass(frozen=True)
class Step:
    """One remedy that was tried.

    Attributes:
        remedy: what it is, in words.
        recipe: StaticInt8, or QAT for the last resort.
        quality: what came out.
        misses: limits of the budget that it does not keep.
        seconds: wall time it took.
    """

    remedy: str
    recipe: Any
    quality: Quality
    misses: tuple[Miss, ...]
    seconds: float

    @property
    def met(self) -> bool:
        """Whether every limit is kept."""
        return not self.misses

    @property
    def distance(self) -> float:
        """0 if every limit is kept; otherwise the sum of what is missing, each as a share of its limit."""
        return sum(miss.share for miss in self.misses)


@dataclass(frozen=True, eq=False)
class AutoResult:
    """The search and what it found; `print(result)` shows it.

    Attributes:
        model: the chosen network, quantized: `edge_lab.to(result.model, "android-xnnpack-int8")` exports it.
        budget: what was asked for.
        steps: all that was tried, in order.
        chosen: index of the step that `model` comes from: the first that keeps the budget, else the closest.
        evaluated: number of inputs the qualities come from.
        calibrated: number of other inputs that ranges and biases come from.
    """

    model: Model
    budget: CompressionBudget
    steps: tuple[Step, ...]
    chosen: int
    evaluated: int
    calibrated: int

    @property
    def best(self) -> Step:
        """The chosen step."""
        return self.steps[self.chosen]

    @property
    def met(self) -> bool:
        """Whether the chosen network keeps every limit."""
        return self.best.met

    @property
    def verdict(self) -> str:
        """One sentence: the budget is kept, and by what; or how close the best comes to each limit it misses."""
        if self.met:
            return f"The budget is kept by: {self.best.remedy}."
        missed = "; ".join(map(str, self.best.misses))
        closest = f"The closest of {len(self.steps)} recipes" if len(self.steps) > 1 else "The only recipe"
        return f"The budget is not kept. {closest} is {self.best.remedy}: {missed}."

    def require(self) -> Model:
        """The model if the budget is kept.

        Raises:
            EdgeLabError: it is not; says how close the best comes.
        """
        if self.met:
            return self.model
        size = next((miss for miss in self.best.misses if miss.name == "size"), None)
        raise EdgeLabError(
            f"no recipe keeps the budget for {self.model.spec.name}.",
            self.verdict,
            "prune the network first (compress.prune): no recipe makes it smaller than all layers in int8."
            if size
            else "relax the limit, or pass train=... so that the network can be trained with rounding.",
        )

    def table(self) -> str:
        """The search as text, one remedy a line."""
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
        return "\n".join([*lines, self._summary()])

    def markdown(self) -> str:
        """The same as a markdown table."""
        head, *rows = ["| " + " | ".join(row) + " |" for row in self._rows()]
        return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: |", *rows, "", self._summary()])

    def __str__(self) -> str:
        return self.table()

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            ("recipe", "agreement %", "SQNR dB", "Top-1 loss", "MB", "budget"),
            *(
                (
                    step.remedy,
                    "–" if step.quality.agreement is None else f"{step.quality.agreement:.1f}",
                    f"{step.quality.sqnr_db:.1f}",
                    "–" if step.quality.top1_loss is None else f"{step.quality.top1_loss:.1f}",
                    f"{step.quality.size_mb:.3g}",
                    "kept" if step.met else ", ".join(miss.name for miss in step.misses) + " missed",
                )
                for step in self.steps
            ),
        ]

    def _summary(self) -> str:
        return f"{self.verdict} {self.evaluated} inputs evaluated, {self.calibrated} others calibrated."


def auto(
    model: Model,
    data: Inputs,
    budget: CompressionBudget,
    *,
    calibration: Inputs | None = None,
    train: ImageSet | None = None,
    log: Callable[[str], object] | None = None,
) -> AutoResult:
    """Find the cheapest int8 recipe that keeps a budget.

    Every recipe is computed as PyTorch simulates it, which is within a fraction of a dB of what the program computes;
    answers that nearly tie may differ, so leave a point of margin in `min_agreement`.
    EfficientNet-Lite0 takes about 10 s of one core for a recipe, and 0.1 s for each evaluation input.

    Args:
        model: float32; it is not changed.
        data: what the recipes are judged by: images (labelled ones for `max_top1_loss`), or arrays of the input's
            shape.
        budget: the limits.
        calibration: inputs for ranges and bias correction, none of them in `data`. Default: a quarter of `data`, at
            most 32, evenly spread, is taken out and not evaluated.
        train: labelled images; if nothing else keeps the budget, the network is trained on them with rounding inside
            (`qat`, which takes as long as training does).
        log: called with a line of text for each step, such as `print`.

    Returns:
        The first recipe that keeps the budget, or the closest, with `met` False; never the float network.

    Raises:
        InputError: no inputs, wrong shapes or NaN among them; a limit that can't be measured on them; calibration
            inputs that are also evaluated; the model is quantized already or holds NaN.
        ExportError: nothing in the model can be quantized.
    """
    refuse_quantized(model.module, model.spec.name, "compressed again")
    check_weights(model.module)
    pictures, rows, targets = _split(data, calibration, model)
    judge = Judge(model, rows, targets)
    _check_budget(budget, judge, model)
    say = log or (lambda _: None)
    say(f"{model.spec.name}: {len(rows)} inputs to evaluate, {len(pictures)} others to calibrate with")
    steps: list[Step] = []
    best: Any = None
    for remedy, recipe, make in _recipes(model, pictures, train, budget, steps):
        start = time.perf_counter()
        module = make()
        quality = judge.score(module)
        step = Step(remedy, recipe, quality, budget.misses(quality), time.perf_counter() - start)
        say(_line(step))
        if not steps or step.distance < min(s.distance for s in steps):
            best = len(steps), module
        steps.append(step)
        if step.met:
            break
    chosen, module = best
    spec = model.spec.with_(name=f"{model.spec.name}-auto")
    return AutoResult(Model(module, spec), budget, tuple(steps), chosen, len(rows), len(pictures))


Attempt = tuple[str, Any, Callable[[], Any]]


def _recipes(
    model: Model, pictures: list[np.ndarray], train: ImageSet | None, budget: CompressionBudget, done: list[Step]
) -> Iterator[Attempt]:
    """Remedies in rising order of cost; `done` grows while they are tried."""
    fusible = False

    def static(remedy: str, config: StaticInt8) -> Attempt:
        def make() -> Any:
            nonlocal fusible
            graph: Any = quantize(model.module, pictures[0], pictures, config)
            fusible = fusible or any(name in str(node.target) for node in graph.graph.nodes for name in _FUSED)
            return graph

        return remedy, config, make

    yield static("stock recipe", STOCK)
    if fusible:
        yield static("clamps and pads fused as well", _PLAIN)
    yield static("biases corrected as well", replace(_PLAIN, correct_bias=True))
    yield static("second-order rounding as well", StaticInt8(float_scores=False))
    yield static("scores as floats as well", StaticInt8())
    if all(miss.name == "size" for miss in done[-1].misses):  # nothing that follows makes the program smaller
        return
    yield static("the best of these, moving-average ranges", replace(_best(done), observer=MovingAverage()))
    config = _best(done)
    report = sensitivity(model, pictures, config, calibration=pictures)
    names = report.worst(max(_IN_FLOAT))
    for n in (n for n in _IN_FLOAT if n <= len(names)):
        kept = replace(config, keep_float=names[:n])
        if budget.max_size_mb is None or _smallest(done) + _growth(model, kept) <= budget.max_size_mb:
            yield static(f"the best of these, {n} worst {'layer' if n == 1 else 'layers'} in float", kept)
    if train is not None:
        yield _trained(model, train)


def _best(done: list[Step]) -> StaticInt8:
    recipe = min(done, key=lambda step: (step.distance, -step.quality.sqnr_db)).recipe
    assert isinstance(recipe, StaticInt8)  # training comes last
    return recipe


def _smallest(done: list[Step]) -> float:
    return min(step.quality.size_mb for step in done)


def _growth(model: Model, config: StaticInt8) -> float:
    """MB that the layers in float add: four bytes a weight instead of one."""
    weights: list[Any] = [model.module.get_submodule(name).weight for name in config.keep_float]
    return 3e-6 * float(sum(weight.numel() for weight in weights))


def _trained(model: Model, train: ImageSet) -> Attempt:
    from edge_lab.compress.qat.training import QAT, qat

    config = QAT()

    def make() -> Any:
        held_out = set(range(0, len(train), 10))
        learnt = train.subset([i for i in range(len(train)) if i not in held_out])
        return qat(model, learnt, train.subset(sorted(held_out)), config, progress=False).model.module

    return "trained with rounding", config, make


def _line(step: Step) -> str:
    quality = step.quality
    agreement = "" if quality.agreement is None else f"agreement {quality.agreement:.1f} %, "
    loss = "" if quality.top1_loss is None else f"Top-1 loss {quality.top1_loss:.1f}, "
    verdict = "keeps the budget" if step.met else "misses " + ", ".join(miss.name for miss in step.misses)
    return f"{step.remedy}: {agreement}{quality.sqnr_db:.1f} dB, {loss}{quality.size_mb:.3g} MB; {verdict}"


def _split(
    data: Inputs, calibration: Inputs | None, model: Model
) -> tuple[list[np.ndarray], list[np.ndarray], list[tuple[int, ...]]]:
    """Inputs to calibrate with, inputs to evaluate, and the accepted classes of the latter. No input is in both."""
    rows = arrays(data, model, "evaluation")
    targets: list[tuple[int, ...]] = [()] * len(rows)
    if isinstance(data, ImageSet):
        targets = list(data.targets)
    if calibration is not None:
        pictures = arrays(calibration, model, "calibration")
        known = {x.tobytes() for x in pictures}
        shared = sum(x.tobytes() in known for x in rows)
        if shared:
            raise InputError(
                f"{shared} of {len(rows)} evaluation inputs are calibration inputs, too.",
                "ranges and biases fit them, so they would make every recipe look better than it is.",
                "keep the two sets apart, or leave calibration out: then `data` is split.",
            )
        return pictures, rows, targets
    if len(rows) < _FEWEST:
        raise InputError(
            f"{len(rows)} inputs are too few to calibrate with one part and evaluate the other.",
            f"at least {_FEWEST} are needed.",
            "pass more, or pass calibration=... as well.",
        )
    count = min(CALIBRATION_IMAGES, len(rows) // 4)
    taken = {i * len(rows) // count for i in range(count)}
    known = {rows[i].tobytes() for i in taken}
    left = [i for i, x in enumerate(rows) if i not in taken and x.tobytes() not in known]
    if not left:
        raise InputError(
            "there is nothing to evaluate.", "all inputs are the same.", "pass pictures that differ from each other."
        )
    return [rows[i] for i in sorted(taken)], [rows[i] for i in left], [targets[i] for i in left]


def _check_budget(budget: CompressionBudget, judge: Judge, model: Model) -> None:
    if budget.max_top1_loss is not None and not judge.labelled:
        raise InputError(
            "a Top-1 loss can't be measured here.",
            "none of the evaluation inputs has a label" + ("." if judge.classes else ", and the model has no classes."),
            "pass a labelled ImageSet, or set min_agreement instead, which needs no labels.",
        )
    outputs = judge.reference.shape[1]
    if budget.max_top1_loss is not None and max(max(judge.targets[i]) for i in judge.labelled) >= outputs:
        raise InputError(
            f"the labels of the evaluation images don't fit {model.spec.name}.",
            f"it has {outputs} classes, and some labels are beyond them.",
            "pass images of the classes that the network was trained for.",
        )
    if budget.min_agreement is not None and not judge.classes:
        raise InputError(
            f"agreement can't be measured for {model.spec.name}.",
            f"its task is {model.spec.task!r}: there are no classes to agree on.",
            "set min_sqnr_db instead.",
        )
