"""Map tiles for tests: GeoTIFF files of parts of one raster, written without GDAL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

UTM = 32645
SIZE = 0.5  # metres a pixel
ORIGIN = (3_000_000.0, 500_000.0)  # (y, x) of the first pixel's corner


def geo_tags(y: float, x: float, *, epsg: int = UTM, size: float = SIZE) -> list[tuple[Any, ...]]:
    """Return the tags that place the pixel (y, x) of the whole raster at the corner of a tile."""
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    tie = (0.0, 0.0, 0.0, ORIGIN[1] + x * SIZE, ORIGIN[0] - y * SIZE, 0.0)
    return [(33550, 12, 3, (size, size, 0.0), True), (33922, 12, 6, tie, True), (34735, 3, len(keys), keys, True)]


def save_tile(path: Path, pixels: NDArray[Any], y: float, x: float, *, nodata: float | None = None, **options: Any) -> Path:
    """Write pixels ([C,] Y, X) as a tile whose first pixel is the pixel (y, x) of the whole raster."""
    tags = geo_tags(y, x, **{key: options.pop(key) for key in ("epsg", "size") if key in options})
    tags += [] if nodata is None else [(42113, 2, 0, str(nodata), True)]
    pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and len(pixels) > 1 else pixels.reshape(pixels.shape[-2:])
    said = {"photometric": "rgb" if pixels.shape[2:] == (3,) else "minisblack", "metadata": None, "tile": (32, 32)} | options
    tifffile.imwrite(path, pixels, extratags=tags, **said)
    return path


def save_quarters(folder: Path, pixels: NDArray[Any], at: tuple[int, int], **options: Any) -> list[Path]:
    """Write pixels ([C,] Y, X) as four tiles that meet at a pixel, named by row and column."""
    folder.mkdir(parents=True, exist_ok=True)
    (y, x), (height, width) = at, pixels.shape[-2:]
    found = []
    for row, (y0, y1) in enumerate([(0, y), (y, height)]):
        for column, (x0, x1) in enumerate([(0, x), (x, width)]):
            found.append(save_tile(folder / f"tile_{row}_{column}.tif", pixels[..., y0:y1, x0:x1], y0, x0, **options))
    return found
