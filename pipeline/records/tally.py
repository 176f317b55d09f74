"""What the receipts of a run amount to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.records.receipts import Receipt

__all__ = ["Tally", "latest", "tally"]


def latest(rows: Iterable[Receipt]) -> dict[tuple[str, str], Receipt]:
    """Return the receipt that holds for each (phase, block), which is its last one, in the order of these rows.

    Example:
        >>> rows = [Receipt("predict", "a", "a:0.0.0", cause="no memory"), Receipt("predict", "a", "a:0.0.0")]
        >>> latest(rows)["predict", "a:0.0.0"].ok
        True
    """
    last: dict[tuple[str, str], Receipt] = {}
    for row in rows:
        last.pop((row.phase, row.block), None)
        last[row.phase, row.block] = row
    return last


@dataclass
class Tally:
    """All that a report needs of a run's receipts, gathered in one pass.

    Attributes:
        receipts: the brief receipt (:meth:`Receipt.brief`) that holds for each (phase, block), in the order of commit.
        seconds: of all blocks, by stage; work that was done again counts again.
        phase_seconds: the same, by phase.
        peak_bytes: of the largest process.
    """

    receipts: dict[tuple[str, str], Receipt] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0


def tally(rows: Iterable[Receipt]) -> Tally:
    """Gather receipts; the last one of a block holds."""
    total = Tally()
    shared: dict[tuple[str, str], Receipt] = {}  # blocks that were fitted or finished differ in nothing that a report shows
    for row in rows:
        brief = row.brief()
        total.receipts.pop((row.phase, row.block), None)
        total.receipts[row.phase, row.block] = brief if brief.block else shared.setdefault((brief.phase, brief.image), brief)
        total.peak_bytes = max(total.peak_bytes, row.peak_bytes)
        for stage, seconds in row.seconds.items():
            total.seconds[stage] = total.seconds.get(stage, 0.0) + seconds
            total.phase_seconds[row.phase] = total.phase_seconds.get(row.phase, 0.0) + seconds
    return total
