"""A file of an object store as a seekable file of Python."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from pipeline.errors import GigasegError

__all__ = ["RangeReader"]


class RangeReader(io.RawIOBase):
    """Reads parts of a file where they are asked for. Errors are OSErrors, as those of any file.

    Args:
        name: of the file, for messages.
        size: bytes.
        read: returns the bytes from a position to another one.
    """

    def __init__(self, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self.name, self.size = name, size
        self._read, self._position = read, 0

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
    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        stop = min(self._position + len(target), self.size)
        if stop <= self._position:
            return 0
        try:
            data = self._read(self._position, stop)
        except GigasegError as error:
            raise OSError(str(error)) from error
        target[: len(data)] = data
        self._position += len(data)
        return len(data)
