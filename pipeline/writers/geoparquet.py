"""GeoParquet: objects as rows with a polygon, for GIS programs and data frames."""

from __future__ import annotations

from typing import ClassVar

from pipeline.writers._object_features import FeatureWriter
from pipeline.writers._polygon_files import PolygonFormat

__all__ = ["GeoParquet"]


class GeoParquet(FeatureWriter):
    """The objects as GeoParquet 1.1: the columns of the object table, ``geometry`` in well-known binary, and its ``bbox``.

    Coordinates are those of the map where the image has a georeference, else (x, y) in pixels of the image at full resolution, without
    a coordinate system. Polygons have holes, follow pixel edges, and are MultiPolygons where parts of an object touch at corners only.
    Rows are written in batches, in the order of ids. QGIS, DuckDB and geopandas read the file. It is short for
    ``{name: polygons, of: objects, format: parquet}``.

    Example::

        writers: [{name: ome_zarr}, {name: geoparquet}]
    """

    suffix: ClassVar[str] = ".parquet"
    form: ClassVar[PolygonFormat] = "parquet"
