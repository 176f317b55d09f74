"""Layers of polygons as files hold them: GeoJSON, GeoPackage, Shapefile and FlatGeobuf by GDAL, GeoParquet by pyarrow."""

from __future__ import annotations

import importlib.util
import json
import mmap
import re
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.polygons.columns import as_values, from_wkb, require_attribute
from pipeline.polygons.parquet import read_parquet

__all__ = [
    "PIXELS",
    "POLYGON_SUFFIXES",
    "Bounds",
    "Table",
    "companions",
    "extent_of",
    "is_polygons",
    "memory_of",
    "read_table",
    "require_packages",
]

POLYGON_SUFFIXES = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet", ".geoparquet")
GEOJSON_SUFFIXES = (".geojson", ".json")
PARQUET_SUFFIXES = (".parquet", ".geoparquet")
PACKAGES = ("pyogrio", "rasterio", "shapely")
BESIDE_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg")
CRS_MEMBER = re.compile(rb'"crs"\s*:\s*(\{|null)')
PIXELS = "pixels"
NO_SYSTEM = re.compile(r'^(LOCAL_CS|ENGCRS)|^\w+\["(Undefined|Unknown engineering)', re.IGNORECASE)

BYTES_A_POLYGON = 900  # Python object, GEOS geometry and entry of the tree
BYTES_A_CORNER = 32

Bounds = tuple[float, float, float, float]
"""Least x and y, greatest x and y."""


@dataclass(frozen=True)
class Table:
    """A layer as its file holds it.

    Attributes:
        geometries: shapely objects of any type (N,), None where there is none.
        values: the attribute (N,), None where it is null; None: none was asked for.
        numbers: the feature id of each (N,), or the row of a Parquet file.
        system: coordinate system; empty: the file names none; PIXELS: a GeoJSON says that it has none; None: a GeoJSON without ``crs``.
        is_all: whether the whole layer was read.
        notes: what was left out.
    """

    geometries: NDArray[np.object_]
    values: NDArray[Any] | None
    numbers: NDArray[np.int64]
    system: str | None
    is_all: bool = True
    notes: tuple[str, ...] = ()

    @cached_property
    def nbytes(self) -> int:
        """Estimated bytes of memory that the table takes."""
        return memory_of(self.geometries)


def memory_of(geometries: NDArray[np.object_]) -> int:
    """Return an estimate of the bytes that geometries take, with an entry of a tree for each."""
    import shapely

    return BYTES_A_POLYGON * len(geometries) + BYTES_A_CORNER * int(shapely.get_num_coordinates(geometries).sum())


def is_polygons(path: str) -> bool:
    """Whether a path holds polygons, by its suffix; a GeoPackage may hold images instead, which its table of contents says."""
    name = path.lower()
    if not name.endswith(POLYGON_SUFFIXES):
        return False
    return not (name.endswith(".gpkg") and Path(path).is_file() and _holds_images(path))


def _holds_images(path: str) -> bool:
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as database:
            kinds = {row[0] for row in database.execute("SELECT data_type FROM gpkg_contents")}
    except sqlite3.Error:
        return False
    return bool(kinds) and "features" not in kinds


def companions(path: str) -> tuple[str, ...]:
    """Return the files beside a Shapefile that belong to it; of other formats, none."""
    return tuple(path[:-4] + suffix for suffix in BESIDE_SHAPEFILE) if path.lower().endswith(".shp") else ()


def missing_packages() -> list[str]:
    """Return the packages that reading polygons needs and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def require_packages(path: str) -> None:
    """Raise InputError with the command that installs what polygons need, where it is missing."""
    if missing := missing_packages():
        raise InputError(Problem(path, f"polygons, which need {one_of(missing)}", "", 'Install them: pip install "gigaseg[geo]"'))


def read_table(file: str, path: str, layer: str | None, attribute: str | None, window: Callable[[str], Bounds | None]) -> Table:
    """Read a layer; ``window`` gives the bounds outside of which nothing is needed, for a coordinate system, or None for all.

    ``path`` is what messages call the file.

    Raises:
        InputError: the file is missing, damaged or of another kind; the layer or the attribute is not in it.
    """
    if not Path(file).exists():
        raise InputError(Problem(path, "no file", "polygons, such as GeoJSON or GeoPackage", "Check the path."))
    if path.lower().endswith(PARQUET_SUFFIXES):
        if layer is not None:
            raise InputError(Problem(path, f"layer {layer!r}", "no layer, as a Parquet file holds one"))
        return Table(*read_parquet(file, path, attribute))
    source = _source(file, path)
    layer = _layer(source, path, layer)
    info = _ask("read_info", source, path, layer=layer)
    if attribute is not None:
        require_attribute(path, attribute, info["fields"].tolist())
    system: str | None = "" if info["crs"] is None or NO_SYSTEM.search(info["crs"]) else str(info["crs"])
    if path.lower().endswith(GEOJSON_SUFFIXES):
        system = _declared(file, str(system))
    bounds = window(system) if system and system != PIXELS else None
    columns = [] if attribute is None else [attribute]
    meta, table = _ask("read_arrow", source, path, layer=layer, columns=columns, bbox=bounds, return_fids=True)
    geometry = meta["geometry_name"] or "wkb_geometry"
    values = None if attribute is None else _named(as_values(table[attribute]))
    return Table(from_wkb(table[geometry]), values, table[0].to_numpy(), system, bounds is None)


def extent_of(file: str, path: str, layer: str | None) -> Bounds | None:
    """Return the bounds of a layer in its own coordinate system; None where it is empty."""
    source = _source(file, path)
    found = _ask("read_info", source, path, layer=_layer(source, path, layer), force_total_bounds=True)["total_bounds"]
    return None if found is None or not np.isfinite(found).all() else tuple(map(float, found))  # type: ignore[return-value]  # four numbers


def _named(values: NDArray[Any]) -> NDArray[Any]:
    """Replace the JSON of a QuPath classification, such as ``{"name": "Tumor", "color": [200, 0, 0]}``, by its name."""
    names = {text: _name_in(text) for text in set(values.tolist()) if isinstance(text, str) and text.startswith("{")}
    return np.array([*(names.get(value, value) for value in values.tolist()), None], object)[:-1] if names else values


def _name_in(text: str) -> str:
    try:
        return str(json.loads(text)["name"])
    except (ValueError, KeyError, TypeError):
        return text


def _source(file: str, path: str) -> str | bytes:
    """Return what GDAL opens: the file, or the features of a GeoJSON that is a bare list of them, as QuPath writes it."""
    if path.lower().endswith(GEOJSON_SUFFIXES):
        with Path(file).open("rb") as stream:
            start = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            if start.startswith(b"["):
                content = Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")
                return b'{"type": "FeatureCollection", "features": ' + content + b"}"
    return file


def _declared(file: str, system: str) -> str | None:
    """Return the coordinate system of a GeoJSON, which GDAL takes for WGS 84 also where the file names none.

    The standard of 2008 had a member ``crs``; if it is null, the coordinates have no system.
    """
    with Path(file).open("rb") as stream, closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as content:
        found = CRS_MEMBER.search(content)
        value = None if found is None else found[1]
    if value != b"null":
        return None if value is None else system
    collection = json.loads(Path(file).read_bytes())  # the null may be that of a feature
    named = collection.get("crs", "") if isinstance(collection, dict) else ""
    return PIXELS if named is None else system if named else None


def _layer(source: str | bytes, path: str, layer: str | None) -> str | None:
    """Return the layer to read, among those with geometries."""
    if isinstance(source, bytes) and layer is None:
        return None
    names = [str(name) for name, kind in _ask("list_layers", source, path).tolist() if kind is not None]
    if layer is None and len(names) > 1:
        raise InputError(Problem(path, f"{len(names)} layers and none named", f"`layer`: {one_of(names)}"))
    if not names:
        raise InputError(Problem(path, "no layer of geometries", "a layer of polygons"))
    if layer is not None and layer not in names:
        raise InputError(Problem(path, f"layer {layer!r}, which it does not have", one_of(names), nearest(layer, names)))
    return layer or names[0]


def _ask(function: str, source: str | bytes, path: str, **options: Any) -> Any:
    """Call a function of pyogrio; what it cannot read is the user's mistake."""
    import pyogrio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of geometries, which are counted and told in notes
            return getattr(pyogrio, function)(source, **options)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split()).split("; It might help")[0]
        found = f"a file that cannot be read as polygons ({text})"
        raise InputError(Problem(path, found, "GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet")) from error
