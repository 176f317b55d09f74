"""What is done: the committed rows of a run, kept so that no crash loses or doubles one.

Rows are JSON lines with a checksum, ``{"crc": "...", "receipt": {...}}``, in segments that only grow, one a writer
epoch. The first row of a segment says how many bytes of each earlier segment its writer found: what a process
that was taken over writes later lies behind that mark and is never read::

    000001.jsonl   header  row  row  row │ late row        written by the first holder
    000002.jsonl   header{accepts 000001: up to │}  row    written by the process that took over
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from pipeline.errors import GigasegError
from pipeline.records.receipts import Receipt
from pipeline.records.run_lock import Holder, RunLock, every, hold
from pipeline.storage import Storage, open_storage

__all__ = ["Ledger", "Tally", "latest", "read_rows", "read_rows_of", "tally"]

COMMIT_S = 0.5
PIECE_BYTES = 1 << 16
MARK = b'{"crc":"'
Row = dict[str, Any]


class Ledger:
    """The ledger of a run, open for writing: see :meth:`open`.

    Rows are committed together, at most 0.5 s after they were appended; a row counts as done once :meth:`flush`
    has returned. Safe to use from several threads.
    """

    def __init__(self, storage: Storage, lease: RunLock) -> None:
        self._storage, self._lease = storage, lease
        self._segment = f"{lease.epoch:06d}.jsonl"
        self._size = 0
        self._waiting: list[bytes] = []
        self._waiting_lock, self._commit_lock = threading.Lock(), threading.Lock()
        self._failure: GigasegError | None = None
        limits = _limits(storage, [name for name in _segments(storage) if name < self._segment])
        accepts = {name: min(storage.size(name) or 0, limit) for name, limit in limits.items()}
        holder = lease.holder
        header = {"epoch": lease.epoch, "host": holder.host, "pid": holder.pid, "started": holder.since, "accepts": accepts}
        self.append_row("header", header)
        self.flush()

    @classmethod
    @contextmanager
    def open(cls, folder: str | Path, *, take_over: bool = False, stale_s: float = 30.0, holder: Holder | None = None) -> Iterator[Ledger]:
        """Hold the run and its ledger inside the ``with`` block; what was appended is committed at its end.

        Args:
            folder: the ledger's own folder, ``OUTPUT/ledger``; made where it is missing.
            take_over: take the run from a process that lives.
            stale_s: how long a holder on another host must show no sign of life, seconds.
            holder: who to be; None: this process.

        Raises:
            InputError: another process holds the run and lives.
            LeaseLost: it was taken over meanwhile.
            StoreError: the folder cannot be written.
        """
        storage = open_storage(folder)
        storage.make()
        with hold(storage, take_over=take_over, stale_s=stale_s, holder=holder) as lease:
            ledger = cls(storage, lease)
            try:
                with every(COMMIT_S, ledger._commit_behind):
                    yield ledger
            finally:
                ledger.flush()

    @property
    def epoch(self) -> int:
        """Number of this holder, from 1: above 1 the run is resumed."""
        return self._lease.epoch

    def append(self, receipt: Receipt) -> None:
        """Append the receipt of a block; raises as :meth:`append_row`."""
        self.append_row("receipt", receipt.to_json())

    def append_row(self, kind: str, row: Mapping[str, Any]) -> None:
        """Append a row of any kind: plain JSON.

        Raises:
            LeaseLost: the run was taken over.
            StoreError: rows before this one could not be committed, this one was not taken.
        """
        if self._failure:
            raise self._failure
        line = _encode(kind, row)
        with self._waiting_lock:
            self._waiting.append(line)

    def flush(self) -> None:
        """Commit every row appended so far: on the disk, and accepted by whoever holds the run next.

        Raises:
            LeaseLost: the run was taken over.
            StoreError: they could not be written; a later call tries again.
        """
        with self._commit_lock:
            with self._waiting_lock:
                lines = len(self._waiting)
                data = b"".join(self._waiting)
            if data:
                self._storage.append(self._segment, data, self._size)
            self._lease.check()  # after the write: a later holder reads the sizes after its claim
            with self._waiting_lock:
                del self._waiting[:lines]
            self._size += len(data)
            self._failure = None

    def check(self) -> None:
        """Raise LeaseLost when another process has taken the run over."""
        self._lease.check()

    def rows(self) -> Iterator[Receipt]:
        """Commit what waits, then give every receipt of the run in commit order, earlier epochs first."""
        self.flush()
        return _receipts(self._storage)

    def _commit_behind(self) -> None:
        """Commit from the background; an error waits for the next append."""
        try:
            self.flush()
        except GigasegError as error:
            self._failure = error


def read_rows(folder: str | Path) -> Iterator[Receipt]:
    """Every committed receipt in commit order, without holding the run: it may be going on.

    Args:
        folder: the ledger's own folder, ``OUTPUT/ledger``.

    Raises:
        StoreError: it cannot be read.
    """
    return _receipts(open_storage(folder))


def read_rows_of(folder: str | Path, kind: str) -> Iterator[Row]:
    """Every committed row of one kind (``header``, ``receipt``, ...); otherwise as :func:`read_rows`."""
    return _rows(open_storage(folder), kind)


def latest(rows: Iterable[Receipt]) -> dict[tuple[str, str], Receipt]:
    """What holds for each (phase, block): its last row, in the order of these rows.

    Example:
        >>> rows = [Receipt("predict", "a", "a:0.0.0", cause="no memory"), Receipt("predict", "a", "a:0.0.0")]
        >>> latest(rows)["predict", "a:0.0.0"].ok
        True
    """
    found: dict[tuple[str, str], Receipt] = {}
    for row in rows:
        found.pop((row.phase, row.block), None)
        found[row.phase, row.block] = row
    return found


@dataclass
class Tally:
    """All that a report needs of a run's receipts, gathered in one pass.

    Attributes:
        receipts: the brief receipt (:meth:`Receipt.brief`) that holds for each (phase, block), in commit order.
        seconds: of all blocks, by stage; work that was done again counts again.
        phase_seconds: the same, by phase.
        peak_bytes: the largest process.
    """

    receipts: dict[tuple[str, str], Receipt] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0


def tally(rows: Iterable[Receipt]) -> Tally:
    """Gather receipts; the last one of a block holds."""
    found = Tally()
    alike: dict[tuple[str, str], Receipt] = {}  # blocks that were fitted or finished differ in nothing that a report shows
    for row in rows:
        brief = row.brief()
        found.receipts.pop((row.phase, row.block), None)
        found.receipts[row.phase, row.block] = brief if brief.block else alike.setdefault((brief.phase, brief.image), brief)
        found.peak_bytes = max(found.peak_bytes, row.peak_bytes)
        for stage, seconds in row.seconds.items():
            found.seconds[stage] = found.seconds.get(stage, 0.0) + seconds
            found.phase_seconds[row.phase] = found.phase_seconds.get(row.phase, 0.0) + seconds
    return found


def _receipts(storage: Storage) -> Iterator[Receipt]:
    return (Receipt.from_json(row) for row in _rows(storage, "receipt"))


def _rows(storage: Storage, kind: str) -> Iterator[Row]:
    for segment, limit in _limits(storage, _segments(storage)).items():
        yield from _segment_rows(storage, segment, kind, limit)


def _segments(storage: Storage) -> list[str]:
    return [name for name in storage.list() if name.endswith(".jsonl")]


def _limits(storage: Storage, segments: Iterable[str]) -> dict[str, int]:
    """How many bytes of each segment count: the newest header decides for all before it, those without a header are read whole."""
    limits = dict.fromkeys(sorted(segments), sys.maxsize)
    for newest in reversed(limits):
        header = next(_segment_rows(storage, newest, "header", sys.maxsize), None)
        if header:
            return {name: header["accepts"].get(name, 0) if name < newest else sys.maxsize for name in limits}
    return limits


def _segment_rows(storage: Storage, segment: str, kind: str, limit: int) -> Iterator[Row]:
    begin = b'{"%s":' % kind.encode()
    for line in _lines(storage, segment, limit):
        # a damaged end of line glues two rows together: the second one still stands
        body = _body(line) or _body(line[max(0, line.rfind(MARK)) :])
        if body.startswith(begin):
            yield json.loads(body)[kind]


def _lines(storage: Storage, segment: str, limit: int) -> Iterator[bytes]:
    start, rest = 0, b""
    while piece := storage.get(segment, start, min(start + PIECE_BYTES, limit)):
        start += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


def _encode(kind: str, row: Mapping[str, Any]) -> bytes:
    body = json.dumps({kind: row}, separators=(",", ":")).encode()
    return MARK + b'%08x",' % crc32(body) + body[1:] + b"\n"


def _body(line: bytes) -> bytes:
    """The row in a line without its checksum; empty where the line is torn or damaged."""
    body = b"{" + line[18:]
    return body if line.startswith(MARK) and line[8:18] == b'%08x",' % crc32(body) else b""
