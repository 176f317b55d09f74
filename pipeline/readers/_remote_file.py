"""Files at URLs, read by ranges of bytes. All ranges of an open file come from one version of it.

Few large requests are faster than many small ones: ranges that lie close together are read by one request, several requests run
at once, and a small read, as of a header, takes what lies around it as well.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from typing_extensions import override

from pipeline.errors import BlockError, InputError, Problem
from pipeline.readers._files import asking, is_remote, local_path
from pipeline.storage import SeekableFile, Storage, entry_of, open_storage, read_version

__all__ = ["GROUP_BYTES", "RemoteFile", "close_ranges", "groups_of", "local_copy", "open_file", "place_of"]

AROUND = 1 << 16  # bytes that a small read takes, half of them before its start
MOST_AHEAD = 1 << 20  # bytes that a small read takes where reads go on from the last one
HELD_BYTES = 1 << 22  # of small reads, kept
MOST_GAP = 1 << 17  # bytes between two ranges that are cheaper to read than another request
GROUP_BYTES = 1 << 24  # of ranges that are read together
AT_ONCE = 8  # requests of one read
COPY_BYTES, COPIES = 1 << 23, 4  # of one request for a whole file, and how many are made at once


def place_of(url: str) -> tuple[Storage, str]:
    """Return the storage of the folder of a URL, and the last part of the URL."""
    folder, _, name = url.rstrip("/").rpartition("/")
    if not name or folder.endswith(":/"):
        raise InputError(Problem(url, "no file", "a URL of a file, such as s3://bucket/a.tif"))
    return open_storage(folder), name


def close_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (start, stop) that cover the given ones, which are merged where a gap is cheaper than a request.

    Example:
        >>> close_ranges([(10, 20), (0, 10), (20, 30), (1 << 20, (1 << 20) + 5)])
        [(0, 30), (1048576, 1048581)]
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= MOST_GAP:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def groups_of(ranges: Sequence[tuple[int, int]], num_bytes: int) -> Iterator[list[tuple[int, int]]]:
    """Split ranges (start, stop), in order, into groups of at most so many bytes, gaps that are read included.

    Example:
        >>> list(groups_of([(0, 6), (6, 9), (9, 30), (30, 31)], 10))
        [[(0, 6), (6, 9)], [(9, 30)], [(30, 31)]]
    """
    group: list[tuple[int, int]] = []
    held = 0
    for start, stop in ranges:
        is_near = bool(group) and 0 <= start - group[-1][1] <= MOST_GAP
        more = stop - group[-1][1] if is_near else stop - start
        if group and held + more > num_bytes:
            yield group
            group, held, more = [], 0, stop - start
        group.append((start, stop))
        held += more
    if group:
        yield group


class RemoteFile(SeekableFile):
    """A file at a URL, as a binary file object; threads may call :meth:`read_at` and :meth:`read_ranges` at once.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._storage, self._key = place_of(url)
        with asking(url):
            found = entry_of(self._storage, self._key)
        if found is None:
            raise FileNotFoundError(url)
        super().__init__(url, found.size)
        self.version = found.version
        self._next, self._ahead = 0, AROUND
        self._lock = threading.Lock()
        self._held: OrderedDict[int, bytes] = OrderedDict()  # small reads, by their first byte

    @override
    def read_at(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes, fewer at the end of the file.

        Raises:
            BlockError: the file was replaced or removed since it was opened.
            OSError: the server failed.
        """
        stop = min(start + count, self.size)
        if start >= stop:
            return b""
        if stop - start > MOST_AHEAD:
            return self._get(start, stop)
        with self._lock:
            for first, data in self._held.items():
                if first <= start and stop <= first + len(data):
                    return data[start - first : stop - first]
            is_next = 0 <= start - self._next < AROUND
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if is_next else AROUND
            first = self._next if is_next else max(0, start - AROUND // 2)
            data = self._get(first, min(max(stop, first + self._ahead), self.size))
            self._next = first + len(data)
            self._held[first] = data
            while sum(map(len, self._held.values())) > HELD_BYTES:
                self._held.popitem(last=False)
            return data[start - first : stop - first]

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of several ranges (start, stop); all are in memory at once.

        Raises:
            BlockError: the file was replaced or removed since it was opened.
            EOFError: a range ends behind the file.
            OSError: the server failed.
        """
        beyond = max((stop for _, stop in ranges), default=0)
        if beyond > self.size:
            raise EOFError(f"truncated, needs {beyond} bytes of {self.size}")
        merged = close_ranges(ranges)
        with ThreadPoolExecutor(max(1, min(AT_ONCE, len(merged)))) as pool:
            parts = [memoryview(part) for part in pool.map(lambda one: self._get(*one), merged)]
        firsts = [start for start, _ in merged]
        found = []
        for start, stop in ranges:
            index = bisect_right(firsts, start) - 1
            found.append(parts[index][start - firsts[index] : stop - firsts[index]])
        return found

    def copy_to(self, path: Path) -> None:
        """Write the whole file to a local path; some of its parts are in memory at once."""
        starts = range(0, self.size, COPY_BYTES)
        with path.open("wb") as file, ThreadPoolExecutor(COPIES) as pool:
            for start in starts[::COPIES]:
                at_once = range(start, min(start + COPIES * COPY_BYTES, self.size), COPY_BYTES)
                for data in pool.map(lambda at: self._get(at, min(at + COPY_BYTES, self.size)), at_once):
                    file.write(data)

    def _get(self, start: int, stop: int) -> bytes:
        with asking(self.name):
            data = read_version(self._storage, self._key, self.version, start, stop)
        if data is None or len(data) != stop - start:
            raise BlockError(f"{self.name}: changed while it was read")
        return data


def open_file(path: str) -> BinaryIO:
    """Open a file, at a local path or a URL, for reading."""
    return cast("BinaryIO", RemoteFile(path)) if is_remote(path) else Path(local_path(path)).open("rb")


@contextmanager
def local_copy(remote: RemoteFile) -> Iterator[str]:
    """Give the path of a local copy, which is removed at the end, for libraries that take no file object.

    Raises:
        BlockError: the file has changed since it was opened.
        InputError: the temporary folder has no room for it.
        OSError: the system or the server failed.
    """
    with tempfile.TemporaryDirectory(prefix="gigaseg-") as folder:
        room = shutil.disk_usage(folder).free // 2
        if remote.size > room:
            found = f"a file of {remote.size >> 20} MiB, which must be copied, and {room >> 20} MiB for it in {tempfile.gettempdir()}"
            raise InputError(
                Problem(remote.name, found, "more room", "Set TMPDIR to another folder, or convert the image to OME-Zarr or TIFF.")
            )
        copy = Path(folder, remote.name.rpartition("/")[2])
        remote.copy_to(copy)
        yield str(copy)
