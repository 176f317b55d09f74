"""Notes on maps whose areas are not those on the ground."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.file_groups import first_of
from pipeline.raster import Header, affine, beyond_pole, coordinate_system, ground_size, has_equal_rows, map_grid, map_scale

if TYPE_CHECKING:
    from pipeline.inputs.headers import Image

__all__ = ["map_notes"]

MOST_OFF = 0.01  # share of the area by which a map may differ from the ground before a note says so
SIDE = 1000.0  # of the square that is compared, metres on the map
SYSTEM_TAGS = ("34735", "34736", "34737")
ORIGIN = {"33550": {"type": 12, "value": [1.0, 1.0, 0.0]}, "33922": {"type": 12, "value": [0.0] * 6}}


def map_notes(images: Sequence[Image]) -> list[str]:
    """Return notes about maps that reach beyond a pole, and about projections whose areas are wrong by over 1 %.

    A projection is looked at by PROJ, at the centre of its first image; without the extra ``geo`` none is.
    """
    beyond = [image.name for image in images if beyond_pole(image.header)]
    note = "the map reaches beyond a pole, where nothing has an area: are latitude and longitude swapped?"
    notes = [f"{first_of(beyond, 3)}: {note}"] if beyond else []
    first: dict[str, Image] = {}
    for image in images:
        if image.header.unit == "meter" and has_equal_rows(image.header) and image.header.pixel_size_from != "reader.pixel_size":
            system = json.dumps([image.header.georeference.get(tag) for tag in SYSTEM_TAGS], default=str)
            first.setdefault(system, image)
    notes += _other_sizes(images)
    notes += [f"{image.name}: {note}" for image in first.values() if (note := _unknown_system(image.header))]
    for image in first.values() if importlib.util.find_spec("rasterio") else ():
        ratio = _area_ratio(image.header)
        if ratio is not None and abs(ratio - 1) > MOST_OFF:
            what = f"areas of its map projection are {ratio:.3g} times those on the ground, and the report's are those of the map"
            notes.append(f"{image.name}: {what}; reproject it, such as to UTM, with gdalwarp")
    return notes


def _other_sizes(images: Sequence[Image]) -> list[str]:
    """Return a note if `reader.pixel_size` is not the size that maps have on the ground: areas in reports follow it."""
    told = []
    for header, name in ((image.header, image.name) for image in images if image.header.pixel_size_from == "reader.pixel_size"):
        size, unit, _ = map_scale(header.georeference)
        own = (
            ground_size(replace(header, pixel_size=size, unit=unit, pixel_size_from=""))
            if affine(header.georeference) is not None
            else None
        )
        if own is not None and header.pixel_size and not np.allclose(own, header.pixel_size, rtol=MOST_OFF):
            told.append(f"{name}, {own[0]:.4g} x {own[1]:.4g} m")
    note = "reader.pixel_size is not the size that a map has on the ground: areas follow reader.pixel_size"
    return [f"{note}; {first_of(told, 3)}"] if told else []


def _unknown_system(header: Header) -> str:
    """Return a note on a coordinate system that has a code which PROJ does not know; empty if there is none."""
    code = coordinate_system(header.georeference)
    grid = map_grid({**_system(header.georeference), **ORIGIN}) if code and importlib.util.find_spec("rasterio") else None
    if grid is None or not grid.wkt.startswith("ENGCRS"):
        return ""
    return f"PROJ does not know its coordinate system, EPSG:{code}: its units are taken as metres"


def _area_ratio(header: Header) -> float | None:
    """Return area on the map divided by area on the ground at the centre of an image; None: PROJ cannot tell."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError
    from rasterio.warp import transform

    matrix, grid = affine(header.georeference), map_grid({**_system(header.georeference), **ORIGIN})
    if matrix is None or grid is None:
        return None
    unit = (header.pixel_size[0] / np.hypot(*matrix[:2, 1])) if header.pixel_size else 1.0  # metres in a unit of the map
    side = SIDE / unit
    center = matrix @ (header.shape[1] / 2, header.shape[0] / 2, 1.0)
    east, north = center[0] + np.array([0, side, side, 0]), center[1] + np.array([0, 0, side, side])
    try:
        longitude, latitude = transform(grid.wkt, "EPSG:4326", east.tolist(), north.tolist())
    except (CRSError, RasterioError, CPLE_BaseError):  # the latter for a system that PROJ cannot relate to the ground
        return None
    if not np.isfinite([longitude, latitude]).all():
        return None
    corners_N3 = _in_space(np.radians(longitude), np.radians(latitude))
    area = float(np.linalg.norm(np.cross(corners_N3[2] - corners_N3[0], corners_N3[3] - corners_N3[1]))) / 2
    return SIDE**2 / area if area else None


def _in_space(longitude_N: NDArray[np.float64], latitude_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points of the ellipsoid WGS84, in radians, as x, y and z (N, 3), metres: they have a place also at a pole."""
    axis, flattening = 6378137.0, 1 / 298.257223563
    squared = flattening * (2 - flattening)
    across = axis / np.sqrt(1 - squared * np.sin(latitude_N) ** 2)
    circle = across * np.cos(latitude_N)
    return np.stack([circle * np.cos(longitude_N), circle * np.sin(longitude_N), across * (1 - squared) * np.sin(latitude_N)], axis=1)


def _system(georeference: Mapping[str, Any]) -> dict[str, Any]:
    return {tag: georeference[tag] for tag in SYSTEM_TAGS if tag in georeference}
