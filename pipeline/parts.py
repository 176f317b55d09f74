"""What blocks that blend with each other leave for each other: a file a block, beside the masks, until their image is finished.

A part is numpy's ``.npz``, uncompressed: arrays and numbers by name, each read when it is asked for.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import BlockError
from pipeline.job import PARTS, Job
from pipeline.receipts import Block, Image
from pipeline.stores import PARTIAL, appears_whole, store_errors

__all__ = ["Part", "Parts"]

Part = Mapping[str, Any]
"""Arrays of numpy's by name; numbers have no axes."""


class Parts:
    """The parts of one image."""

    def __init__(self, job: Job, image: Image) -> None:
        self.job, self.image = job, image
        self.folder = job.path(image, PARTS)

    def write(self, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
        """Write the part of a block, to last; values that are None are left out.

        Returns:
            Its size in bytes by path, relative to the output folder.

        Raises:
            StoreError: the disk refuses.
        """
        path = self.folder / _name(block.plane, block.row, block.col)
        with appears_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **{name: value for name, value in values.items() if value is not None})
            file.flush()
            os.fsync(file.fileno())
        return {str(path.relative_to(self.job.output)): path.stat().st_size}

    @contextmanager
    def open(self, block: Block) -> Iterator[Callable[[int, int], Part | None]]:
        """Give what finds the part of a row and a column of blocks, for one block; files stay open meanwhile.

        It gives None where that block failed.

        Raises:
            BlockError: a part is gone or damaged.
        """
        with ExitStack() as stack:

            @cache
            def part(row: int, col: int) -> Part | None:
                other = replace(block, row=row, col=col)
                path = self.folder / _name(block.plane, row, col)
                return None if other.id in block.lost else stack.enter_context(_Open(path))

            yield part

    def discard(self) -> None:
        """Remove them if every block has one; where one is missing, doing it later will take all others."""
        gone = self.folder.with_name(self.folder.name + PARTIAL)
        with store_errors(self.folder):
            found = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
            rows, cols = self.job.grid(self.image).num_blocks
            planes = range(self.image.header.num_planes)
            if found.issuperset(_name(plane, row, col) for plane in planes for row in range(rows) for col in range(cols)):
                self.folder.rename(gone)  # at once, so that half of them are never taken for blocks that failed
            if gone.is_dir():
                shutil.rmtree(gone)


class _Open(Mapping[str, Any], AbstractContextManager["_Open"]):
    """An open part. One that is damaged is removed, so that it is made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading(), ExitStack() as stack:
            self.file = np.load(stack.enter_context(path.open("rb")))
            self.close = stack.pop_all().close

    def __getitem__(self, name: str) -> Any:
        with self._reading():
            return self.file[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.file)

    def __len__(self) -> int:
        return len(self.file)

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            self.path.unlink(missing_ok=True)
            raise BlockError(f"{self.path}: scores of a block cannot be read: {error}; `gigaseg retry` makes them again") from error


def _name(plane: int, row: int, col: int) -> str:
    return f"{plane}.{row}.{col}.npz"
