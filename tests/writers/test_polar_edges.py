"""Edges near a pole follow their curve in longitude and latitude."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.plugins import build
from pipeline.raster import ArrayRaster, MapGrid, map_tags
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers._polar_edges import with_polar_corners

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
warp = pytest.importorskip("rasterio.warp", reason="rasterio is not installed")


def curve_misses(corners_N2, code):
    """Greatest distance, in pixels of 1 unit, between edges drawn straight in degrees and straight on the map."""
    lon, lat = warp.transform(f"EPSG:{code}", "EPSG:4326", *corners_N2.T)
    steps = np.diff(lon)
    steps -= 360 * np.round(steps / 360)
    worst = 0.0
    for share in (0.25, 0.5, 0.75):
        x, y = warp.transform("EPSG:4326", f"EPSG:{code}", lon[:-1] + share * steps, lat[:-1] + share * np.diff(lat))
        start, step = corners_N2[:-1], np.diff(corners_N2, axis=0)
        across = step[:, 0] * (np.array(y) - start[:, 1]) - step[:, 1] * (np.array(x) - start[:, 0])
        worst = max(worst, float(np.abs(across / np.hypot(*step.T)).max()))
    return worst


@pytest.mark.parametrize("distance", [1.0, 7.0, 100.0, 3000.0])
@pytest.mark.parametrize("code", [3031, 3413])
def test_an_edge_stays_near_its_curve(distance, code):
    """To about a tenth of a pixel, at any distance from the pole; the control, uncut, misses by more."""
    square = shapely.segmentize(shapely.box(distance, -640, distance + 640, 640), 64)
    (found,) = with_polar_corners(np.array([square]), np.zeros(2), 1.0, 64)
    assert found.equals(square)
    assert curve_misses(shapely.get_coordinates(found), code) < 0.13
    assert curve_misses(shapely.get_coordinates(square), code) > 0.13


def test_neighbours_share_every_corner():
    """Whichever way round they run; polygons far from the pole stay as they are."""
    left = shapely.Polygon([(3, -60), (3, 60), (-50, 60), (-50, -60)], [[(-20, -20), (-10, -20), (-10, 20), (-20, 20)]])
    right, inner, far = shapely.box(3, -60, 40, 60), shapely.box(-20, -20, -10, 20), shapely.box(1e5, 0, 1e5 + 64, 64)
    found = with_polar_corners(np.array([left, right, inner, far]), np.zeros(2), 1.0, 64)
    corners = [set(map(tuple, shapely.get_coordinates(one))) for one in found]
    common = [corners[0] & corners[number] for number in (1, 2)]
    assert common[0] == {at for at in corners[1] if at[0] == 3} == {at for at in corners[0] if at[0] == 3}
    assert common[1] == corners[2]
    assert len(common[0]) > 50
    assert found[3] is far


@pytest.mark.parametrize("code", [3031, 3413])
def test_polygons_at_a_pole_give_the_mask(code, tmp_path):
    """Written in longitude and latitude and drawn on the map again, they are the mask, but for pixels beside the pole."""
    from rasterio.features import rasterize

    mask_YX = np.kron(np.random.default_rng(3).integers(0, 2, (8, 9)), np.ones((40, 40))).astype(np.uint8)
    matrix = (100.0, 0.0, -18_030.0, 0.0, -100.0, 15_960.0)
    tags = map_tags(MapGrid(matrix, rasterio.CRS.from_epsg(code).to_wkt(version="WKT2_2019")))
    place = {"georeference": tags, "unit": "meter", "pixel_size": (100.0, 100.0)}
    meta = MaskMeta(mask_YX.shape, dtype="uint8", classes=[{"name": "a"}, {"name": "b"}], source="/maps/a.tif", **place)
    writer = build("writers", {"name": "polygons", "format": "geojson"})
    writer.export(ArrayRaster(mask_YX), meta, LocalStorage(tmp_path), "a.geojson")
    drawn = []
    for feature in json.loads((tmp_path / "a.geojson").read_text())["features"]:
        shape = shapely.segmentize(shapely.geometry.shape(feature["geometry"]), 0.2)
        on_map = shapely.transform(shape, lambda at: np.stack(warp.transform("EPSG:4326", f"EPSG:{code}", *at.T), axis=1))
        drawn.append((on_map, feature["properties"]["class_id"]))
    found_YX = rasterize(drawn, mask_YX.shape, fill=255, transform=rasterio.Affine(*matrix))
    assert (found_YX != mask_YX).sum() <= 4
