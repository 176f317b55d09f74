"""GeoParquet: objects as rows with a polygon, for GIS programs and data frames."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from typing_extensions import override

from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta
from pipeline.writers._object_features import FeatureWriter
from pipeline.writers._placement import Placement

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GeoParquet"]

BOUNDS = ("xmin", "ymin", "xmax", "ymax")


class GeoParquet(FeatureWriter):
    """The objects as GeoParquet 1.1: the columns of the object table, ``geometry`` in well-known binary, and its ``bbox``.

    Coordinates are those of the map where the image has a georeference, else (x, y) in pixels of the image at full resolution, without
    a coordinate system. Polygons have holes, follow pixel edges, and are MultiPolygons where parts of an object touch at corners only.
    Rows are written in batches, in the order of ids. QGIS, DuckDB and geopandas read the file.

    Example::

        writers: [{name: ome_zarr}, {name: geoparquet}]
    """

    suffix: ClassVar[str] = ".parquet"

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        from pyarrow.parquet import ParquetWriter

        placement, features = self.place(self.objects_of(meta))
        tables = (_with_geometry(*part) for part in features)
        with storage.local_file(key, durable=False) as path:
            first = next(tables)
            schema = _described(first.schema, placement)
            with ParquetWriter(path, schema, compression="zstd") as file:
                for table in chain([first], tables):
                    file.write_table(table.cast(schema))


def _with_geometry(table: pa.Table, geometries: NDArray[Any]) -> pa.Table:
    """Add a column of geometries, and one of their bounds, by which readers choose row groups."""
    import pyarrow as pa
    import shapely

    bounds = [pa.array(edge) for edge in shapely.bounds(geometries).reshape(-1, 4).T]
    table = table.append_column("bbox", pa.StructArray.from_arrays(bounds, BOUNDS))
    return table.append_column("geometry", pa.array(shapely.to_wkb(geometries), pa.binary()))


def _described(schema: pa.Schema, placement: Placement) -> pa.Schema:
    """Add what GeoParquet 1.1 (OGC, 2024) asks for: encoding, types and coordinate system of the geometries."""
    geometry: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon", "Polygon"],
        "crs": placement.projjson,
        "orientation": "counterclockwise",
        "covering": {"bbox": {edge: ["bbox", edge] for edge in BOUNDS}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    return schema.with_metadata({**(schema.metadata or {}), "geo": json.dumps(geo)})
