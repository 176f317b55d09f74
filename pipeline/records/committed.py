"""The receipts of a ledger, gone over as often as needed without holding them: a run may have a million."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.records.ledger import accepted_sizes, read_rows, read_rows_of
from pipeline.records.receipts import Receipt
from pipeline.storage import StorageLike, open_storage

__all__ = ["CommittedReceipts"]

ID_BYTES = 16


class CommittedReceipts:
    """The receipts that a ledger holds when this is made, each with whether it is the last one of its block, which is the one that holds.

    A flag a row is kept; each pass reads the ledger again, in the order of commit.

    Args:
        where: the ledger's own storage, ``OUTPUT/ledger``.

    Example:
        >>> from pipeline.records import Ledger
        >>> storage = open_storage("memory://committed-example")
        >>> with Ledger.open(storage) as ledger:
        ...     for cause in ("no memory", ""):
        ...         ledger.append(Receipt("predict", "a", "a:0.0.0", cause=cause))
        >>> [(receipt.ok, is_last) for receipt, is_last in CommittedReceipts(storage)]
        [(False, False), (True, True)]
    """

    def __init__(self, where: StorageLike) -> None:
        self._storage = open_storage(where)
        self._sizes = accepted_sizes(self._storage) if self._storage.exists() else {}
        ids = bytearray()
        for row in read_rows_of(self._storage, "receipt", self._sizes):
            ids += hashlib.blake2b(f"{row['phase']} {row['block']}".encode(), digest_size=ID_BYTES).digest()
        self._is_last = _are_last(np.frombuffer(ids, np.uint64).reshape(-1, 2)).tobytes()

    def __iter__(self) -> Iterator[tuple[Receipt, bool]]:
        """Yield each receipt, and whether no other one of its phase and block follows."""
        return ((receipt, is_last != 0) for is_last, receipt in zip(self._is_last, read_rows(self._storage, self._sizes), strict=False))

    @property
    def last(self) -> Iterator[Receipt]:
        """The receipt that holds of each phase and block."""
        return (receipt for receipt, is_last in self if is_last)


def _are_last(ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return for each id, two words, whether it does not occur again behind."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # equal ids stay in their order
    is_last = np.ones(len(ids), np.bool_)
    is_last[order[:-1]] = (ids[order[:-1]] != ids[order[1:]]).any(axis=1)
    return is_last
