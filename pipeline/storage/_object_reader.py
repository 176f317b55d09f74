"""A file of an object store as a seekable file of Python."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from pipeline.errors import GigasegError

__all__ = ["RangeReader", "SeekableFile"]


class SeekableFile(io.RawIOBase):
    """A file whose bytes come from :meth:`read_at`; this keeps the position.

    Args:
        name: of the file, for messages.
        size: bytes.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name, self.size = name, size
        self._position = 0

    @abstractmethod
    def read_at(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes, fewer at the end of the file."""

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self.name}: position {start + offset} is before the beginning")
        self._position = start + offset
        return self._position

    @override
    def read(self, size: int | None = -1) -> bytes:
        data = self.read_at(self._position, self.size if size is None or size < 0 else size)
        self._position += len(data)
        return data

    @override
    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)


class RangeReader(SeekableFile):
    """Reads parts of a file where they are asked for. Errors are OSErrors, as those of any file.

    ``read_range`` returns the bytes from a position to another one; for the others see :class:`SeekableFile`.
    """

    def __init__(self, name: str, size: int, read_range: Callable[[int, int], bytes]) -> None:
        super().__init__(name, size)
        self._read_range = read_range

    @override
    def read_at(self, start: int, count: int) -> bytes:
        stop = min(start + count, self.size)
        try:
            return self._read_range(start, stop) if start < stop else b""
        except GigasegError as error:
            raise OSError(str(error)) from error
