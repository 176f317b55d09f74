"""What a run records: its folder, the ledger of receipts, the lock that lets one process write.

Owns: run.json, log.txt, ledger segments, blocks and receipts as values. May import: storage, inputs and below.
Never touches: pixels, models, Ray.
"""

from __future__ import annotations

from pipeline.records.environment import hardware, versions
from pipeline.records.holder import Holder
from pipeline.records.ledger import Ledger
from pipeline.records.overwriting import refuse_overwriting
from pipeline.records.receipts import Block, Receipt
from pipeline.records.run_folder import RunFolder
from pipeline.records.run_lock import current_holder
from pipeline.records.segments import read_rows, read_rows_of
from pipeline.records.tally import Tally, latest, tally

__all__ = [
    "Block",
    "Holder",
    "Ledger",
    "Receipt",
    "RunFolder",
    "Tally",
    "current_holder",
    "hardware",
    "latest",
    "read_rows",
    "read_rows_of",
    "refuse_overwriting",
    "tally",
    "versions",
]
