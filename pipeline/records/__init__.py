"""What a run records: its folder, the ledger of receipts, the lock that lets one process write.

Owns: run.json, log.txt, ledger segments, blocks and receipts as values. May import: storage, inputs and below.
Never touches: pixels, models, Ray.
"""

from __future__ import annotations

from pipeline.records.blocks import Blocks
from pipeline.records.committed import CommittedReceipts
from pipeline.records.compaction import compact_ledger
from pipeline.records.ledger import Ledger, read_rows, read_rows_of
from pipeline.records.ledger_tail import RESTART, LedgerTail
from pipeline.records.receipts import Block, Receipt, latest, place_of
from pipeline.records.run_folder import METRICS_FILE, RunFolder, hardware, refuse_overwriting, versions
from pipeline.records.run_lock import Holder, current_holder, hold_run, repeating
from pipeline.records.sign_of_life import Pulse, SignOfLife, wait_for_sign

__all__ = [
    "METRICS_FILE",
    "RESTART",
    "Block",
    "Blocks",
    "CommittedReceipts",
    "Holder",
    "Ledger",
    "LedgerTail",
    "Pulse",
    "Receipt",
    "RunFolder",
    "SignOfLife",
    "compact_ledger",
    "current_holder",
    "hardware",
    "hold_run",
    "latest",
    "place_of",
    "read_rows",
    "read_rows_of",
    "refuse_overwriting",
    "repeating",
    "versions",
    "wait_for_sign",
]
