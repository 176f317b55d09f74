"""A coordinate system and an affine survive as GeoTIFF tags, as GDAL reads and writes them."""

from __future__ import annotations

import pytest

from pipeline.raster import MapGrid, coordinate_system, map_grid, map_scale, map_tags

rasterio = pytest.importorskip("rasterio")

MATRICES = [(0.5, 0.0, 500.0, 0.0, -0.5, 900.0), (0.3, 0.1, 500.0, 0.1, -0.3, 900.0), (1.0, 0.0, 5.0, 0.0, 2.0, 9.0)]
LAEA = "+proj=laea +lat_0=10 +lon_0=20 +units=m +datum=WGS84"


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857", "EPSG:2056", "EPSG:2263", LAEA])
@pytest.mark.parametrize(
    "matrix", [(0.5, 0.0, 500.0, 0.0, -0.5, 900.0), (0.3, 0.1, 500.0, 0.1, -0.3, 900.0), (1.0, 0.0, 5.0, 0.0, 2.0, 9.0)]
)
def test_a_grid_comes_back_from_its_tags(crs: str, matrix: tuple[float, ...]) -> None:
    """North-up, turned and south-up; by EPSG code and by projection."""
    wkt = rasterio.CRS.from_user_input(crs).to_wkt()
    grid = map_grid(map_tags(MapGrid(matrix, wkt)))
    assert grid is not None
    assert grid.matrix == pytest.approx(matrix, rel=1e-12)
    assert rasterio.CRS.from_wkt(grid.wkt) == rasterio.CRS.from_wkt(wkt)


def test_tags_say_code_and_scale() -> None:
    """In metres, also for feet."""
    wkt = rasterio.CRS.from_epsg(2263).to_wkt()
    tags = map_tags(MapGrid((1.0, 0.0, 500.0, 0.0, -1.0, 900.0), wkt))
    assert coordinate_system(tags) == 2263
    assert map_scale(tags)[:2] == ((pytest.approx(1200 / 3937),) * 2, "meter")


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:3408",
        "EPSG:2314",
        "EPSG:27291",
        "EPSG:29871",
        f"{LAEA} +units=km".replace("+units=m ", ""),
        f"{LAEA} +to_meter=2.5".replace("+units=m ", ""),
    ],
)
def test_sizes_are_metres_whatever_the_unit(crs: str) -> None:
    """Kilometres, yards, chains and units without a code; also where a file says the code of the system alone."""
    system = rasterio.CRS.from_user_input(crs)
    expected = pytest.approx(2 * system.linear_units_factor[1], rel=1e-12), "meter"
    tags = map_tags(MapGrid((2.0, 0.0, 500.0, 0.0, -2.0, 900.0), system.to_wkt()))
    found = map_scale(tags)
    assert (found[0][0], found[1]) == expected
    if code := coordinate_system(tags):
        short = {**tags, "34735": {"type": 3, "value": [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, code]}}
        assert map_scale(short)[0][0] == expected[0]


def test_a_unit_that_is_not_known_is_none() -> None:
    """A size in an unknown unit is not told as metres."""
    tags = map_tags(MapGrid((2.0, 0.0, 500.0, 0.0, -2.0, 900.0), rasterio.CRS.from_epsg(32633).to_wkt()))
    keys = {"type": 3, "value": [1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32633, 3076, 0, 1, 9999]}
    assert map_scale({**tags, "34735": keys})[:2] == ((2.0, 2.0), "")


def test_tags_without_a_coordinate_system_are_no_grid() -> None:
    """An affine alone says nothing of a map."""
    tags = map_tags(MapGrid((1.0, 0.0, 500.0, 0.0, -1.0, 900.0), ""))
    assert tags
    assert map_grid(tags) is None
    assert map_grid({}) is None
