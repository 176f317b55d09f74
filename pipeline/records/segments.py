"""How the ledger lies in its storage, and how its committed rows are read.

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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from zlib import crc32

from pipeline.records.receipts import Receipt
from pipeline.storage import Storage, StorageLike, open_storage

__all__ = ["accepted_sizes", "encode_row", "read_rows", "read_rows_of", "segment_name"]

PIECE_BYTES = 1 << 16
MARK = b'{"crc":"'
Row = dict[str, Any]


def segment_name(epoch: int, number: int) -> str:
    """Return the name of the segment that a holder writes; ``number`` counts from 0, and names sort in the order of writing.

    Example:
        >>> segment_name(2, 0), segment_name(2, 1)
        ('000002.jsonl', '000002.next-000001.jsonl')
    """
    return f"{epoch:06d}.jsonl" if number == 0 else f"{epoch:06d}.next-{number:06d}.jsonl"


def read_rows(where: StorageLike) -> Iterator[Receipt]:
    """Yield every committed receipt in the order of commit, without holding the run, which may be going on.

    Args:
        where: the ledger's own storage, ``OUTPUT/ledger``.

    Raises:
        StoreError: it cannot be read.
    """
    return (Receipt.from_json(row) for row in read_rows_of(where, "receipt"))


def read_rows_of(where: StorageLike, kind: str) -> Iterator[Row]:
    """Yield every committed row of one kind (``header``, ``receipt``, ...); otherwise as :func:`read_rows`."""
    storage = open_storage(where)
    for segment, limit in _limits(storage, _segments(storage)).items():
        yield from _segment_rows(storage, segment, kind, limit)


def accepted_sizes(storage: Storage, epoch: int) -> dict[str, int]:
    """Return how many bytes of each segment of earlier epochs count, by name: what the header of this epoch says."""
    earlier = [name for name in _segments(storage) if name < segment_name(epoch, 0)]
    return {name: min(storage.size(name) or 0, limit) for name, limit in _limits(storage, earlier).items()}


def encode_row(kind: str, row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of a segment."""
    body = json.dumps({kind: row}, separators=(",", ":")).encode()
    return MARK + b'%08x",' % crc32(body) + body[1:] + b"\n"


def _segments(storage: Storage) -> list[str]:
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
        # A damaged end of line joins two rows: the second one is still read.
        body = _body(line) or _body(line[max(0, line.rfind(MARK)) :])
        if body.startswith(start):
            yield json.loads(body)[kind]


def _lines(storage: Storage, segment: str, limit: int) -> Iterator[bytes]:
    start, rest = 0, b""
    while piece := storage.get(segment, start, min(start + PIECE_BYTES, limit)):
        start += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


def _body(line: bytes) -> bytes:
    """The row in a line without its checksum; empty where the line is torn or damaged."""
    body = b"{" + line[18:]
    return body if line.startswith(MARK) and line[8:18] == b'%08x",' % crc32(body) else b""
