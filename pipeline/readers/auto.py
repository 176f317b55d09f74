"""The reader that a path's name asks for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import PurePosixPath

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.plugins import available, find
from pipeline.raster import Raster
from pipeline.readers import Reader, known_suffixes

__all__ = ["Auto"]


class Auto(Reader):
    """Opens a path with the first reader that claims its name; that reader gets the same options.

    Example::

        reader: {name: auto}
    """

    def claims(self, path: str) -> bool:
        """Whether any reader claims the path."""
        return self._reader(path) is not None

    def open(self, path: str) -> AbstractContextManager[Raster]:
        """Open with the reader that claims the path."""
        reader = self._reader(path)
        if reader is None:
            suffix = PurePosixPath(path).suffix.lower()
            known = known_suffixes()
            fix = nearest(suffix, known) or "Name the reader: reader: {name: tiff}."
            raise InputError(Problem(path, f"suffix {suffix!r}", one_of(known), fix))
        return reader.open(path)

    def _reader(self, path: str) -> Reader | None:
        for name in available("readers"):
            if name != "auto":
                reader: Reader = find("readers", name)(**self.model_dump())  # type: ignore[assignment]  # find knows only that it is a plug-in
                if reader.claims(path):
                    return reader
        return None
