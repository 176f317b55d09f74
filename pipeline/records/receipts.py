"""Blocks, which are scheduled, and receipts, which come back: small values that travel between processes, without pixels."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.records import receipt_json
from pipeline.statistics import Counts, ObjectCounts

__all__ = ["Block", "Receipt", "latest", "place_of"]

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Block:
    """The unit of scheduling, retry, writing and progress.

    Attributes:
        phase: name of the phase in which it is done.
        plane: index of the (t, z) plane.
        box: its pixels, inside the image; for ``finish`` the whole plane.
        key: hash of all that its pixels depend on; a row of the ledger counts only under the same key.
        fit: what the phase that this one reads found for the image; empty where it reads none.
        attempt: how often it was charged with a failure before.
        lost: ids of the image's blocks that failed in the phase before.
        rests_on: digest of all blocks of the phases before; empty where it depends on none.
    """

    phase: str
    image: Image
    plane: int
    row: int
    col: int
    box: Box
    key: str = ""
    fit: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    lost: tuple[str, ...] = ()
    rests_on: str = ""

    @property
    def id(self) -> str:
        """Name for people, unique within a phase: ``NAME:plane.row.col``."""
        return f"{self.image.name}:{self.plane}.{self.row}.{self.col}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The small row that a finished (or failed) block returns; one JSON line of the ledger.

    Attributes:
        image: NAME.
        block: the block's id.
        count_key: hash of truth, classes and ignore, where pixels were counted; empty otherwise.
        written: hash of writers and classes, where the exports of a single-block image were written; empty otherwise.
        attempts: tries it took, this one included.
        cause: why it could not be done; empty when it was.
        transient: whether another try may succeed.
        seconds: share of each stage, ``{"read", "compute", "stitch", "count", "write"}``.
        peak_bytes: largest resident size of the process so far.
        digest: of the decoded pixels written; empty when nothing was.
        files: files written, relative to the output folder, with their size in bytes.
        counts: pixels counted; None when the phase counts nothing.
        objects: objects counted, by class id; None when the phase counts none.
        truth_error: why the truth could not be counted, with value and first position; empty when it could.
        payload: a summary that is reduced over the image, packed (:func:`pipeline.statistics.encode_summary`); of a phase that keeps the
            mask, JSON that names the file.
        numbers: integers that add over the blocks of an image, by name; shown in the report.
        notes: anything else worth a line in the log, such as a halved batch.
        warnings: why the result of the image is to be treated with care; shown with the result and in the report.
        actor: the process that did it, HOST/PID; empty where it is not known.
    """

    phase: str
    image: str
    block: str
    key: str = ""
    count_key: str = ""
    written: str = ""
    attempts: int = 1
    cause: str = ""
    transient: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    digest: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    counts: Counts | None = None
    objects: Mapping[int, ObjectCounts] | None = None
    truth_error: str = ""
    payload: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    actor: str = ""

    @property
    def ok(self) -> bool:
        """Whether the block was done."""
        return not self.cause

    def brief(self) -> Receipt:
        """Return what a list of failures needs of the receipt: many blocks may fail."""
        return Receipt(  # several times as fast as `replace`
            phase=sys.intern(self.phase),
            image=sys.intern(self.image),
            block=self.block,
            count_key=self.count_key,
            attempts=self.attempts,
            cause=self.cause,
            seconds=_NOTHING,
            files=_NOTHING,
            truth_error=self.truth_error,
            numbers=_NOTHING,
            notes=self.notes,
            warnings=self.warnings,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: :mod:`pipeline.records.receipt_json` says how."""
        return receipt_json.encode({one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Receipt:
        """Return the receipt that :meth:`to_json` wrote, of this version or an earlier one; raises GigasegError for any other row."""
        try:
            return cls(**receipt_json.decode(row))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise _unknown_row(row.get("block"), str(error).replace("Receipt.__init__() ", "")) from error


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


def place_of(block_id: str, grid: tuple[int, int, int]) -> int | None:
    """Return the place of a block in the plan's order, plane by plane, row by row; None where the image has no such block.

    Args:
        block_id: of the block.
        grid: planes, rows and columns of the image's blocks.

    Raises:
        GigasegError: it is no id of a block.

    Example:
        >>> place_of("a:0.1.2", (1, 2, 3)), place_of("a:0.2.0", (1, 2, 3))
        (5, None)
    """
    try:
        plane, row, col = map(int, block_id[block_id.rfind(":") + 1 :].split("."))
    except ValueError as error:
        raise _unknown_row(block_id, "expected NAME:plane.row.col") from error
    planes, rows, cols = grid
    return (plane * rows + row) * cols + col if plane < planes and row < rows and col < cols else None


def _unknown_row(block: object, why: str) -> GigasegError:
    """Return the error for a row of a ledger that is whole, and is none of this version's."""
    way_out = "read it with the version of gigaseg that wrote it, or start over with `run --fresh`"
    return GigasegError(f"ledger/*.jsonl: this version cannot read the row of block {block!r} ({why}): {way_out}")
