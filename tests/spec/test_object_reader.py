"""A file of an object store reads as a file of a disk does."""

from __future__ import annotations

import io

import pytest

from pipeline.errors import StoreError
from pipeline.storage._object_reader import RangeReader

DATA = bytes(range(200))


def reader(asked):
    return RangeReader("s3://bucket/a", len(DATA), lambda start, stop: asked.append((start, stop)) or DATA[start:stop])


def test_parts_are_read_where_they_are_asked_for():
    """Each read is one request for what is inside the file; positions count from the start, from here or from the end."""
    asked = []
    file = reader(asked)
    assert file.seek(-3, io.SEEK_END) == 197
    assert (file.read(10), file.read(10), file.tell()) == (DATA[197:], b"", 200)
    file.seek(5)
    assert file.seek(5, io.SEEK_CUR) == 10
    assert (file.read(2), asked) == (DATA[10:12], [(197, 200), (10, 12)])
    with pytest.raises(ValueError, match="before the beginning"):
        file.seek(-1)


def test_a_buffer_reads_ahead():
    """Behind Python's buffer, small reads that follow each other are one request."""
    asked = []
    file = io.BufferedReader(reader(asked), 64)
    assert [file.read(4) for _ in range(16)] == [DATA[at : at + 4] for at in range(0, 64, 4)]
    assert asked == [(0, 64)]


def test_an_error_is_that_of_a_file():
    """Programs that read files expect OSError."""

    def fail(start, stop):
        raise StoreError("s3://bucket/a: the file has changed while it was read")

    with pytest.raises(OSError, match="has changed"):
        RangeReader("s3://bucket/a", 5, fail).read(2)
