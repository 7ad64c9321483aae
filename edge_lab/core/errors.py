"""Errors in three lines: what happened, why, what to do."""

from __future__ import annotations


class EdgeLabError(Exception):
    """Base of every error that edge_lab raises on purpose.

    Args:
        what: what happened, in one sentence.
        why: the cause, as far as it is known.
        fix: what the reader can do now, if possible a command or a line of code.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"


class InputError(EdgeLabError, ValueError):
    """An argument is unusable: a wrong shape, an unknown name, an empty folder."""


class DataError(EdgeLabError):
    """A data set is missing, broken or could not be downloaded."""


class BundleError(EdgeLabError):
    """A bundle is missing, damaged, too new, or not made for this runtime."""


class ExportError(EdgeLabError):
    """A model can't go to a format; `why` names the cause, `fix` the change to the model."""


class DivergenceError(ExportError):
    """A program answers differently from the model that it was made from, by more than its precision explains.

    Args:
        what: see EdgeLabError.
        why: see EdgeLabError.
        fix: see EdgeLabError.
        sqnr_db: signal to noise ratio of the output that is furthest below its limit, -200 to 200 dB.
    """

    def __init__(self, what: str, why: str, fix: str, sqnr_db: float) -> None:
        super().__init__(what, why, fix)
        self.args = (what, why, fix, sqnr_db)  # so that it can be sent from one process to another
        self.sqnr_db = sqnr_db


class MissingTool(EdgeLabError):
    """An optional package or system tool is not installed."""
