"""The reader that a path's name asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import PurePosixPath

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.plugins import available, build
from pipeline.raster import Raster
from pipeline.readers import Member, Reader, advice, known_suffixes
from pipeline.readers._files import bare_path, is_remote

__all__ = ["Auto"]

READERS = {
    "GTiff": "tiff",
    "COG": "tiff",
    "JP2OpenJPEG": "jpeg2000",
    "PNG": "picture",
    "JPEG": "picture",
    "WEBP": "picture",
    "BMP": "picture",
}
"""Readers of what GDAL also opens, by GDAL's name of the format."""


class Auto(Reader):
    """Opens a path with the first reader that claims its name; that reader gets the same options.

    Example::

        reader: {name: auto}
    """

    def claims(self, path: str) -> bool:
        """Whether any reader claims the path."""
        return self._reader(path) is not None

    def missing(self, path: str) -> str:
        """What the reader of the path needs."""
        reader = self._reader(path)
        return reader.missing(path) if reader else ""

    def why_not(self, path: str) -> str:
        """What the reader of the path says."""
        reader = self._reader(path)
        return reader.why_not(path) if reader else ""

    def companions(self, path: str) -> Sequence[str]:
        """Those of the reader of the path; by its name alone, as files that are left out are asked as well."""
        reader = self._reader(path) or (self._geo if not self._geo.missing(path) and not advice(PurePosixPath(path).suffix) else None)
        return reader.companions(path) if reader else ()

    def members(self, path: str) -> Sequence[Member]:
        """Those that the reader of the path finds."""
        reader = self._reader(path) or self._recognising(path)
        return reader.members(path) if reader and not reader.missing(path) else ()

    def open(self, path: str) -> AbstractContextManager[Raster]:
        """Open with the reader that claims the path; where none does, with ``geo`` if GDAL recognises the file."""
        reader = self._reader(path) or self._recognising(path)
        if reader is None:
            suffix = PurePosixPath(path).suffix.lower()
            known = known_suffixes()
            todo = advice(suffix)
            fix = f"{todo[0].upper()}{todo[1:]}." if todo else nearest(suffix, known) or "Name the reader: reader: {name: tiff}."
            raise InputError(Problem(path, f"suffix {suffix!r}", one_of(known), fix))
        if command := reader.missing(path):
            raise InputError(Problem(path, "a format that needs packages that are not installed", "", f"Install them: {command}"))
        return _checked(reader, path) if is_remote(path) else reader.open(path)

    def _reader(self, path: str) -> Reader | None:
        """Return the first reader that claims the path and has its packages, else the first that claims it."""
        lacking: Reader | None = None
        for reader in self._readers:
            if reader.claims(path):
                if not reader.missing(path):
                    return reader
                lacking = lacking or reader
        return lacking

    def _recognising(self, path: str) -> Reader | None:
        """Return the reader of a local file whose name says nothing and which GDAL recognises; the reader by what GDAL calls it."""
        from pipeline.readers._geo_dataset import driver_of

        if is_remote(path) or self._geo.missing(path) or advice(PurePosixPath(path).suffix):
            return None
        driver = driver_of(bare_path(path))
        return self._named(READERS.get(driver, "geo")) if driver else None

    @cached_property
    def _geo(self) -> Reader:
        return self._named("geo")

    def _named(self, name: str) -> Reader:
        reader: Reader = build("readers", {"name": name, **self.model_dump()})
        return reader

    @cached_property
    def _readers(self) -> Sequence[Reader]:
        """Every other reader with these options; built once, because each file of a folder asks them several times."""
        options = self.model_dump()
        return [build("readers", {"name": name, **options}) for name in available("readers") if name != "auto"]


@contextmanager
def _checked(reader: Reader, path: str) -> Iterator[Raster]:
    """Open a file at a URL; refuse a slide that another reader, which needs a disk, reads otherwise."""
    with reader.open(path) as raster:
        if scanner := getattr(raster, "scanner", ""):
            found, way_out = f"a slide of a {scanner} scanner at a URL", "Copy it to a disk, or convert it to OME-Zarr: gigaseg convert."
            raise InputError(Problem(path, found, "a path of this machine", way_out))
        yield raster
