"""Footprints of OpenStreetMap on a drone mosaic: areas are geopandas', and truth by polygons scores as the published mask does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from pipeline.config import load_config
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue, open_truth
from pipeline.plugins import build
from pipeline.polygons import read_polygons
from tests.conftest import engine_yaml, report_at
from workflows.evaluate import evaluate
from workflows.run import run

FOLDER = Path(os.environ.get("GIGASEG_TEST_DATA", "/nowhere"), "aerial", "banepa-buildings")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no aerial/banepa-buildings/ in GIGASEG_TEST_DATA")
FOOTPRINTS, IMAGE, MASK = (str(FOLDER / name) for name in ("val_buildings.geojson", "val.tif", "val_mask.tif"))
CLASSES = [{"name": "background"}, {"name": "building"}]


def header_of(path):
    """The header of a file."""
    with build("readers", {"name": "auto"}).open(path) as raster:
        return raster.header


def whole(path):
    """The pixels of a mask."""
    with build("readers", {"name": "auto"}).open(path) as raster:
        return raster.read(Box(0, 0, *raster.header.shape))[0]


def test_the_area_is_that_of_geopandas():
    """Pixels times their size are the area on the map of the footprints within the image, though EPSG:4326 is not the map's system."""
    geopandas = pytest.importorskip("geopandas")
    header = header_of(IMAGE)
    layer = read_polygons(FOOTPRINTS, header)
    drawn = layer.rasterise(Box(0, 0, *header.shape), np.ones(len(layer), np.uint8), 0)
    with rasterio.open(IMAGE) as file:
        within, pixel = box(*file.bounds), abs(file.transform.a * file.transform.e)
    area = geopandas.read_file(FOOTPRINTS).to_crs(3857).union_all().intersection(within).area
    assert abs(drawn.sum() * pixel / area - 1) < 0.005


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", ".parquet"])
@pytest.mark.parametrize("code", [4326, 3857, 32645])
def test_every_format_gives_the_published_mask(tmp_path, suffix, code):
    """Written by geopandas in any format and coordinate system: the mask that was made from the footprints."""
    geopandas = pytest.importorskip("geopandas")
    table = geopandas.read_file(FOOTPRINTS).to_crs(code)
    file = str(tmp_path / f"a{suffix}")
    if suffix == ".parquet":
        table.to_parquet(file, geometry_encoding="geoarrow")
    else:
        table.to_file(file)
    header, mask = header_of(IMAGE), whole(MASK)
    layer = read_polygons(file, header)
    drawn = layer.rasterise(Box(0, 0, *header.shape), np.ones(len(layer), np.uint8), 0)
    assert np.array_equal(drawn, mask)


def test_the_score_of_polygons_is_that_of_the_mask(tmp_path):
    """A run and an evaluation against the footprints give the numbers of those against the mask."""
    keys = {"images": [IMAGE], "model": {"name": "histogram", "classes": 2}, "normalize": None, "classes": CLASSES}
    keys |= {"tiling": {"core": 512, "halo": 0, "block": 1024}, "writers": ["ome_zarr", "tiff"]}
    reports = []
    for name, truth in (("polygons", FOOTPRINTS), ("mask", MASK)):
        assert run(engine_yaml(tmp_path, **keys, truth=truth, output=name), []) == 0
        reports.append(report_at(tmp_path / name))
        assert evaluate(str(tmp_path / name / "masks" / "val.tif"), truth, None, None, str(tmp_path / f"{name}-scores")) == 0
        assert report_at(tmp_path / f"{name}-scores")["confusion"] == reports[-1]["confusion"]
    assert reports[0]["confusion"] == reports[1]["confusion"]


def test_the_truth_by_polygons_overlaps_the_mask(tmp_path):
    """IoU of what a run counts as truth and the published mask."""
    keys = {"images": [IMAGE], "model": {"name": "histogram", "classes": 2}, "normalize": None, "classes": CLASSES, "truth": FOOTPRINTS}
    found = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    with open_truth(found.images[0]) as raster:
        drawn = raster.read(Box(0, 0, *raster.header.shape))[0] == 1
    mask = whole(MASK) == 1
    assert (drawn & mask).sum() / (drawn | mask).sum() >= 0.995
