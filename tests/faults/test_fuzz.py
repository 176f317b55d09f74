"""Randomly damaged files of every format end in pixels or in an error that names them."""

from __future__ import annotations

from tests.faults.fuzz_readers import fuzz
from tests.readers.sample_files import SAMPLES

TRIES = 500
BAD_READER = """
import ctypes, time
from contextlib import contextmanager
from pipeline.readers import Reader
__all__ = ["Bad"]
class Bad(Reader):
    @contextmanager
    def open(self, path):
        number = int(path.split("/")[-2])
        if number == 0:
            raise ValueError("not ours")
        if number == 1:
            ctypes.string_at(0)
        if number == 2:
            time.sleep(60)
        if number == 3:
            held = b"x" * (400 << 20)
        if number == 4:
            held = bytearray(20 << 30)
        raise OSError(5, "Input/output error")
        yield
"""


def test_damaged_files_end_cleanly(tmp_path):
    """Of 500 tries over every dialect none crashes, hangs, takes more than its memory, or raises what is not ours; some are read."""
    report = fuzz(TRIES, 1, tmp_path)
    assert not report.findings, "\n\n".join(report.findings)
    assert report.outcomes.total() == TRIES > 10 * len(SAMPLES)
    assert report.outcomes["read"] > TRIES // 20
    assert report.outcomes["InputError"] > TRIES // 20
    assert report.outcomes["BlockError"] > TRIES // 20


def test_what_is_looked_for_is_found(tmp_path, monkeypatch):
    """A reader that raises, crashes, hangs or takes memory is a finding each time, and the tries after it are made."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "reader.py").write_text(BAD_READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = fuzz(6, 1, tmp_path / "fuzz", reader="bad.reader", time_s=3)
    told = ["ValueError: not ours", "ended the process with -11", "took too long", "took 4", "MemoryError"]
    assert len(report.findings) == len(told)
    assert all(
        f"try {number}," in found and words in found for number, (words, found) in enumerate(zip(told, report.findings, strict=True))
    )
    assert report.outcomes == {"finding": 4, "OSError": 2}
