"""The dashboard itself: drop-downs, buttons, and the fragments of `page` between them.

All work happens in the kernel's one thread: while something is measured the controls are disabled, so that no second
click can queue behind it, and the page shows how far it is. An error is a sentence in the page, never a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lab.core.errors import EdgeLabError
from edge_lab.data import ImageSet
from edge_lab.formats.runtime import Session
from edge_lab.widgets import compare, page
from edge_lab.widgets.catalog import Catalog, Choice, catalog

if TYPE_CHECKING:
    from PIL.Image import Image


class Dashboard:
    """What `dashboard()` shows. `measured` holds the last measurement (None before the first)."""

    def __init__(self, found: Catalog, images: ImageSet | None, rounds: int) -> None:
        import ipywidgets as w

        self.found, self.images, self.rounds = found, images, rounds
        self.measured: compare.Pair | None = None
        self._pairs: dict[tuple[Path, Path], compare.Pair] = {}
        self._sessions: dict[Path, Session] = {}
        self._problems: dict[Path, str] = {}
        self._shown: tuple[str, str, Image] | None = None
        self._place, self._busy = 0, False
        self._pictures: ImageSet | None = None
        self.model = w.Dropdown(description="Model")
        self.target = w.Dropdown(description="Target")
        self.precision = w.Dropdown(description="Precision")
        self.against = w.Dropdown(description="Beside it")
        self.button = w.Button(description="Measure", button_style="primary", tooltip="Time both, and count answers")
        self.back = w.Button(description="‹ Previous", tooltip="Previous picture")
        self.forward = w.Button(description="Next ›", tooltip="Next picture")
        self.upload = w.FileUpload(description="Your own picture", accept="image/*", multiple=False)
        self.progress = w.IntProgress(min=0, max=100, layout=w.Layout(display="none"))
        self._html = {name: w.HTML() for name in ("style", "head", "status", "cards", "strip", "answers", "missing")}
        self._controls = (
            *(self.model, self.target, self.precision, self.against),
            *(self.button, self.back, self.forward, self.upload),
        )
        html = self._html
        choose = w.HBox([self.model, self.target, self.precision, self.against, self.button])
        choose.add_class("el-controls")
        self._nav = w.HBox([self.back, self.forward, self.upload])
        self._nav.add_class("el-nav")
        parts = [html["style"], html["head"], choose, self.progress, html["status"], html["cards"], html["strip"]]
        self.box = w.VBox([*parts, html["answers"], self._nav, html["missing"]])
        self.box.add_class("edge-lab")
        html["style"].value = page.style()
        self._start(choose)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Shown by JupyterLab as the widget that it holds, and as a sentence where no kernel runs."""
        return {**self.box._repr_mimebundle_(**kwargs), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"The dashboard of {len(self.found.choices)} bundles: run this cell in JupyterLab to use it."

    @property
    def chosen(self) -> Choice:
        """The right one."""
        return self.found.find(self.model.value, self.target.value, self.precision.value)

    @property
    def reference(self) -> Choice:
        """The left one."""
        return next(c for c in self.found.of(self.model.value) if c.label == self.against.value)

    def _start(self, choose: Any) -> None:
        if not self.found.choices:
            self._html["head"].value = page.head("No bundles yet", str(self.found.folder))
            command = f"edge-lab run efficientnet_lite0 --out {self.found.folder}"
            text = f"{self.found.folder} holds no bundle. Make some, then run this cell again:"
            self._html["status"].value = page.note(text, "wait", command)
            choose.layout.display = self._nav.layout.display = "none"
            return
        with self._quiet():
            self.model.options = self.found.models
            self.model.value = self.found.models[0]
        self._on_model()
        self.model.observe(self._guarded(self._on_model), "value")
        self.target.observe(self._guarded(self._on_target), "value")
        self.precision.observe(self._guarded(self._on_precision), "value")
        self.against.observe(self._guarded(self._refresh), "value")
        self.button.on_click(self._guarded(self._measure))
        self.back.on_click(self._guarded(lambda: self._turn(-1)))
        self.forward.on_click(self._guarded(lambda: self._turn(1)))
        self.upload.observe(self._guarded(self._uploaded), "value")

    def _guarded(self, action: Callable[[], None]) -> Callable[[Any], None]:
        """A callback that runs alone and whose error is shown in the page."""

        def call(_: Any) -> None:
            if self._busy:
                return
            with self._working():
                try:
                    self._html["status"].value = ""
                    action()
                except EdgeLabError as error:
                    self._html["status"].value = page.note(f"{error.what} {_sentence(error.why)}", "bad", error.fix)
                except Exception as error:  # what a runtime raises must not end as a traceback in a log nobody sees
                    text = f"That did not work: {type(error).__name__}: {error}"
                    self._html["status"].value = page.note(text[:400], "bad", "Choose another bundle or picture.")

        return call

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._busy = True
        for control in self._controls:
            control.disabled = True
        try:
            yield
        finally:
            for control in self._controls:
                control.disabled = False
            self.button.disabled = bool(self._cannot())
            self.progress.layout.display = "none"
            self._busy = False

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Options change without their callbacks."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _on_model(self) -> None:
        first = self.found.first(self.model.value)
        with self._quiet():
            self.target.options = self.found.targets(self.model.value)
            self.target.value = first.target
            self.precision.options = self.found.precisions(first.model, first.target)
            self.precision.value = first.precision
        self._pictures, self._place, self._shown = compare.pictures_for(first.bundle.spec, self.images), 0, None
        self._html["missing"].value = page.missing(self.found, self.model.value)
        self._nav.layout.display = "flex" if self._pictures else "none"
        self._on_precision()

    def _on_target(self) -> None:
        with self._quiet():
            kept, options = self.precision.value, self.found.precisions(self.model.value, self.target.value)
            self.precision.options = options
            self.precision.value = kept if kept in options else options[-1]
        self._on_precision()

    def _on_precision(self) -> None:
        """Another bundle: the one beside it follows, unless the reader chose one that still fits."""
        labels = [c.label for c in self.found.of(self.model.value)]
        kept = self.against.value
        with self._quiet():
            self.against.options = labels
            fits = kept in labels and kept != self.chosen.label
            self.against.value = kept if fits else self.found.reference(self.chosen, but_not=self._problems).label
        self._refresh()

    def _refresh(self) -> None:
        left, right = self.reference, self.chosen
        for choice in (left, right):
            self._open(choice)
        spec = right.bundle.spec
        size = "×".join(map(str, spec.input.shape))
        self._html["head"].value = page.head(right.model, f"{spec.weights} weights, input {size}")
        self.measured = self._pairs.get((left.bundle.path, right.bundle.path))
        sides = [(c, self._problems.get(c.bundle.path, "")) for c in (left, right)]
        self._html["cards"].value = page.cards(sides, self.measured)
        self._html["strip"].value = page.strip(self.measured, (left, right)) if self.measured else ""
        self.button.disabled = bool(self._cannot())
        self._show()

    def _cannot(self) -> list[Choice]:
        """Which of the two can't run here."""
        return [c for c in (self.reference, self.chosen) if c.bundle.path in self._problems]

    def _open(self, choice: Choice) -> None:
        """Load a bundle once. One that can't run here is said on its card; the other still works."""
        path = choice.bundle.path
        if path in self._sessions:
            return
        self._problems.pop(path, None)
        try:
            self._sessions[path] = compare.open_session(choice)
        except EdgeLabError as error:
            self._problems[path] = f"{error.what} {_sentence(error.why)}"
        while len(self._sessions) > 6:  # a model each: memory is worth more than half a second
            del self._sessions[next(iter(self._sessions))]

    def _show(self) -> None:
        """Both answers to the picture that is shown."""
        if not self._pictures:
            self._html["answers"].value = page.note("This model takes ready tensors: there is no picture to show.")
            return
        name, truth, image = self._shown or self._picture()
        choices = (self.reference, self.chosen)
        running = [self._sessions.get(c.bundle.path) for c in choices]
        said = [compare.top5(session, image) if session else () for session in running]
        self._html["answers"].value = page.answers(name, truth, (image, compare.thumbnail(image)), choices, said)

    def _picture(self) -> tuple[str, str, Image]:
        assert self._pictures is not None
        at, images = self._place, self._pictures
        known = [images.labels[i] for i in images.targets[at][:1]]
        return f"{at + 1} of {len(images)}, {images.names[at]}", ", ".join(known), images[at]

    def _turn(self, by: int) -> None:
        if self._pictures:
            self._place, self._shown = (self._place + by) % len(self._pictures), None
            self._show()

    def _uploaded(self) -> None:
        files = self.upload.value
        if not files:
            return
        with self._quiet():
            self.upload.value = ()  # the same file can be chosen again
        image = compare.picture(bytes(files[0]["content"]), files[0]["name"])
        self._shown = (files[0]["name"], "", image)
        self._show()

    def _measure(self) -> None:
        left, right = self.reference, self.chosen
        self.progress.layout.display = ""
        self._step(0, "starting")
        pictures = compare.judged_on(right.bundle.spec, self._pictures)
        for choice in (left, right):
            self._open(choice)
        pair = compare.measure(left, right, self._sessions, pictures, rounds=self.rounds, step=self._step)
        self._pairs[left.bundle.path, right.bundle.path] = pair
        self._refresh()
        reasons = " ".join(pair.measured.gate.reasons)
        self._html["status"].value = page.note(
            f"Measured, but {reasons}" if reasons else "Measured.", "wait" * bool(reasons)
        )

    def _step(self, percent: int, what: str) -> None:
        self.progress.value = percent
        self._html["status"].value = page.note(f"Measuring: {what} …")


def dashboard(out: Path | str = "../artifacts", *, images: ImageSet | None = None, rounds: int = 30) -> Dashboard:
    """Choose model, target and precision; see answers, accuracy, latency and size beside another bundle.

    Args:
        out: folder that holds the bundles, as `edge-lab run` and `edge_lab.to` write them.
        images: pictures to show and to count answers on. Default: digits for models that know digits, else the
            photos that come with the package.
        rounds: timed calls of each bundle.

    Returns:
        What JupyterLab shows as the dashboard; its `measured.measured` is the last measurement, ready to `save`.
    """
    return Dashboard(catalog(out), images, rounds)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
