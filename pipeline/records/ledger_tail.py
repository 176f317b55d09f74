"""A ledger that another process writes, read while it grows: each look reads only bytes that are new."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator
from typing import Any

from pipeline.records.ledger import decode_line, segment_names
from pipeline.storage import StorageLike, open_storage

__all__ = ["RESTART", "LedgerTail"]

PIECE_BYTES = 1 << 20
RESTART = "restart"
Row = dict[str, Any]


class LedgerTail:
    """What a ledger has gained since the last look, without holding the run.

    After any number of looks, the rows yielded since the last :data:`RESTART` are those of :func:`pipeline.records.read_rows_of`,
    of all kinds. A look lists the segments and reads the ends of those that may still grow.

    Args:
        where: the ledger's own storage, ``OUTPUT/ledger``; it need not exist yet.
    """

    def __init__(self, where: StorageLike) -> None:
        self._storage = open_storage(where)
        self._read: dict[str, int] = {}  # bytes read of each segment
        self._closed: set[str] = set()  # segments that have been read to their end
        self._limits: dict[str, int] = {}  # bytes that count, of the segments that the newest header speaks of

    def new_rows(self) -> Iterator[tuple[str, Row]]:
        """Yield (kind, row) of every row that was committed since the last call, in the order of commit; take them all.

        The kind :data:`RESTART` says that what was yielded before does not count any more, and that all rows that count follow.
        So it is after ``run --fresh``, and where rows had been read that a process wrote after it had lost the run.
        """
        names = segment_names(self._storage) if self._storage.exists() else []
        if not self._read.keys() <= set(names):
            self._limits = {}
            yield self._restart()
        while not (yield from self._read_all(names)):
            yield self._restart()

    def _restart(self) -> tuple[str, Row]:
        self._read, self._closed = {}, set()
        return RESTART, {}

    def _read_all(self, names: list[str]) -> Generator[tuple[str, Row], None, bool]:
        """Yield what is new in every segment; return False where a header takes back rows that have been yielded."""
        for name in names:
            if name in self._closed:
                continue
            before = self._read.setdefault(name, 0)
            for line in self._new_lines(name):
                kind, row = next(iter(json.loads(line).items()))
                if kind == "header" and not self._accept(name, row, names):
                    return False
                yield kind, row
            # A segment grows no more once there is a later one. One look more finds what was written before that one.
            if name != names[-1] and self._read[name] == before:
                self._closed.add(name)
        return True

    def _accept(self, name: str, header: Row, names: list[str]) -> bool:
        """Take over what a header says of the segments before it; return False where more was read of one of them."""
        self._limits |= {one: header["accepts"].get(one, 0) for one in names if one < name}
        return all(self._read.get(one, 0) <= limit for one, limit in self._limits.items())

    def _new_lines(self, name: str) -> Iterator[bytes]:
        """Yield the rows behind the mark of what was read, as JSON, and move the mark; an unfinished row is read again next time."""
        start, limit = self._read[name], self._limits.get(name, sys.maxsize)
        rest = b""
        while start < limit and (piece := self._storage.get(name, start, min(start + PIECE_BYTES, limit))):
            start += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            self._read[name] = start - len(rest)
            yield from filter(None, map(decode_line, lines))
        if last := decode_line(rest):
            self._read[name] = start
            yield last
