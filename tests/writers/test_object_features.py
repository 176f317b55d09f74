"""Objects as GeoPackage, GeoParquet and CSV: other programs read every row, with its polygon."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from pipeline.errors import InputError
from pipeline.raster import ArrayRaster
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers.geopackage import GeoPackage
from pipeline.writers.geoparquet import GeoParquet
from pipeline.writers.objects import Objects
from tests.writers.objects_by_hand import cells, table_of, view_of
from tests.writers.test_geojson_objects import UTM

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="pyogrio is not installed")
rasterio, features = (pytest.importorskip(name, reason="rasterio is not installed") for name in ("rasterio", "rasterio.features"))

PLACES = {"pixels": {}, "map": {"georeference": UTM}}


def exported(folder, writer, view):
    """The file of a writer."""
    mask = ArrayRaster(np.zeros(view.meta.shape, np.uint8))
    key = f"{writer.folder}/a{writer.suffix}"
    writer.export(mask, MaskMeta(view.meta.shape, objects=view), LocalStorage(folder), key)
    return folder / key


def drawn(geometries, shape, place):
    """The ids that polygons cover."""
    transform = rasterio.Affine(0.5, 0, 691000, 0, -0.5, 5334000) if PLACES[place] else rasterio.Affine.identity()
    return features.rasterize(zip(geometries, range(1, len(geometries) + 1), strict=True), shape, transform=transform, dtype="uint32")


def same_columns(found, ids):
    """Whether a table has every column of the object table, with its values."""
    for name in (expected := table_of(ids)).column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name


@pytest.mark.parametrize("place", PLACES)
def test_gdal_reads_the_geopackage(tmp_path, place):
    """GDAL finds one layer, its coordinate system, every attribute, and valid polygons that are the pixels."""
    ids_YX = cells((300, 400), 150)
    path = exported(tmp_path, GeoPackage(), view_of(ids_YX, rows=40, **PLACES[place]))
    info = pyogrio.read_info(path)
    assert (info["layer_name"], info["geometry_type"], info["features"]) == ("objects", "MultiPolygon", ids_YX.max())
    assert (info["crs"] == "EPSG:32632") == (place == "map")
    meta, table = pyogrio.read_arrow(path)
    same_columns(table, ids_YX)
    geometries = shapely.from_wkb(table[meta["geometry_name"]].to_pylist())
    assert shapely.is_valid(geometries).all()
    np.testing.assert_array_equal(drawn(geometries, ids_YX.shape, place), ids_YX)


@pytest.mark.parametrize("place", PLACES)
def test_arrow_reads_the_geoparquet(tmp_path, place):
    """The metadata is that of GeoParquet 1.1, and the rows are the objects with valid polygons that are the pixels."""
    ids_YX = cells((300, 400), 150)
    path = exported(tmp_path, GeoParquet(), view_of(ids_YX, rows=40, **PLACES[place]))
    table = parquet.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"], set(column["geometry_types"])) == ("1.1.0", "WKB", {"Polygon", "MultiPolygon"})
    assert (column["crs"] or {}).get("id") == ({"authority": "EPSG", "code": 32632} if place == "map" else None)
    same_columns(table, ids_YX)
    geometries = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.is_valid(geometries).all()
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    np.testing.assert_array_equal([list(box.values()) for box in table["bbox"].to_pylist()], shapely.bounds(geometries))
    assert all(part.exterior.is_ccw for part in shapely.get_parts(geometries))
    np.testing.assert_array_equal(drawn(geometries, ids_YX.shape, place), ids_YX)


@pytest.mark.parametrize("writer", [GeoPackage(coordinates="wgs84"), GeoParquet(coordinates="wgs84")], ids=lambda one: type(one).__name__)
def test_longitude_and_latitude(tmp_path, writer):
    """On request, positions are degrees, and the file says so."""
    path = exported(tmp_path, writer, view_of(cells((60, 70), 20), georeference=UTM))
    if writer.suffix == ".gpkg":
        assert pyogrio.read_info(path)["crs"] == "EPSG:4326"
        bounds = pyogrio.read_info(path)["total_bounds"]
    else:
        table = parquet.read_table(path)
        assert json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["crs"]["id"] == {"authority": "OGC", "code": "CRS84"}
        bounds = shapely.total_bounds(shapely.from_wkb(table["geometry"].to_pylist()))
    assert 11 < bounds[0] < bounds[2] < 12
    assert 48 < bounds[1] < bounds[3] < 49


def test_csv_has_every_row(tmp_path):
    """The CSV holds the table: one header, every row in order, nulls empty."""
    ids_YX = cells((300, 400), 150)
    table = csv.read_csv(exported(tmp_path, Objects(format="csv"), view_of(ids_YX, rows=40)))
    assert table["id"].to_pylist() == list(range(1, ids_YX.max() + 1))
    assert table["area_px"].to_pylist() == np.bincount(ids_YX.ravel())[1:].tolist()
    assert set(table["class"].to_pylist()) == {"nucleus", "axon"}
    assert table["mean_probability"].null_count == table.num_rows


def test_the_table_itself_is_left_alone(tmp_path):
    """The run has written the Parquet file: the writer neither writes nor removes it."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "a.parquet").write_bytes(b"the run's")
    path = exported(tmp_path, Objects(), view_of(cells((30, 40), 5)))
    assert path.read_bytes() == b"the run's"


@pytest.mark.parametrize("writer", [GeoPackage(), GeoParquet(), Objects(format="csv")], ids=lambda one: type(one).__name__)
def test_no_objects(tmp_path, writer):
    """Without an object there is a file with every column and no row; without `instances` there is none."""
    path = exported(tmp_path, writer, view_of(np.zeros((5, 5), np.uint32)))
    read = {".gpkg": lambda: pyogrio.read_arrow(path)[1], ".parquet": lambda: parquet.read_table(path), ".csv": lambda: csv.read_csv(path)}
    table: pa.Table = read[writer.suffix]()
    assert table.num_rows == 0
    assert set(table_of(np.zeros((5, 5), np.uint32)).column_names) <= set(table.column_names)
    assert (writer.needs_objects, writer.required_keys) == (True, ("instances",))
    with pytest.raises(InputError, match="Set `instances`"):
        writer.export(ArrayRaster(np.zeros((5, 5), np.uint8)), MaskMeta((5, 5)), LocalStorage(tmp_path), "b")
