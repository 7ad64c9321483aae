"""Silence for native libraries that write to the terminal past Python's warnings and logging."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings and all that is written to stdout and stderr, also by C++ code, inside the block.

    Errors are not hidden: exceptions pass through. The redirection is process-wide, so keep the block short.
    """
    saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    sink = os.open(os.devnull, os.O_WRONLY)
    text = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            warnings.simplefilter("ignore")
            for fd, _ in saved:
                os.dup2(sink, fd)
            yield
    finally:
        for fd, copy in saved:
            os.dup2(copy, fd)
            os.close(copy)
        os.close(sink)
