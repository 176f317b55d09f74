"""Every writer in one run: what each file holds is the mask, whatever the blocks, and a run goes on and counts again as before."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from pyarrow import csv, parquet
from skimage.measure import label

from pipeline.errors import InputError
from tests.conftest import blobs, save_tiff
from tests.writers.objects_by_hand import in_order

WRITERS = [{"name": "ome_zarr", "version": 0.4}, {"name": "tiff"}, {"name": "ome_tiff"}, {"name": "png"}, {"name": "overlay", "size": 64}]
WRITERS += [{"name": "geojson"}]
HISTOGRAM = {"model": {"name": "histogram", "classes": 2}, "normalize": None}


@pytest.mark.parametrize("block", [32, 512], ids=["blocks", "one block"])
def test_all_writers_hold_the_mask(engine, tmp_path, block):
    """Zarr v2, TIFF, OME-TIFF and PNG hold the same classes; the overlay has its size; polygons are there; a second run changes nothing."""
    pytest.importorskip("rasterio")
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    tiling = {"core": 32, "halo": 0, "block": block}
    plain = engine(**HISTOGRAM, tiling=tiling, output="plain")
    done = engine(**HISTOGRAM, tiling=tiling, writers=WRITERS)
    expected = zarr.open_array(plain.folder / "masks" / "a.ome.zarr" / "0", mode="r")[...]
    found = {
        "zarr": zarr.open_array(done.folder / "masks" / "a.ome.zarr" / "0", mode="r")[...],
        "tiff": tifffile.imread(done.folder / "masks" / "a.tif"),
        "ome_tiff": tifffile.imread(done.folder / "masks" / "a.ome.tif"),
        "png": np.asarray(Image.open(done.folder / "masks" / "a.png")),
    }
    for name, mask_YX in found.items():
        np.testing.assert_array_equal(mask_YX, expected, err_msg=name)
    with Image.open(done.folder / "overlays" / "a.jpg") as overlay:
        assert overlay.size == (64, round(90 * 64 / 110))
    assert json.loads((done.folder / "polygons" / "a.geojson").read_text())["features"]
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("masks/**/*") if path.is_file()}
    again = engine(**HISTOGRAM, tiling=tiling, writers=WRITERS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.report["classes"] == plain.report["classes"]


@pytest.mark.parametrize("form", ["gpkg", "parquet", "fgb"])
def test_polygons_of_classes_do_not_show_the_blocks(engine, tmp_path, form):
    """Polygons of a run in blocks, in one block, and written again after the file was lost, are the same bytes, and are the mask."""
    features = pytest.importorskip("rasterio.features", reason="rasterio is not installed")
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed")
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    writers = [{"name": "ome_zarr"}, {"name": "polygons", "format": form, "background": True}]
    files = []
    for block in (32, 512):
        options = {**HISTOGRAM, "tiling": {"core": 32, "halo": 0, "block": block}, "writers": writers, "output": f"blocks of {block}"}
        path = engine(**options).folder / "polygons" / f"a.{form}"
        files.append(path.read_bytes())
        path.unlink()
        engine(**options)
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    frame = geopandas.read_parquet(path) if form == "parquet" else geopandas.read_file(path)
    mask_YX = zarr.open_array(path.parents[1] / "masks" / "a.ome.zarr" / "0", mode="r")[...]
    drawn_YX = features.rasterize(zip(frame.geometry, frame.class_id, strict=True), mask_YX.shape, fill=255, dtype="uint8")
    np.testing.assert_array_equal(drawn_YX, mask_YX)


OF_OBJECTS = [{"name": "ome_zarr"}, {"name": "objects", "format": "csv"}, {"name": "geojson"}, {"name": "geopackage"}]
OF_OBJECTS += [{"name": "geoparquet"}, {"name": "ome_tiff", "of": "objects"}]


@pytest.mark.parametrize("block", [32, 512], ids=["blocks", "one block"])
def test_all_writers_hold_the_objects(engine, tmp_path, block):
    """Label image, TIFF, table, CSV, GeoJSON, GeoPackage and GeoParquet of a run hold the connected components, each once."""
    features = pytest.importorskip("rasterio.features", reason="rasterio is not installed")
    pyogrio = pytest.importorskip("pyogrio", reason="pyogrio is not installed")
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    tiling = {"core": 32, "halo": 0, "block": block}
    folder = engine(**HISTOGRAM, tiling=tiling, writers=OF_OBJECTS, instances={"name": "components"}).folder
    mask_YX = zarr.open_array(folder / "masks" / "a.ome.zarr" / "0", mode="r")[...]
    expected_YX = in_order(label(mask_YX, background=0, connectivity=2))
    count = int(expected_YX.max())
    np.testing.assert_array_equal(zarr.open_array(folder / "instances" / "a.ome.zarr" / "0", mode="r")[...], expected_YX)
    np.testing.assert_array_equal(tifffile.imread(folder / "instances" / "a.ome.tif"), expected_YX)
    detections = json.loads((folder / "polygons" / "a.geojson").read_text())["features"]
    meta, package = pyogrio.read_arrow(folder / "polygons" / "a.gpkg")
    rows = parquet.read_table(folder / "polygons" / "a.parquet")
    for shapes in (
        [shapely.geometry.shape(one["geometry"]) for one in detections],
        shapely.from_wkb(package[meta["geometry_name"]].to_pylist()),
        shapely.from_wkb(rows["geometry"].to_pylist()),
    ):
        drawn_YX = features.rasterize(zip(shapes, range(1, count + 1), strict=True), expected_YX.shape, dtype="uint32")
        np.testing.assert_array_equal(drawn_YX, expected_YX)
    areas = np.bincount(expected_YX.ravel())[1:].tolist()
    for table in (parquet.read_table(folder / "objects" / "a.parquet"), csv.read_csv(folder / "objects" / "a.csv"), package, rows):
        assert (table["id"].to_pylist(), table["area_px"].to_pylist()) == (list(range(1, count + 1)), areas)


def test_objects_that_are_not_told_apart_are_refused(engine, tmp_path):
    """A writer of objects, by its kind or by an option, needs `instances`."""
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    for writer in ({"name": "geopackage"}, {"name": "geojson", "of": "objects"}, {"name": "tiff", "of": "objects"}):
        with pytest.raises(InputError, match=rf"run\.yaml:\d+: writers\.1.*{writer['name']}.*instances"):
            engine(**HISTOGRAM, writers=[{"name": "ome_zarr"}, writer])


def test_a_missing_package_is_told_with_its_line(engine, tmp_path, monkeypatch):
    """Where the extra of a writer is not installed, the message names the line of the writer and the command that installs it."""
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"run\.yaml:\d+: writers\.1: found geojson; .*pip install \"gigaseg\[geo\]\""):
        engine(**HISTOGRAM, writers=["ome_zarr", "geojson"])


def test_pictures_alone_are_refused(engine, tmp_path):
    """A run whose writers hold no class ids could not be counted again."""
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    with pytest.raises(InputError, match="writers: found overlay; expected a writer of masks beside it. Add ome_zarr."):
        engine(**HISTOGRAM, writers=["overlay"])
