"""Reads FlatBuffers without their schema compiler: every offset is checked, nothing is trusted or run.

The format: https://flatbuffers.dev/internals. A table begins with the distance back to its vtable, which lists where
each field is; 0 means that the field has its default. Every reader raises ValueError where the file is damaged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One table: `data` is the whole buffer, `at` where the table begins. Fields go by their number in the schema."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> Table:
        """The table that a file begins with."""
        return cls(data, _read(data, "I", 0))

    def number(self, field: int, kind: str, default: float = 0) -> int:
        """A whole number; `kind` is a letter of `struct`."""
        place = self._place(field)
        return int(_read(self.data, kind, place) if place else default)

    def text(self, field: int) -> str:
        """A string; empty if there is none."""
        start, count = self._vector(field, 1)
        return self.data[start : start + count].decode("utf-8")

    def table(self, field: int) -> Table | None:
        """A table inside, or None."""
        place = self._place(field)
        return Table(self.data, _follow(self.data, place)) if place else None

    def numbers(self, field: int, kind: str) -> tuple[int, ...]:
        """A vector of numbers."""
        start, count = self._vector(field, struct.calcsize("<" + kind))
        return struct.unpack_from(f"<{count}{kind}", self.data, start)

    def tables(self, field: int) -> tuple[Table, ...]:
        """A vector of tables."""
        start, count = self._vector(field, 4)
        return tuple(Table(self.data, _follow(self.data, start + 4 * i)) for i in range(count))

    def span(self, field: int) -> tuple[int, int]:
        """Where a vector of bytes begins, and how many there are."""
        return self._vector(field, 1)

    def _place(self, field: int) -> int:
        vtable = self.at - _read(self.data, "i", self.at)
        size = _read(self.data, "H", vtable)
        slot = 4 + 2 * field
        if slot + 2 > size:
            return 0
        offset = _read(self.data, "H", vtable + slot)
        return self.at + offset if offset else 0

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        place = self._place(field)
        if not place:
            return 0, 0
        start = _follow(self.data, place)
        count = _read(self.data, "I", start)
        if start + 4 + width * count > len(self.data):
            raise ValueError("a list reaches beyond the end of the file")
        return start + 4, count


def _read(data: bytes, kind: str, at: int) -> int:
    if at < 0 or at + struct.calcsize("<" + kind) > len(data):
        raise ValueError("an offset points outside the file")
    value: int = struct.unpack_from("<" + kind, data, at)[0]
    return value


def _follow(data: bytes, at: int) -> int:
    """Offsets point forwards from where they stand: a file can't make the reader go round in circles."""
    offset = _read(data, "I", at)
    if not offset or at + offset >= len(data):
        raise ValueError("an offset points outside the file")
    return at + offset
