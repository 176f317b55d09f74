"""Temporary files that a phase leaves for a later phase of the same image, in the output folder until the image is finished.

Each block has one file per kind: an uncompressed ``.npz``, whose arrays are read when they are asked for. Pixels are in Zarr groups, to
which blocks write as to a mask. A receipt names both among its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np

from pipeline.engine.job import Job, mask_store, part_folder
from pipeline.errors import BlockError
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.storage import Storage

__all__ = ["PartFiles", "discard_parts"]

RETRY = "Run `gigaseg retry` to compute them again."


def discard_parts(storage: Storage, image: Image) -> None:
    """Remove the temporary files of an image, in an order in which no reader takes what is left of a mask for the mask.

    Raises:
        StoreError: the disk refuses.
    """
    for name in ("zarr.json", "0/zarr.json"):  # an object store removes one file after the other: without these an array is none
        storage.delete(f"{mask_store(image.name)}/{name}")
    storage.delete_tree(part_folder(image))


class PartFiles:
    """The temporary files of one image."""

    def __init__(self, job: Job, image: Image) -> None:
        self.storage, self.image, self.folder = job.storage, image, part_folder(image)
        self.grid = job.grid(image)

    def store_key(self, kind: str) -> str:
        """Return the key of a Zarr group for pixels of one kind, such as ``labels``."""
        return f"{self.folder}/{kind}"

    def write(self, kind: str, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
        """Write the file of a block, and sync it to the disk; values that are None are left out.

        Returns:
            The size in bytes by key.

        Raises:
            StoreError: the disk refuses.
        """
        key = self._key(kind, block.plane, block.row, block.col)
        with self.storage.local_file(key) as path, path.open("wb") as file:
            np.savez(file, **{name: value for name, value in values.items() if value is not None})
        return {key: self.storage.size(key) or 0}

    @contextmanager
    def open(self, kind: str, plane: int, lost: tuple[str, ...] = ()) -> Iterator[Callable[[int, int], Mapping[str, Any] | None]]:
        """Yield a function that returns the file of the block at a (row, column), or None where that block is among the ``lost`` ids.

        Files stay open until the context ends.

        Raises:
            BlockError: a file is gone or damaged.
        """
        with ExitStack() as stack:

            @cache
            def part_file(row: int, col: int) -> Mapping[str, Any] | None:
                if f"{self.image.name}:{plane}.{row}.{col}" in lost:
                    return None
                return stack.enter_context(_PartFile(self.storage, self._key(kind, plane, row, col)))

            yield part_file

    def each(
        self, kind: str, lost: tuple[str, ...] = (), bands: Iterable[int] | None = None
    ) -> Iterator[tuple[tuple[int, int, int], Mapping[str, Any]]]:
        """Yield (plane, row, column) and file of each block that is not ``lost``, in the plan's order; files stay open until the row ends.

        ``bands`` are rows of blocks, counted plane by plane; None: all.
        """
        rows, cols = self.grid.num_blocks
        for band in range(self.image.header.num_planes * rows) if bands is None else bands:
            plane, row = divmod(band, rows)
            with self.open(kind, plane, lost) as part_file:
                for col in range(cols):
                    if (file := part_file(row, col)) is not None:
                        yield (plane, row, col), file

    def discard(self) -> None:
        """Remove all of them at once: no reader ever sees only some of them.

        Raises:
            StoreError: the disk refuses.
        """
        discard_parts(self.storage, self.image)

    def _key(self, kind: str, plane: int, row: int, col: int) -> str:
        return f"{self.folder}/{kind}/{plane}.{row}.{col}.npz"


class _PartFile(Mapping[str, Any], AbstractContextManager["_PartFile"]):
    """An open temporary file; a damaged one is removed, so that it is written again."""

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
            raise BlockError(f"{self.storage}/{self.key}: what an earlier phase left is gone. {RETRY}") from error
        except (OSError, MemoryError, SystemError):  # may succeed on another try; numpy raises SystemError if threads parse headers at once
            raise
        except Exception as error:  # a damaged file may raise anything
            self.storage.delete(self.key)
            raise BlockError(
                f"{self.storage}/{self.key}: what an earlier phase left cannot be read ({type(error).__name__}: {error}). {RETRY}"
            ) from error
