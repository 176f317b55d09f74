"""Polygons in longitude and latitude: cut at 180 degrees, closed along the poles, as GDAL does where it can."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.writers._antimeridian import unrolled
from pipeline.writers._placement import Placement

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
warp = pytest.importorskip("rasterio.warp", reason="rasterio is not installed")

POLAR = shapely.segmentize(shapely.box(-1e6, -1e6, 1e6, 1.1e6), 50_000)


def in_degrees(code, shape):
    """A polygon of a map in longitude and latitude."""
    placement = Placement((1, 0, 0, 0, 1, 0), rasterio.CRS.from_epsg(code), is_wgs84=True)
    return placement.place(np.array([shape], object))[0]


def by_gdal(code, shape):
    """The same by GDAL."""
    found = warp.transform_geom(f"EPSG:{code}", "EPSG:4326", json.loads(shapely.to_geojson(shape)), antimeridian_cutting=True)
    return shapely.from_geojson(json.dumps(found))


def parts_of(shape):
    """Bounds of the parts, from west to east."""
    return sorted(part.bounds for part in shapely.get_parts(shape))


@pytest.mark.parametrize(
    ("box", "parts"),
    [
        ((170, -20, 190, -10), [(-180, -20, -170, -10), (170, -20, 180, -10)]),
        ((-190, -20, -170, -10), [(-180, -20, -170, -10), (170, -20, 180, -10)]),
        ((185, -20, 190, -10), [(-175, -20, -170, -10)]),
        ((170, -20, 180, -10), [(170, -20, 180, -10)]),
        ((300, -20, 400, -10), [(-60, -20, 40, -10)]),
        ((0, -90, 360, 90), [(-180, -90, 180, 90)]),
        ((-180, -90, 180, 90), [(-180, -90, 180, 90)]),
    ],
    ids=["over the east", "over the west", "beyond", "up to it", "more than a turn", "from zero", "the world"],
)
def test_maps_in_degrees(box, parts):
    """Maps in degrees may go beyond 180 degrees: polygons are cut there and moved by a turn; those that only reach it are whole."""
    found = in_degrees(4326, shapely.box(*box))
    assert parts_of(found) == parts
    assert found.is_valid
    assert found.area == pytest.approx(shapely.box(*box).area)


def test_a_hole_is_cut_as_well():
    """A hole over the antimeridian becomes a notch of both parts."""
    shape = shapely.Polygon(shapely.box(170, -20, 190, -10).exterior, [shapely.box(175, -15, 185, -12).exterior])
    found = in_degrees(4326, shape)
    assert (found.geom_type, found.is_valid, found.area) == ("MultiPolygon", True, pytest.approx(170))
    assert not any(part.interiors for part in found.geoms)


@pytest.mark.parametrize(
    ("code", "shape"),
    [
        (32601, shapely.segmentize(shapely.box(150_000, 2_210_000, 250_000, 2_230_000), 1000)),
        (3832, shapely.segmentize(shapely.box(3.2e6, 0, 3.5e6, 2e5), 50_000)),
        (3031, POLAR),
        (3413, POLAR),
    ],
    ids=["UTM", "Mercator of the Pacific", "south pole", "north pole"],
)
def test_gdal_cuts_there_as_well(code, shape):
    """Polygons of projected maps over the antimeridian, or around a pole, cover what GDAL's cover."""
    found = in_degrees(code, shape)
    assert found.is_valid
    assert -180 <= found.bounds[0] < found.bounds[2] <= 180
    assert found.symmetric_difference(by_gdal(code, shape)).area < 1e-9 * found.area + 1e-7


def test_a_ring_around_the_pole_has_its_hole():
    """A polygon around a pole with holes around it and beside it loses exactly these; here GDAL's is invalid."""
    holes = [shapely.segmentize(shapely.box(*box), 50_000) for box in ((-2e5, -2e5, 2e5, 2e5), (5e5, 5e5, 6e5, 6e5), (-1e4, 5e5, 2e4, 6e5))]
    shape = shapely.Polygon(POLAR.exterior, [hole.exterior for hole in holes])
    found = in_degrees(3031, shape)
    assert found.is_valid
    assert found.area == pytest.approx(in_degrees(3031, POLAR).area - sum(in_degrees(3031, hole).area for hole in holes))


def test_a_long_edge_is_no_crossing():
    """An edge along half the earth or more is drawn as it is, if the map has its middle between its ends."""
    found = in_degrees(3857, shapely.box(-2e7, -1e6, 2e7, 1e6))
    assert len(parts_of(found)) == 1
    assert found.area == pytest.approx(2 * 179.66306 * 2 * 8.94657, rel=1e-4)


def test_rings_are_unrolled():
    """Longitudes go on where they jumped; a ring around a pole is closed along the pole."""
    ring_N2 = np.array([[0, 80], [120, 80], [-120, 80], [0, 80]], float)
    assert unrolled(ring_N2).tolist() == [[0, 80], [120, 80], [240, 80], [360, 80], [360, 90], [0, 90], [0, 80]]
    assert unrolled(-ring_N2)[-3:].tolist() == [[-360, -90], [0, -90], [0, -80]]
