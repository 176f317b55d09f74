"""Readers: a path in, pixels by region out.

A reader answers two questions and no others: what is in this file (:class:`~pipeline.raster.Header`, from its header
alone), and what are the pixels of this box. It never normalises, resamples or caches pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar

from pydantic import Field, Strict

from pipeline.plugins import Plugin, available, find
from pipeline.raster import Header, Raster
from pipeline.readers._held_arrays import SCHEME, HeldArray, array_name, is_array_path

__all__ = ["SCHEME", "Header", "HeldArray", "Raster", "Reader", "array_name", "is_array_path", "known_suffixes"]

Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list


class Reader(Plugin):
    """Base of the readers. Its fields are the options that every reader has.

    A new reader says which ``suffixes`` it takes (lower case, longest first) and how to :meth:`open` a path.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    axes: str | None = Field(default=None, description="what the array's axes are, such as zyx or cyx; null: as the file says")
    channels: Integers | None = Field(default=None, description="which channels, in this order; null: all")
    level: int = Field(default=0, ge=0, description="pyramid level, 0 is the largest")
    pixel_size: float | None = Field(default=None, gt=0, description="overrides the file: micrometres, metres for maps")
    planes: dict[str, int | Integers] | None = Field(
        default=None, description="which planes of a stack, such as {z: 3} or {t: [0, 1, 2]}; null: all"
    )

    def claims(self, path: str) -> bool:
        """Whether this reader is for such a path, judged by its name alone."""
        return path.lower().rstrip("/").endswith(self.suffixes)

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Raster]:
        """Open a file or a store; closing the context closes it.

        Raises:
            InputError: the file cannot be opened, or the options do not fit it.
            OSError: the system fails in a way that may pass.
        """


def known_suffixes() -> tuple[str, ...]:
    """Every suffix that a reader takes, lower case, longest first: what counts as an image in a folder.

    Example:
        >>> ".ome.tif" in known_suffixes()
        True
    """
    readers = [find("readers", name) for name in available("readers")]
    suffixes = {suffix for reader in readers if issubclass(reader, Reader) for suffix in reader.suffixes}
    return tuple(sorted(suffixes, key=lambda suffix: (-len(suffix), suffix)))
