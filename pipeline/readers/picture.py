"""Pictures: PNG, JPEG, WebP and BMP, always decoded whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.plugins import find
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._color import cmyk_to_rgb, palette_to_rgb
from pipeline.readers._files import bare_path, opening, reading
from pipeline.readers._layout import check_level, color_notes, make_header, resolve_layout
from pipeline.readers._mask_file import Mask, mask_beside
from pipeline.readers._orientation import stored_box, turn, upright_shape
from pipeline.readers._picture_file import PictureFile, content_kind, read_file
from pipeline.readers._remote_file import open_file
from pipeline.readers._world_file import companions, read_placement

__all__ = ["Picture"]

OTHER_READERS = {"TIFF": "tiff", "JPEG 2000": "jpeg2000"}


class Picture(Reader):
    """PNG, JPEG, WebP and BMP files, recognised by their content whatever their suffix.

    Pictures are turned upright by their EXIF orientation. Pixels whose opacity is 0 hold no data; opacity is no
    channel. Palette pictures are read as colours, or with ``palette: index`` as indices, for a truth whose palette indices are
    class ids. Grey of 1, 2 or 4 bits keeps its small values, 0 and 1 for one bit. CMYK becomes red, green and blue.
    A print resolution is no pixel size. The first read decodes the whole picture (``whole_bytes``), which stays in memory
    while the file is open.

    Example::

        reader: {name: picture}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jpeg", ".webp", ".jfif", ".png", ".jpg", ".jpe", ".bmp", ".dib")

    def companions(self, path: str) -> Sequence[str]:
        """The mask, and the world file and other files that georeference a picture."""
        return f"{path}.msk", *companions(path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the header; the first read decodes the pixels."""
        with opening(path):
            check_level(self, 1, path)
            file = bare_path(path)
            with open_file(path) as stream:
                kind = content_kind(stream.read(64))
                picture = read_file(stream, kind, stream.seek(0, os.SEEK_END), path) if kind not in OTHER_READERS else None
        if picture is None:  # such as a TIFF named .png
            other: Reader = find("readers", OTHER_READERS[kind])(**self.model_dump())  # type: ignore[assignment]  # find knows only that it is a plug-in
            with other.open(path) as raster:
                yield raster
            return
        with mask_beside(file, picture.shape[:2]) as mask:
            with opening(path):
                picture_raster = _PictureRaster(self, picture, mask, file, path)
            yield picture_raster


class _PictureRaster(Raster):
    """An open picture; the first read decodes it."""

    def __init__(self, options: Picture, picture: PictureFile, mask: Mask | None, file: str, path: str) -> None:
        self._path, self._file, self._picture, self._mask = path, file, picture, mask
        self._keeps_indices = options.palette == "index"
        self._table_NC = None if self._keeps_indices else picture.palette_NC
        channels = picture.shape[2] if self._table_NC is None else self._table_NC.shape[1]
        channels = 3 if picture.is_cmyk else channels
        shape = (*upright_shape(picture.shape[:2], picture.orientation), channels)
        alpha = (channels - 1,) if picture.has_alpha and channels > 1 else ()
        self._layout = resolve_layout(options, "yxs" if channels > 1 else "yx", shape if channels > 1 else shape[:2], path, alpha=alpha)
        if not self._layout.axes.startswith("yx"):
            raise InputError(Problem(path, f"reader.axes {self._layout.axes!r}", "y, x and channels last"))
        self._is_opacity = picture.has_alpha and not any(channel in self._layout.channels for channel in alpha)
        self.header = self._make_header(options, alpha)
        self._pixels_YXS: NDArray[Any] | None = None
        self._lock = threading.Lock()

    def _make_header(self, options: Picture, alpha: Sequence[int]) -> Header:
        picture, layout = self._picture, self._layout
        placement = read_placement(self._file, orientation=picture.orientation, shape=picture.shape[:2])
        is_palette = picture.palette_NC is not None
        return make_header(
            options,
            layout,
            np.dtype(picture.dtype),
            **placement.facts,
            has_mask=self._is_opacity or self._mask is not None,
            bits=picture.bits if not is_palette or self._keeps_indices else 0,
            is_color=layout.length("s") - len(alpha) == 3 and layout.channels == (0, 1, 2),
            is_lossy=picture.is_lossy,
            whole_bytes=picture.whole_bytes + (self._mask.whole_bytes if self._mask else 0),
            notes=(
                *color_notes(layout, palette=is_palette and self._keeps_indices, alpha=alpha),
                *picture.notes,
                *placement.notes,
            ),
        )

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Cut the box out of the decoded picture."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Cut the box out of the decoded picture; data are missing where opacity or the mask beside the file is 0."""
        picture = self._picture
        with reading(self._path, box):
            stored = stored_box(box, picture.shape[:2], picture.orientation)
            stored_YXS = self._decoded()[*stored.slices]
            colors_YXS, opacity_YX = self._colors(stored_YXS)
            pixels_YXS = np.moveaxis(turn(np.moveaxis(colors_YXS, -1, 0), picture.orientation), 0, -1)
            pixels = pixels_YXS if "s" in self._layout.axes or "c" in self._layout.axes else pixels_YXS[..., 0]
            declared_YX = opacity_YX != 0 if opacity_YX is not None and self._is_opacity else None
            if self._mask:
                masked_YX = self._mask.read(stored)
                declared_YX = masked_YX if declared_YX is None else declared_YX & masked_YX
            declared_YX = None if declared_YX is None else turn(declared_YX, picture.orientation)
            return self._layout.read(pixels, Box(0, 0, *box.shape), plane), declared_YX

    def _colors(self, stored_YXS: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return the channels (Y, X, S) of stored samples, and their opacity."""
        picture = self._picture
        if picture.palette_NC is not None:
            indices_YX = stored_YXS[..., 0]
            if self._table_NC is not None:
                colors_YXS = palette_to_rgb(indices_YX, self._table_NC)
                return colors_YXS, colors_YXS[..., -1] if picture.has_alpha else None
            return stored_YXS, palette_to_rgb(indices_YX, picture.palette_NC[:, -1:])[..., 0] if picture.has_alpha else None
        if picture.is_cmyk:
            return cmyk_to_rgb(~stored_YXS), None
        return stored_YXS, stored_YXS[..., -1] if picture.has_alpha else None

    def _decoded(self) -> NDArray[Any]:
        """Return all stored samples (Y, X, S)."""
        with self._lock:
            if self._pixels_YXS is None:
                self._pixels_YXS = self._picture.decode(self._file)
            return self._pixels_YXS
