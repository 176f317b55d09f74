"""GeoPackage: objects as a layer of polygons, for GIS programs."""

from __future__ import annotations

from typing import ClassVar

from pipeline.writers._object_features import FeatureWriter
from pipeline.writers._polygon_files import PolygonFormat

__all__ = ["GeoPackage"]


class GeoPackage(FeatureWriter):
    """The objects as a GeoPackage, layer ``objects``: multipolygons with the columns of the object table as attributes.

    Coordinates are those of the map where the image has a georeference, else (x, y) in pixels of the image at full resolution, in
    the standard's undefined Cartesian system. Polygons have holes and follow pixel edges. They are written in
    batches, in the order of ids. QGIS and ArcGIS read the file. It is short for ``{name: polygons, of: objects}``.

    Example::

        writers: [{name: ome_zarr}, {name: geopackage}]
    """

    suffix: ClassVar[str] = ".gpkg"
    form: ClassVar[PolygonFormat] = "gpkg"
