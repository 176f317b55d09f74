"""What is done: the rows of a run, committed so that no crash loses or doubles one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.errors import GigasegError
from pipeline.records.holder import Holder
from pipeline.records.receipts import Receipt
from pipeline.records.repeating import repeating
from pipeline.records.run_lock import RunLock, hold_run
from pipeline.records.segments import accepted_sizes, encode_row, read_rows, segment_name
from pipeline.storage import Storage, StorageLike, open_storage

__all__ = ["Ledger"]

COMMIT_S = 0.5


class Ledger:
    """The ledger of a run, open for writing: see :meth:`open`.

    Rows are committed together, at most 0.5 s after they were appended; a row is done when :meth:`flush` has returned. Several
    threads may use a ledger at once.
    """

    def __init__(self, storage: Storage, lock: RunLock) -> None:
        self._storage, self._lock = storage, lock
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

        Args:
            where: the ledger's own storage, ``OUTPUT/ledger``; made where it is missing.
            take_over: take the run from a process that lives.
            stale_s: how long the process of another host must show no sign of life before it counts as gone, seconds.
            holder: who holds the run; None: this process.

        Raises:
            InputError: another process holds the run and lives.
            LockLost: another process took it over meanwhile.
            StoreError: the storage cannot be written.
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
                self._storage.append(segment_name(self.epoch, self._num_segments), data, self._segment_bytes)
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
