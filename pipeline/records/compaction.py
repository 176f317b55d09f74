"""Keep the ledger of a run that is begun again and again short: of each block the last receipt counts, of the plans the last one."""

from __future__ import annotations

from collections import deque
from typing import Any

from pipeline.records.ledger import Ledger, read_rows_of, segment_names
from pipeline.records.receipts import Receipt
from pipeline.storage import StorageLike, open_storage

__all__ = ["compact_ledger"]

MOST_SEGMENTS = 20
HOLDER_FILES = (("beat", ""), ("released", ""), ("epoch", ".json"))


def compact_ledger(where: StorageLike, most_segments: int = MOST_SEGMENTS) -> bool:
    """Write the rows that count into a segment of their own and remove the others, where there are more than so many segments.

    The new rows are committed before an old one is removed: a process that is killed meanwhile leaves rows twice, which count
    once. Files of earlier holders go as well.

    Args:
        where: the ledger's own storage, ``OUTPUT/ledger``.
        most_segments: how many segments may stay as they are.

    Returns:
        Whether it was done.

    Raises:
        AlreadyRunning: another process holds the run.
    """
    storage = open_storage(where)
    earlier = segment_names(storage) if storage.exists() else []
    if len(earlier) <= most_segments:
        return False
    with Ledger.open(storage) as ledger:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for row in read_rows_of(storage, "receipt"):
            receipt = Receipt.from_json(row)
            rows.pop((receipt.phase, receipt.block), None)  # the order is that of the last commits
            rows[receipt.phase, receipt.block] = row
        for plan in deque(read_rows_of(storage, "plan"), maxlen=1):
            ledger.append_row("plan", plan)
        for row in rows.values():
            ledger.append_row("receipt", row)
        ledger.flush()
        guarded = storage.guarded(ledger.guard)
        holders = [f"{kind}-{number:06d}{end}" for number in range(1, ledger.epoch) for kind, end in HOLDER_FILES]
        there = set(storage.list())
        for name in (*earlier, *(name for name in holders if name in there)):
            guarded.delete(name)
    return True
