"""GeoPackage: objects as a layer of polygons, for GIS programs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from typing_extensions import override

from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta
from pipeline.writers._object_features import FeatureWriter

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GeoPackage"]

LAYER = "objects"
PIXELS = 'LOCAL_CS["Undefined Cartesian SRS"]'  # srs_id -1 of the standard
DATE = "2000-01-01T00:00:00.000Z"  # date of the last change, fixed so that the same objects give the same bytes


class GeoPackage(FeatureWriter):
    """The objects as a GeoPackage, layer ``objects``: multipolygons with the columns of the object table as attributes.

    Coordinates are those of the map where the image has a georeference, else (x, y) in pixels of the image at full resolution, in
    the standard's undefined Cartesian system. Polygons have holes and follow pixel edges. They are written in
    batches, in the order of ids. QGIS and ArcGIS read the file.

    Example::

        writers: [{name: ome_zarr}, {name: geopackage}]
    """

    suffix: ClassVar[str] = ".gpkg"
    packages: ClassVar[tuple[str, ...]] = ("pyogrio", "rasterio", "shapely")

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        import pyarrow as pa
        from pyogrio import write_arrow

        placement, features = self.place(self.objects_of(meta))
        tables = (_with_geometry(*part) for part in features)
        with storage.local_file(key, durable=False) as path:
            first = next(tables)
            schema, failed = _plain(first.schema), list[Exception]()

            def batches() -> Iterator[pa.RecordBatch]:
                try:
                    for table in chain([first], tables):
                        yield from table.cast(schema).to_batches()
                except Exception as error:
                    failed.append(error)
                    raise

            reader = pa.RecordBatchReader.from_batches(schema, batches())
            try:
                write_arrow(reader, path, LAYER, "GPKG", "geometry", "MultiPolygon", placement.wkt or PIXELS)
            except RuntimeError as error:  # it says that reading failed, but not why
                raise (failed or [error])[0] from None
            _set_date(path)


def _with_geometry(table: pa.Table, geometries: NDArray[Any]) -> pa.Table:
    """Add a column of geometries, all of one type."""
    import pyarrow as pa
    import shapely

    parts, index = shapely.get_parts(geometries, return_index=True)
    return table.append_column("geometry", pa.array(shapely.to_wkb(shapely.multipolygons(parts, indices=index)), pa.binary()))


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema in types that GeoPackage has, without metadata."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, pa.int64() if pa.types.is_unsigned_integer(field.type) else field.type) for field in schema])


def _set_date(path: Path) -> None:
    """Write a fixed date of the last change."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE gpkg_contents SET last_change = ?", (DATE,))
