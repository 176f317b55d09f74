"""Polygons of GeoParquet, whose geometries are WKB or nested lists of corners; GDAL's wheels read no Parquet."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, one_of
from pipeline.polygons.columns import as_values, from_wkb, require_attribute

__all__ = ["read_parquet"]

DEPTHS = {"polygon": 2, "multipolygon": 3}  # of lists, for each native encoding


def read_parquet(
    file: str, path: str, attribute: str | None
) -> tuple[NDArray[np.object_], NDArray[Any] | None, NDArray[np.int64], str, bool]:
    """Return geometries, values of the attribute, rows, coordinate system, and that everything was read.

    Raises:
        InputError: the file is damaged, has no ``geo`` metadata, another encoding, or lacks the attribute.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        content = (schema.metadata or {}).get(b"geo")
        if content is None:
            raise InputError(Problem(path, "a Parquet file without `geo` metadata", "GeoParquet, as geopandas and GDAL write it"))
        geo = json.loads(content)
        name = geo["primary_column"]
        column = geo["columns"][name]
        if attribute is not None:
            require_attribute(path, attribute, [one for one in schema.names if one not in geo["columns"]])
        table = pq.read_table(file, columns=[name] if attribute is None else [name, attribute])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        found = f"a file that cannot be read as GeoParquet ({' '.join(str(error).split())})"
        raise InputError(Problem(path, found, "GeoParquet, as geopandas and GDAL write it")) from error
    encoding = str(column.get("encoding", "WKB"))
    if encoding != "WKB" and encoding not in DEPTHS:
        raise InputError(Problem(path, f"geometries encoded as {encoding}", one_of(["WKB", *DEPTHS])))
    geometries = from_wkb(table[name]) if encoding == "WKB" else _from_lists(table[name].combine_chunks(), DEPTHS[encoding])
    system = column.get("crs", "OGC:CRS84")  # missing: longitude and latitude; null: unknown
    text = "" if system is None else system if isinstance(system, str) else json.dumps(system)
    values = None if attribute is None else as_values(table[attribute])
    return geometries, values, np.arange(len(geometries)), text, True


def _from_lists(column: Any, depth: int) -> NDArray[np.object_]:
    """Return geometries from nested lists of corners; None where the entry is null."""
    import shapely

    present = ~column.is_null().to_numpy(zero_copy_only=False)
    part = column.filter(column.is_valid())
    offsets: list[NDArray[Any]] = []
    for _ in range(depth):
        offsets.insert(0, part.offsets.to_numpy() - part.offsets[0].as_py())
        part = part.flatten()
    corners = np.stack([part.field(axis).to_numpy(zero_copy_only=False) for axis in ("x", "y")], axis=1)
    kind = shapely.GeometryType.POLYGON if depth == 2 else shapely.GeometryType.MULTIPOLYGON
    geometries = np.full(len(column), None, object)
    geometries[present] = shapely.from_ragged_array(kind, corners, tuple(offsets))
    return geometries
