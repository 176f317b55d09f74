"""The mask beside a picture, as GDAL writes it: ``.msk``, a TIFF that is not 0 where there is data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.plugins import find
from pipeline.readers import Reader
from pipeline.readers._remote_folders import has_file

__all__ = ["Mask", "mask_beside"]


@dataclass(frozen=True)
class Mask:
    """An open mask."""

    read: Callable[[Box], NDArray[np.bool_]]  # where a box of the level that is read holds data
    whole_bytes: int  # bytes that each read decodes


@contextmanager
def mask_beside(file: str, shape: tuple[int, int], *, step: int = 1) -> Iterator[Mask | None]:
    """Open the mask of an image of this height and width; None if there is no such file.

    Args:
        file: local path or URL of the image.
        shape: height and width of its largest level, as stored.
        step: how many times smaller the level is that is read.

    Raises:
        InputError: the mask cannot be opened, or has another size.
    """
    path = f"{file}.msk"
    if not has_file(path):
        yield None
        return
    tiff: Reader = find("readers", "tiff")()  # type: ignore[assignment]  # find knows only that it is a plug-in
    with tiff.open(path) as raster:
        if raster.header.shape != shape:
            height, width = raster.header.shape
            raise InputError(Problem(path, f"a mask of {height} x {width} pixels", f"the image's {shape[0]} x {shape[1]}"))

        def read(box: Box) -> NDArray[np.bool_]:
            rows, columns = (
                np.minimum(np.arange(start, stop) * step, size - 1)
                for start, stop, size in ((box.y0, box.y1, shape[0]), (box.x0, box.x1, shape[1]))
            )
            around = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
            mask_CYX = raster.read(around)[:, rows[:, np.newaxis] - around.y0, columns - around.x0]
            has_data_YX: NDArray[np.bool_] = (mask_CYX != 0).any(axis=0)
            return has_data_YX

        yield Mask(read, raster.header.whole_bytes)
