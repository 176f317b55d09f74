"""Bytes of a file by position: never fewer than asked for, never from behind the end, never after closing."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.readers._file_bytes import DecodedParts, FileBytes


@pytest.fixture
def file(tmp_path):
    """10 000 different bytes in a cycle, open."""
    (tmp_path / "a").write_bytes(bytes(range(250)) * 40)
    file = FileBytes(str(tmp_path / "a"))
    yield file
    file.close()


def test_read(file):
    """Bytes come from their place; what lies outside of the file is refused."""
    assert file.read(251, 3) == bytes([1, 2, 3])
    assert file.read(10_000, 0) == b""
    for start, count in ((9_999, 2), (-1, 1), (0, -1), (1 << 62, 1 << 62)):
        with pytest.raises(EOFError, match="truncated"):
            file.read(start, count)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_pixels_are_those_of_the_array(data, tmp_path_factory):
    """Whatever the padding of rows and pixels, a box is the slice of the array that was written."""
    height, width, samples, gap, padding = (data.draw(st.integers(1, high)) for high in (12, 12, 3, 3, 5))
    dtype = np.dtype(data.draw(st.sampled_from(["u1", "<u2", ">u2", "<f4"])))
    pixel_bytes = (samples + gap - 1) * dtype.itemsize
    row_bytes = width * pixel_bytes + padding
    content = np.random.default_rng(0).integers(0, 255, 7 + height * row_bytes, np.uint8)
    path = tmp_path_factory.mktemp("a") / "a"
    path.write_bytes(content.tobytes())
    shape, strides = (height, width, samples), (row_bytes, pixel_bytes, dtype.itemsize)
    expected = np.ndarray(shape, dtype, content.tobytes(), 7, strides)
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    file = FileBytes(str(path))
    found = np.array(file.pixels(7, (row_bytes, pixel_bytes), box, dtype, samples))
    file.close()
    assert found.tobytes() == np.array(expected[box.slices]).tobytes()


def test_a_file_that_shrinks(file, tmp_path):
    """A file that was cut while it is open fails the read; the process lives."""
    box, steps = Box(0, 0, 90, 100), (100, 1)
    assert file.pixels(0, steps, box, np.dtype(np.uint8)).shape == (90, 100, 1)
    os.truncate(tmp_path / "a", 100)
    with pytest.raises(EOFError, match="shorter"):
        file.pixels(0, steps, box, np.dtype(np.uint8))
    with pytest.raises(EOFError, match="truncated"):
        file.read(5_000, 10)


def test_a_stale_handle_is_opened_again(file, monkeypatch):
    """After a failure of the system, the next read opens the file anew."""
    failing = lambda *args: (_ for _ in ()).throw(OSError(116, "Stale file handle"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        with pytest.raises(OSError, match="Stale"):
            file.read(0, 4)
    assert file.read(0, 4) == bytes([0, 1, 2, 3])


def test_closing_while_a_view_is_held(file):
    """A view of the file stays readable after closing; new reads fail."""
    view = file.pixels(0, (100, 1), Box(0, 0, 5, 5), np.dtype(np.uint8))
    file.close()
    assert view[1, 2, 0] == 102
    for late in (lambda: file.read(0, 1), lambda: file.pixels(0, (100, 1), Box(0, 0, 5, 5), np.dtype(np.uint8))):
        with pytest.raises(ValueError, match="reading is over"):
            late()


def test_decoded_parts():
    """As many bytes as were allowed stay, the last that came; without any, each call decodes; threads decode a part once."""
    calls = []
    decode = lambda key: lambda: calls.append(key) or np.zeros(10, np.uint8)
    parts = DecodedParts(25)
    for key in (1, 2, 1, 3, 2, 1):
        parts.get(key, decode(key))
    assert calls == [1, 2, 3, 1]
    none = DecodedParts(0)
    for _ in range(2):
        none.get(9, decode(9))
    assert calls[4:] == [9, 9]
    threads = [threading.Thread(target=parts.get, args=(7, decode(7))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls.count(7) == 1
