"""What an exception of somebody else's code says, in one line."""

from __future__ import annotations

import traceback


def last_line(error: BaseException, file: str | None = None) -> str:
    """`FILE:LINE in FUNCTION: ErrorType: message`, for the deepest frame (inside `file` if one is given)."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if file is None or f.filename == file] or list(frames)
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    return f"{inside[-1].filename}:{inside[-1].lineno} in {inside[-1].name}: {text}" if inside else text
