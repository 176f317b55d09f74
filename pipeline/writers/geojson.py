"""GeoJSON: polygons of the classes, for QuPath and GIS programs."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from pydantic import Field
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.raster import ArrayRaster, Raster
from pipeline.storage import LocalStorage, Storage
from pipeline.writers import MaskMeta, Writer
from pipeline.writers.tiff import Tiff

if TYPE_CHECKING:
    from shapely import Geometry

__all__ = ["GeoJson"]

Shape = tuple[int, "Geometry"]  # class id and polygon


class GeoJson(Writer):
    """A mask as GeoJSON annotations for QuPath: one polygon for each connected area of a class, with holes.

    Areas are 4-connected, follow pixel edges and are not split at block borders; class 0 has no polygons. Coordinates are (x, y) in
    pixels of the image at full resolution, whose size is the member ``pixel_size``; for a georeferenced image they are map
    coordinates, and the file names the coordinate system. All polygons are in memory together.

    Example::

        writers: [{name: ome_zarr}, {name: geojson, simplify: 1}]
    """

    suffix: ClassVar[str] = ".geojson"
    folder: ClassVar[str] = "polygons"
    holds_mask: ClassVar[bool] = False

    simplify: float = Field(
        default=0.0, ge=0, description="how far edges may move, pixels of the mask; neighbours keep a common edge; 0: no simplification"
    )
    coordinates: Literal["auto", "pixel"] = Field(
        default="auto", description="auto: map coordinates if the image has a georeference, else pixels"
    )

    @override
    def missing(self) -> str:
        absent = [name for name in ("rasterio", "shapely") if importlib.util.find_spec(name) is None]
        return 'pip install "gigaseg[geo]"' if absent else ""

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        with storage.local_file(key, durable=False) as path, path.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            crs = ""
            for plane in range(mask.header.num_planes):
                shapes, step, crs = self._shapes(mask, meta, plane)
                _write_features(file, _simplified(shapes, self.simplify * step) if self.simplify else shapes, meta, plane)
            named = f', "crs": {json.dumps({"type": "name", "properties": {"name": crs}})}' if crs else ""
            size = _pixel_size(meta) if self.coordinates == "pixel" or not meta.georeference else ""
            file.write(f"\n]{named}{size}}}\n")

    def _shapes(self, mask: Raster, meta: MaskMeta, plane: int) -> tuple[list[Shape], float, str]:
        """Return the polygons of one plane, the side of a pixel, and the name of the coordinate system (empty for pixels).

        GDAL traces the edges row by row in a temporary TIFF, so that the mask is never in memory as a whole.
        """
        import rasterio
        import shapely
        from rasterio.features import shapes
        from shapely import affinity

        y, x = meta.own_factor
        transform, name = rasterio.Affine.scale(x, y), ""
        if self.coordinates == "auto" and meta.georeference:
            located = MaskMeta((1, 1), dtype=meta.dtype, georeference=meta.georeference)
            with _as_tiff(ArrayRaster(np.zeros((1, 1), meta.dtype)), located) as file:
                if file.crs is not None:
                    transform, epsg = file.transform, file.crs.to_epsg()
                    name = f"urn:ogc:def:crs:EPSG::{epsg}" if epsg else ""
        with _as_tiff(_Plane(mask, plane), MaskMeta(meta.shape, dtype=meta.dtype)) as file:
            found = shapes(rasterio.band(file, 1), connectivity=4)
            kept = [(int(value), shapely.geometry.shape(shape)) for shape, value in found if value not in (0, meta.fill)]
        placed = [
            (value, affinity.affine_transform(shape, [*transform[:2], *transform[3:5], transform[2], transform[5]]))
            for value, shape in kept
        ]
        return (
            [(value, shape if shape.is_valid else shapely.make_valid(shape)) for value, shape in placed],
            abs(transform.determinant) ** 0.5,
            name,
        )


def _pixel_size(meta: MaskMeta) -> str:
    """Return the member that says how large the pixels are that coordinates count, (x, y); empty where that is not known."""
    if meta.pixel_size is None:
        return ""
    size = [own / factor for own, factor in zip(meta.pixel_size[::-1], meta.own_factor[::-1], strict=True)]
    return f', "pixel_size": {json.dumps({"size": size, "unit": meta.unit})}'


@contextmanager
def _as_tiff(mask: Raster, meta: MaskMeta) -> Iterator[Any]:
    """Open a mask in GDAL, through a temporary TIFF."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with tempfile.TemporaryDirectory() as folder:
        Tiff(pyramid=False).export(mask, meta, LocalStorage(folder), "mask.tif")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(Path(folder, "mask.tif"))
        with file:
            yield file


def _simplified(shapes: list[Shape], tolerance: float) -> list[Shape]:
    """Return polygons with fewer corners; neighbours keep common edges."""
    import shapely

    simple = shapely.coverage_simplify([shape for _, shape in shapes], tolerance) if shapes else []
    return [(value, shape) for (value, _), shape in zip(shapes, simple, strict=True) if not shape.is_empty]


class _Plane(ArrayRaster):
    """One plane of a mask, read by region."""

    def __init__(self, mask: Raster, plane: int) -> None:
        self._mask, self._at = mask, plane
        self.header = MaskMeta(mask.header.shape, dtype=mask.header.dtype).header

    @override
    def read(self, box: Box, plane: int = 0) -> Any:
        return self._mask.read(box, self._at)


def _write_features(file: IO[str], shapes: Sequence[Shape], meta: MaskMeta, plane: int) -> None:
    for number, (value, shape) in enumerate(shapes):
        for part in _polygons(shape):
            separator = "" if file.tell() == len('{"type": "FeatureCollection", "features": [') else ","
            file.write(f"{separator}\n{json.dumps(_feature(part, meta, value, plane, number))}")


def _polygons(shape: Geometry) -> Iterator[Geometry]:
    """Yield the polygons of a geometry: repairing an invalid polygon may have split it."""
    for part in getattr(shape, "geoms", [shape]):
        if part.geom_type == "Polygon" and not part.is_empty:
            yield part


def _feature(shape: Geometry, meta: MaskMeta, value: int, plane: int, number: int) -> dict[str, Any]:
    """Return one annotation as QuPath writes it."""
    import shapely

    spec = meta.classes[value] if value < len(meta.classes) else {"name": str(value), "color": "#ffffff"}
    geometry = json.loads(shapely.to_geojson(shape))
    if meta.planes:
        at = dict(zip(meta.planes, map(int, np.unravel_index(plane, tuple(meta.planes.values()))), strict=True))
        geometry["plane"] = {"c": -1, "z": at.get("z", 0), "t": at.get("t", 0)}
    classification = {"name": spec["name"], "color": list(bytes.fromhex(spec["color"].lstrip("#")))}
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, f"{meta.source}#{plane}.{value}.{number}.{shape.bounds}")),
        "geometry": geometry,
        "properties": {"objectType": "annotation", "classification": classification},
    }
