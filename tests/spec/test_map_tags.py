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


def test_tags_without_a_coordinate_system_are_no_grid() -> None:
    """An affine alone says nothing of a map."""
    tags = map_tags(MapGrid((1.0, 0.0, 500.0, 0.0, -1.0, 900.0), ""))
    assert tags
    assert map_grid(tags) is None
    assert map_grid({}) is None
