"""Files of polygons with attributes, written batch by batch: GeoPackage, FlatGeobuf, GeoParquet 1.1 and GeoJSON of RFC 7946.

The same batches give the same bytes, with one version of the libraries.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from pipeline.writers._placement import Placement

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMAT_PACKAGES", "Features", "PolygonFormat", "write_polygons"]

PolygonFormat = Literal["gpkg", "parquet", "fgb", "geojson"]
Features = Iterator[tuple["pa.Table", NDArray[Any]]]
"""Attributes and geometries, at least one part, all of one schema."""

FORMAT_PACKAGES = {"gpkg": ("pyogrio",), "fgb": ("pyogrio",), "parquet": (), "geojson": ()}
"""Packages of the extra ``geo`` that a format needs besides rasterio and shapely."""

PIXELS = 'LOCAL_CS["Undefined Cartesian SRS"]'  # srs_id -1 of the GeoPackage standard
DATE = "2000-01-01T00:00:00.000Z"  # date of the last change, fixed so that the same polygons give the same bytes
BOUNDS = ("xmin", "ymin", "xmax", "ymax")


def write_polygons(path: Path, form: PolygonFormat, layer: str, features: Features, placement: Placement) -> None:
    """Write a file in one of the formats.

    Args:
        path: of the file.
        form: its format.
        layer: name of the layer, where the format has one.
        features: attributes and geometries in the coordinates of ``placement``.
        placement: names the coordinate system.
    """
    writers: dict[str, Callable[[Path, str, Features, Placement], None]] = {
        "gpkg": _write_geopackage,
        "fgb": _write_flatgeobuf,
        "parquet": _write_geoparquet,
        "geojson": _write_geojson,
    }
    writers[form](path, layer, features, placement)


def _write_geopackage(path: Path, layer: str, features: Features, placement: Placement) -> None:
    _write_by_gdal(path, layer, features, placement, "GPKG")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE gpkg_contents SET last_change = ?", (DATE,))


def _write_flatgeobuf(path: Path, layer: str, features: Features, placement: Placement) -> None:
    _write_by_gdal(path, layer, features, placement, "FlatGeobuf")


def _write_by_gdal(path: Path, layer: str, features: Features, placement: Placement, driver: str) -> None:
    """Write multipolygons by GDAL, which asks for one batch after the other."""
    import pyarrow as pa
    from pyogrio import write_arrow

    tables = (_with_multipolygons(*part) for part in features)
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
        write_arrow(reader, path, layer, driver, "geometry", "MultiPolygon", placement.wkt or PIXELS)
    except RuntimeError as error:  # it says that reading failed, but not why
        raise (failed or [error])[0] from None


def _with_multipolygons(table: pa.Table, geometries: NDArray[Any]) -> pa.Table:
    """Add a column of geometries, all of one type."""
    import pyarrow as pa
    import shapely

    parts, index = shapely.get_parts(geometries, return_index=True)
    return table.append_column("geometry", pa.array(shapely.to_wkb(shapely.multipolygons(parts, indices=index)), pa.binary()))


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema in types that GDAL's formats have, without metadata."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, pa.int64() if pa.types.is_unsigned_integer(field.type) else field.type) for field in schema])


def _write_geoparquet(path: Path, layer: str, features: Features, placement: Placement) -> None:
    from pyarrow.parquet import ParquetWriter

    del layer
    tables = (_with_bounds(*part) for part in features)
    first = next(tables)
    schema = _described(first.schema, placement)
    with ParquetWriter(path, schema, compression="zstd") as file:
        for table in chain([first], tables):
            file.write_table(table.cast(schema))


def _with_bounds(table: pa.Table, geometries: NDArray[Any]) -> pa.Table:
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


def _write_geojson(path: Path, layer: str, features: Features, placement: Placement) -> None:
    """Write GeoJSON of RFC 7946 (2016); geometries are in longitude and latitude, and there is no member ``crs``."""
    import shapely

    del layer, placement
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for table, geometries in features:
            for row, geometry in zip(table.to_pylist(), shapely.to_geojson(geometries), strict=True):
                properties = json.dumps(row, allow_nan=False)
                file.write(f'{separator}{{"type": "Feature", "id": {row["id"]}, "properties": {properties}, "geometry": {geometry}}}')
                separator = ",\n"
        file.write("\n]}\n")
