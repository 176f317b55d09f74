"""Seam files: what blocks that blend with each other leave for each other, one file a block, until their image is finished.

A seam file is numpy's ``.npz``, uncompressed: arrays and numbers by name. Each is read when it is asked for.
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
"""Folder below the output folder."""

RETRY = "Run `gigaseg retry` to compute them again."


def seam_folders(image: Image) -> tuple[str, str]:
    """Return the folder of an image's seam files, below the output folder, and its name while it is being removed.

    The folder is named by a hash, so that no image's name leads into another image's folder.
    """
    folder = f"{SEAM_FOLDER}/{hashlib.blake2b(image.name.encode(), digest_size=12).hexdigest()}"
    return folder, folder + PARTIAL


class SeamFiles:
    """The seam files of one image."""

    def __init__(self, job: Job, image: Image) -> None:
        self.output = job.output
        self.folder, self.gone = (job.output / folder for folder in seam_folders(image))

    def write(self, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
        """Write the seam file of a block, and sync it to the disk; values that are None are left out.

        Returns:
            The size in bytes by path, relative to the output folder.

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
        """Yield a function that returns the seam file at a (row, column) of blocks, or None where that block failed.

        Files stay open until the context ends.

        Raises:
            BlockError: a seam file is gone or damaged.
        """
        with ExitStack() as stack:

            @cache
            def seam_file(row: int, col: int) -> Mapping[str, Any] | None:
                owner = replace(block, row=row, col=col)
                return None if owner.id in block.lost else stack.enter_context(_SeamFile(self._path(owner)))

            yield seam_file

    @property
    def exist(self) -> bool:
        """Whether any are there."""
        return self.folder.is_dir()

    def discard(self) -> None:
        """Remove all of them at once: no reader ever sees only some of them.

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


class _SeamFile(Mapping[str, Any], AbstractContextManager["_SeamFile"]):
    """An open seam file; a damaged one is removed, so that it is written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading(), ExitStack() as stack:
            self.file = np.load(stack.enter_context(path.open("rb")))
            self.close = stack.pop_all().close

    def __getitem__(self, name: str) -> Any:
        with self._reading():  # a missing name means a damaged file
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
            raise BlockError(f"{self.path}: the scores of a block are gone. {RETRY}") from error
        except (OSError, MemoryError):  # may succeed on another try
            raise
        except Exception as error:  # a damaged file may raise anything
            self.path.unlink(missing_ok=True)
            raise BlockError(f"{self.path}: the scores of a block cannot be read ({type(error).__name__}: {error}). {RETRY}") from error
