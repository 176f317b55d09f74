"""What is done: the rows of a run, committed so that no crash loses or doubles one.

Rows are JSON lines with a checksum, ``{"crc": "...", "receipt": {...}}``, in segments that only grow. Each holder of the run
begins a segment of its own, whose first row, the header, says how many bytes of each earlier segment its writer found: what a
process that was taken over writes later lies behind that mark and is never read::

    000001.jsonl                header  row  row  row │ late row        written by the first holder
    000002.jsonl                header{accepts 000001: up to │}  row    written by the process that took over
    000002.next-000001.jsonl    row  row                                the same one, where a storage wants short segments
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from pipeline.errors import GigasegError
from pipeline.records.receipts import Receipt
from pipeline.records.run_lock import Holder, RunLock, hold_run, repeating
from pipeline.storage import Storage, StorageLike, open_storage

__all__ = ["Ledger", "accepted_sizes", "decode_line", "encode_row", "read_rows", "read_rows_of", "segment_name", "segment_names"]

COMMIT_S = 0.5
PIECE_BYTES = 1 << 18
MARK = b'{"crc":"'
Row = dict[str, Any]


class Ledger:
    """The ledger of a run, open for writing: see :meth:`open`.

    Rows are committed together, at most 0.5 s after they were appended; a row is done when :meth:`flush` has returned. Several
    threads may use a ledger at once.
    """

    def __init__(self, storage: Storage, lock: RunLock) -> None:
        self._storage, self._lock = storage, lock
        self._guarded = storage.guarded(lock.check)
        self._num_segments = 0
        self._segment_bytes = 0
        self._waiting: list[bytes] = []
        self._waiting_lock, self._commit_lock = threading.Lock(), threading.Lock()
        self._failure: GigasegError | None = None
        holder = lock.holder
        accepts = accepted_sizes(storage, lock.epoch)
        header = {"epoch": lock.epoch, "host": holder.host, "pid": holder.pid, "started": holder.since, "accepts": accepts}
        self.append_row("header", header)
        self.flush()

    @classmethod
    @contextmanager
    def open(cls, where: StorageLike, *, take_over: bool = False, stale_s: float = 30.0, holder: Holder | None = None) -> Iterator[Ledger]:
        """Hold the run and its ledger inside the ``with`` block; what was appended is committed when it ends.

        The ledger's own storage, ``OUTPUT/ledger``, is made where it is missing. For the other arguments see :func:`hold_run`.

        Raises:
            AlreadyRunning: another process holds the run and lives.
            LockLost: another process took it over meanwhile.
        """
        storage = open_storage(where)
        storage.make()
        with hold_run(storage, take_over=take_over, stale_s=stale_s, holder=holder) as lock:
            ledger = cls(storage, lock)
            try:
                with repeating(ledger._commit_in_background, pause_s=COMMIT_S):
                    yield ledger
            finally:
                ledger.flush()

    @property
    def epoch(self) -> int:
        """Number of this holder, from 1; above 1 the run is resumed."""
        return self._lock.epoch

    def append(self, receipt: Receipt) -> None:
        """Append the receipt of a block; raises as :meth:`append_row`."""
        self.append_row("receipt", receipt.to_json())

    def append_row(self, kind: str, row: Mapping[str, Any]) -> None:
        """Append a row of any kind: plain JSON.

        Raises:
            LockLost: another process took the run over.
            StoreError: rows before this one could not be committed, and this one was not taken.
        """
        if self._failure:
            raise self._failure
        line = encode_row(kind, row)
        with self._waiting_lock:
            self._waiting.append(line)

    def flush(self) -> None:
        """Commit every row appended so far: written, and accepted by every later holder of the run.

        Raises:
            LockLost: another process took the run over.
            StoreError: the rows could not be written; a later call tries again.
        """
        with self._commit_lock:
            with self._waiting_lock:
                num_lines = len(self._waiting)
                data = b"".join(self._waiting)
            if data:
                self._guarded.append(segment_name(self.epoch, self._num_segments), data, self._segment_bytes)
            self._lock.check()  # after the write, because a later holder reads the sizes after its claim
            with self._waiting_lock:
                del self._waiting[:num_lines]
            self._segment_bytes += len(data)
            self._failure = None
            if self._segment_bytes >= self._storage.segment_bytes:
                self._num_segments, self._segment_bytes = self._num_segments + 1, 0

    def check(self) -> None:
        """Raise LockLost when another process has taken the run over."""
        self._lock.check()

    @property
    def guard(self) -> Callable[[], None]:
        """:meth:`check` for storages of other processes (:meth:`pipeline.storage.Storage.guarded`): it can be pickled."""
        return self._lock.check

    def rows(self) -> Iterator[Receipt]:
        """Commit what waits, then yield every receipt of the run in the order of commit, earlier epochs first."""
        self.flush()
        return read_rows(self._storage)

    def _commit_in_background(self) -> None:
        """Commit; an error waits for the next append."""
        try:
            self.flush()
        except GigasegError as error:
            self._failure = error


def segment_name(epoch: int, number: int) -> str:
    """Return the name of the segment that a holder writes; ``number`` counts from 0, and names sort in the order of writing.

    Example:
        >>> segment_name(2, 0), segment_name(2, 1)
        ('000002.jsonl', '000002.next-000001.jsonl')
    """
    return f"{epoch:06d}.jsonl" if number == 0 else f"{epoch:06d}.next-{number:06d}.jsonl"


def read_rows(where: StorageLike, sizes: Mapping[str, int] | None = None) -> Iterator[Receipt]:
    """Yield every committed receipt in the order of commit, without holding the run, which may be going on.

    Where ``sizes`` (:func:`accepted_sizes`) are given, those that were committed when these were looked up.
    """
    return (Receipt.from_json(row) for row in read_rows_of(where, "receipt", sizes))


def read_rows_of(where: StorageLike, kind: str, sizes: Mapping[str, int] | None = None) -> Iterator[Row]:
    """Yield every committed row of one kind (``header``, ``receipt``, ...); otherwise as :func:`read_rows`."""
    storage = open_storage(where)
    for segment, limit in (_limits(storage, segment_names(storage)) if sizes is None else sizes).items():
        yield from _segment_rows(storage, segment, kind, limit)


def accepted_sizes(storage: Storage, epoch: int | None = None) -> dict[str, int]:
    """Return how many bytes of each segment of earlier epochs count, by name: what the header of this epoch says. None: of all epochs."""
    earlier = [name for name in segment_names(storage) if epoch is None or name < segment_name(epoch, 0)]
    return {name: min(storage.size(name) or 0, limit) for name, limit in _limits(storage, earlier).items()}


def encode_row(kind: str, row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of a segment."""
    body = json.dumps({kind: row}, separators=(",", ":")).encode()
    return MARK + b'%08x",' % crc32(body) + body[1:] + b"\n"


def segment_names(storage: Storage) -> list[str]:
    """Return the names of all segments, in the order of writing."""
    return [name for name in storage.list() if name.endswith(".jsonl")]


def _limits(storage: Storage, segments: Iterable[str]) -> dict[str, int]:
    """How many bytes of each segment count: the newest header decides for every segment before it, and the rest counts whole."""
    limits = dict.fromkeys(sorted(segments), sys.maxsize)
    for newest in reversed(limits):
        header = next(_segment_rows(storage, newest, "header", sys.maxsize), None)
        if header:
            return {name: header["accepts"].get(name, 0) if name < newest else sys.maxsize for name in limits}
    return limits


def _segment_rows(storage: Storage, segment: str, kind: str, limit: int) -> Iterator[Row]:
    start = b'{"%s":' % kind.encode()
    for line in _lines(storage, segment, limit):
        body = decode_line(line)
        if body.startswith(start):
            yield json.loads(body)[kind]


def _lines(storage: Storage, segment: str, limit: int) -> Iterator[bytes]:
    start, rest = 0, b""
    while piece := storage.get(segment, start, min(start + PIECE_BYTES, limit)):
        start += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


def decode_line(line: bytes) -> bytes:
    """Return the row in a line of a segment, as JSON; empty where the line is torn or damaged.

    A damaged end of line joins two rows: the second one is still read.
    """
    return _body(line) or _body(line[max(0, line.rfind(MARK)) :])


def _body(line: bytes) -> bytes:
    """The row in a line without its checksum; empty where the line is torn or damaged."""
    body = b"{" + line[18:]
    return body if line.startswith(MARK) and line[8:18] == b'%08x",' % crc32(body) else b""
