"""Where an image that GDAL opens lies on a map: affine, control points and rational polynomials as GeoTIFF tags."""

from __future__ import annotations

import math
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.raster import MapGrid, coarsened, map_scale, map_tags
from pipeline.readers._map_checks import POINTS_NOTE, RPC_NOTE, RPC_TAG, check_place, control_points
from pipeline.readers._world_file import Placement

if TYPE_CHECKING:
    import rasterio

__all__ = ["place_of_dataset"]

Tags = dict[str, dict[str, Any]]
RPC_NUMBERS = ("err_bias", "err_rand", "line_off", "samp_off", "lat_off", "long_off", "height_off")
RPC_SCALES = ("line_scale", "samp_scale", "lat_scale", "long_scale", "height_scale")
RPC_TERMS = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")  # 20 each
NO_PLACE = "the file has no georeference: masks have none, and areas are in pixels"


def place_of_dataset(dataset: rasterio.DatasetReader, zoom: tuple[float, float], wanted_crs: str = "") -> Placement:
    """Return the place of the full-size image, for a level that is ``zoom`` (y, x) times coarser; notes on what is missing.

    ``wanted_crs`` is a coordinate system that the file states, to be told where GDAL does not understand it.
    """
    notes: list[str] = []
    crs = dataset.crs
    tags: Tags = {}
    points, points_crs = dataset.gcps
    matrix = None if points else _matrix(dataset)
    if points:
        tags = _written(crs=points_crs, gcps=points)
        notes.append(POINTS_NOTE.format(len(points)))
    elif matrix is not None:
        tags = _tags_of(matrix, crs, notes)
    elif crs is not None:
        notes.append("the file names a coordinate system and no place in it")
    if matrix is not None and crs is None:
        notes.append(f"the coordinate system {wanted_crs[:80]!r} is not known to PROJ: it is left out" if wanted_crs else NO_CRS)
    kept, more = check_place(tags, dataset.shape)
    notes += more
    if dataset.rpcs is not None:
        kept[RPC_TAG] = {"type": 12, "value": _rpc_values(dataset.rpcs)}
        notes += [] if points or matrix is not None else [RPC_NOTE]
    elif not points and matrix is None and crs is None:
        notes.append(NO_PLACE)
    kept = kept if zoom == (1.0, 1.0) else coarsened(kept, zoom)
    size, unit, offset = control_points(kept) if points else map_scale(kept)
    return Placement(kept, size, unit if size else "", offset if size else (0.0, 0.0), "GDAL" if size else "", notes=tuple(notes))


NO_CRS = "the file places the image in no coordinate system: the size of a pixel has no unit"


def _matrix(dataset: rasterio.DatasetReader) -> tuple[float, ...] | None:
    """Return the affine of a dataset, as rasterio's; None where it has none."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotGeoreferencedWarning)
        matrix = tuple(dataset.transform)[:6]
        _ = dataset.get_transform()
    is_set = not any(issubclass(one.category, NotGeoreferencedWarning) for one in caught)
    return matrix if is_set and matrix != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) else None


def _tags_of(matrix: tuple[float, ...], crs: Any, notes: list[str]) -> Tags:
    from rasterio.errors import CRSError

    a, b, c, d, e, f = matrix
    if not all(map(math.isfinite, matrix)) or a * e == b * d:
        notes.append("the file's affine is no place on a map: it is ignored")
        return {}
    wkt = crs.to_wkt() if crs is not None else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return map_tags(MapGrid((a, b, c, d, e, f), wkt))
        except CRSError as error:
            notes.append(f"the coordinate system cannot be written into masks, and is left out ({error})")
            return map_tags(MapGrid((a, b, c, d, e, f), ""))


def _written(**place: Any) -> Tags:
    """Return the tags that GDAL writes for control points."""
    import tifffile
    from rasterio.io import MemoryFile

    codes = (33922, 34735, 34736, 34737)
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore")
        with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", **place):
            pass
        with tifffile.TiffFile(BytesIO(memory.read())) as file:
            found = {code: tag for code in codes if (tag := file.pages.first.tags.get(code))}
            return {
                str(code): {"type": int(tag.dtype), "value": tag.value if isinstance(tag.value, str) else np.ravel(tag.value).tolist()}
                for code, tag in found.items()
            }


def _rpc_values(rpcs: Any) -> list[float]:
    """Return the 92 numbers of TIFF's tag of rational polynomials."""
    numbers = [getattr(rpcs, name) for name in (*RPC_NUMBERS, *RPC_SCALES)]
    terms = [number for name in RPC_TERMS for number in getattr(rpcs, name)]
    return [-1.0 if number is None else float(number) for number in (*numbers, *terms)]
