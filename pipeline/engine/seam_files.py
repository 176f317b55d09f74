"""What blocks that blend with each other leave for each other: a file a block, until their image is finished.

A part is numpy's ``.npz``, uncompressed: arrays and numbers by name, each read when it is asked for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.job import Job
from pipeline.errors import BlockError
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.storage import PARTIAL, appears_whole, store_errors

__all__ = ["SEAM_FOLDER", "SeamFiles", "seam_folders"]

SEAM_FOLDER = "parts"
"""Folder of the output."""

AGAIN = "`gigaseg retry` makes them again"


def seam_folders(image: Image) -> tuple[str, str]:
    """Where parts of an image may lie, below the output folder: no other image's name leads there; and while they are removed."""
    place = f"{SEAM_FOLDER}/{hashlib.blake2b(image.name.encode(), digest_size=12).hexdigest()}"
    return place, place + PARTIAL


class SeamFiles:
    """The parts of one image."""

    def __init__(self, job: Job, image: Image) -> None:
        self.output = job.output
        self.folder, self.gone = (job.output / place for place in seam_folders(image))

    def write(self, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
        """Write the part of a block, to last; values that are None are left out.

        Returns:
            Its size in bytes by path, relative to the output folder.

        Raises:
            StoreError: the disk refuses.
        """
        path = self._path(block)
        with appears_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **{name: value for name, value in values.items() if value is not None})
            file.flush()
            os.fsync(file.fileno())
        return {str(path.relative_to(self.output)): path.stat().st_size}

    @contextmanager
    def open(self, block: Block) -> Iterator[Callable[[int, int], Mapping[str, Any] | None]]:
        """Give what finds the part of a row and a column of blocks, for one block; files stay open meanwhile.

        It gives None where that block failed.

        Raises:
            BlockError: a part is gone or damaged.
        """
        with ExitStack() as stack:

            @cache
            def part(row: int, col: int) -> Mapping[str, Any] | None:
                other = replace(block, row=row, col=col)
                return None if other.id in block.lost else stack.enter_context(_Part(self._path(other)))

            yield part

    def discard(self) -> None:
        """Remove all of them, at once: half of them are never seen.

        Raises:
            StoreError: the disk refuses.
        """
        with store_errors(self.folder):
            _remove(self.gone)  # an earlier try may have been cut off
            if self.folder.is_dir():
                self.folder.rename(self.gone)
                _remove(self.gone)

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block.plane}.{block.row}.{block.col}.npz"


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


class _Part(Mapping[str, Any], AbstractContextManager["_Part"]):
    """An open part. One that is damaged is removed, so that it is made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading(), ExitStack() as stack:
            self.file = np.load(stack.enter_context(path.open("rb")))
            self.close = stack.pop_all().close

    def __getitem__(self, name: str) -> Any:
        with self._reading():  # a name that is not there is damage
            return self.file[name]

    def __contains__(self, name: object) -> bool:
        return name in self.file.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.files)

    def __len__(self) -> int:
        return len(self.file.files)

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BlockError(f"{self.path}: scores of a block are gone; {AGAIN}") from error
        except (OSError, MemoryError):  # what may go away by itself
            raise
        except Exception as error:  # damage raises anything at all
            self.path.unlink(missing_ok=True)
            raise BlockError(f"{self.path}: scores of a block cannot be read ({type(error).__name__}: {error}); {AGAIN}") from error
