"""Readers: each opens one kind of file and reads its pixels by region.

Owns: what a file says about itself (:class:`~pipeline.raster.Header`, without reading a pixel), the pixels of a box.
May import: storage and base modules. Never touches: normalisation, resampling, caches of pixels.
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
    """Base of the readers; its fields are the options of all. A new reader lists its ``suffixes``, lower case, and opens a path."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    axes: str | None = Field(default=None, description="what the array's axes are, such as zyx or cyx; null: as the file says")
    channels: Integers | None = Field(default=None, description="which channels, in this order; null: all")
    level: int = Field(default=0, ge=0, description="pyramid level, 0 is the largest")
    pixel_size: float | None = Field(default=None, gt=0, description="overrides the file: micrometres, metres for maps")
    planes: dict[str, int | Integers] | None = Field(
        default=None, description="which planes of a stack, such as {z: 3} or {t: [0, 1, 2]}; null: all"
    )

    def claims(self, path: str) -> bool:
        """Whether this reader opens such paths, judged by the name alone."""
        return path.lower().rstrip("/").endswith(self.suffixes)

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Raster]:
        """Open a file or a store; closing the context closes it.

        Raises:
            InputError: the file cannot be opened, or the options do not fit it.
            OSError: the system failed, and another try may succeed.
        """


def known_suffixes() -> tuple[str, ...]:
    """Return every suffix that a reader claims, lower case, longest first: files of a folder that have one are images."""
    readers = [find("readers", name) for name in available("readers")]
    suffixes = {suffix for reader in readers if issubclass(reader, Reader) for suffix in reader.suffixes}
    return tuple(sorted(suffixes, key=lambda suffix: (-len(suffix), suffix)))
