"""Seam files: what blocks that blend with each other leave for each other, one file a block, until their image is finished.

A seam file is numpy's ``.npz``, uncompressed: arrays and numbers by name. Each is read when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from pipeline.engine.job import Job
from pipeline.errors import BlockError
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.storage import Storage

__all__ = ["SEAM_FOLDER", "SeamFiles", "seam_folder"]

SEAM_FOLDER = "parts"
"""Folder below the output folder."""

RETRY = "Run `gigaseg retry` to compute them again."


def seam_folder(image: Image) -> str:
    """Return the folder of an image's seam files, below the output folder.

    It is named by a hash, so that no image's name leads into another image's folder.
    """
    return f"{SEAM_FOLDER}/{hashlib.blake2b(image.name.encode(), digest_size=12).hexdigest()}"


class SeamFiles:
    """The seam files of one image."""

    def __init__(self, job: Job, image: Image) -> None:
        self.storage, self.folder = job.storage, seam_folder(image)

    def write(self, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
        """Write the seam file of a block, and sync it to the disk; values that are None are left out.

        Returns:
            The size in bytes by key.

        Raises:
            StoreError: the disk refuses.
        """
        key = self._key(block)
        with self.storage.local_file(key) as path, path.open("wb") as file:
            np.savez(file, **{name: value for name, value in values.items() if value is not None})
        return {key: self.storage.size(key) or 0}

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
                return None if owner.id in block.lost else stack.enter_context(_SeamFile(self.storage, self._key(owner)))

            yield seam_file

    @property
    def exist(self) -> bool:
        """Whether any are there."""
        return bool(self.storage.list(f"{self.folder}/"))

    def discard(self) -> None:
        """Remove all of them at once: no reader ever sees only some of them.

        Raises:
            StoreError: the disk refuses.
        """
        self.storage.delete_tree(self.folder)

    def _key(self, block: Block) -> str:
        return f"{self.folder}/{block.plane}.{block.row}.{block.col}.npz"


class _SeamFile(Mapping[str, Any], AbstractContextManager["_SeamFile"]):
    """An open seam file; a damaged one is removed, so that it is written again."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage, self.key = storage, key
        with self._reading(), ExitStack() as stack:
            self.file = np.load(stack.enter_context(storage.open(key)))
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
            raise BlockError(f"{self.storage}/{self.key}: the scores of a block are gone. {RETRY}") from error
        except (OSError, MemoryError):  # may succeed on another try
            raise
        except Exception as error:  # a damaged file may raise anything
            self.storage.delete(self.key)
            raise BlockError(
                f"{self.storage}/{self.key}: the scores of a block cannot be read ({type(error).__name__}: {error}). {RETRY}"
            ) from error
