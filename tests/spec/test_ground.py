"""Sizes on the ground are those that PROJ's geodesics measure, whatever the map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.raster import (
    Header,
    MapGrid,
    beyond_pole,
    ground_area,
    ground_size,
    ground_sizes,
    has_equal_rows,
    map_tags,
    pixel_shares,
    row_areas,
)

pytest.importorskip("rasterio", reason="maps need the extra `geo`")
pyproj = pytest.importorskip("pyproj", reason="the oracle of areas")
from rasterio import CRS  # noqa: E402 - after the check that it is there

SHAPE = (10, 8)
EAST, NORTH = 9519926.0, 3202635.0  # web Mercator, at 27.6 degrees north


def header(crs, matrix, shape=SHAPE, **changes):
    tags = map_tags(MapGrid(matrix, CRS.from_user_input(crs).to_wkt(version="WKT2_2019")))
    from pipeline.raster import map_scale

    size, unit, offset = map_scale(tags)
    return Header(shape, 1, "uint8", **{"pixel_size": size, "unit": unit, "offset": offset, "georeference": tags, **changes})


def measured(crs, matrix, row, column):
    """Return the area of a pixel, and its height and width through the middle, by PROJ: its outline has 200 points."""
    datum = pyproj.CRS(crs).geodetic_crs
    ellipsoid = datum.ellipsoid
    geod = pyproj.Geod(a=ellipsoid.semi_major_metre, b=ellipsoid.semi_minor_metre)
    transform = pyproj.Transformer.from_crs(pyproj.CRS(crs), pyproj.CRS(datum), always_xy=True)
    a, b, c, d, e, f = matrix

    def at(x, y):
        x, y = np.asarray(x, float), np.asarray(y, float)
        east, north = transform.transform(a * x + b * y + c, d * x + e * y + f)
        units = pyproj.CRS(datum).axis_info[0].unit_conversion_factor
        return np.degrees(np.asarray(east) * units), np.degrees(np.asarray(north) * units)

    steps = np.linspace(0, 1, 50)
    outline = at(
        np.concatenate([column + steps, np.full(50, column + 1.0), column + 1 - steps, np.full(50, float(column))]),
        np.concatenate([np.full(50, float(row)), row + steps, np.full(50, row + 1.0), row + 1 - steps]),
    )
    (x0, y0), (x1, y1) = at(column, row + 0.5), at(column + 1, row + 0.5)
    (x2, y2), (x3, y3) = at(column + 0.5, row), at(column + 0.5, row + 1)
    return abs(geod.polygon_area_perimeter(*outline)[0]), geod.inv(x2, y2, x3, y3)[2], geod.inv(x0, y0, x1, y1)[2]


MAPS = [
    ("EPSG:3857", (100.0, 0, EAST, 0, -100.0, NORTH)),
    ("EPSG:3857", (100.0, 0, EAST, 0, 100.0, -9e6)),  # from south to north
    ("ESRI:102100", (5000.0, 0, EAST, 0, -5000.0, 8202635.0)),
    ("ESRI:102113", (5000.0, 0, EAST, 0, -5000.0, 8202635.0)),
    ("EPSG:3395", (5000.0, 0, EAST, 0, -5000.0, 8202635.0)),
    ("EPSG:4326", (0.1, 0, 85.0, 0, -0.2, 71.0)),
    ("EPSG:4267", (0.1, 0, -85.0, 0, -0.2, 41.0)),  # another ellipsoid
    ("EPSG:4807", (0.1, 0, 1.0, 0, -0.2, 51.0)),  # in gons
]


@pytest.mark.parametrize(("crs", "matrix"), MAPS)
def test_sizes_are_those_of_geodesics(crs, matrix):
    """Areas of rows, and height and width of the pixel at the centre, agree with PROJ."""
    found = header(crs, matrix)
    areas = row_areas(found, 0, SHAPE[0])
    expected = [measured(crs, matrix, row, 4)[0] for row in range(SHAPE[0])]
    assert areas == pytest.approx(expected, rel=1e-7)
    middle = replace_row(matrix, SHAPE[0] / 2 - 0.5)
    _, height, width = measured(crs, middle, 0, 4)
    assert ground_size(found) == pytest.approx((height, width), rel=1e-5)
    assert not has_equal_rows(found)
    assert ground_area(found) == (pytest.approx(np.mean(expected), rel=1e-7), "meter")


def replace_row(matrix, row):
    a, b, c, d, e, f = matrix
    return (a, b, c + b * row, d, e, f + e * row)


def test_the_control_of_areas_on_the_map_is_wrong():
    """At 27.6 degrees north web Mercator draws 1.27 square metres for one, which areas of the map would count."""
    assert 100.0**2 / row_areas(header(*MAPS[0]), 0, 1)[0] == pytest.approx(1.279, abs=2e-3)


def test_a_rotated_map_in_degrees_has_the_latitude_of_its_middle_column():
    """The rule for rotated maps: exact at the middle column, and wrong by the change of the cosine elsewhere."""
    matrix = (0.001, 0.0002, 85.0, 0.0003, -0.002, 27.6)
    areas = row_areas(header("EPSG:4326", matrix), 0, SHAPE[0])
    expected = [(measured("EPSG:4326", matrix, row, 3)[0] + measured("EPSG:4326", matrix, row, 4)[0]) / 2 for row in range(SHAPE[0])]
    assert areas == pytest.approx(expected, rel=1e-7)


def test_rows_along_a_meridian_have_an_area():
    """A map that lies on its side, whose rows run from north to south, has no zero in it."""
    matrix = (0, 0.002, 85.0, -0.001, 0, 27.6)
    areas = row_areas(header("EPSG:4326", matrix), 0, 2)
    assert areas == pytest.approx(measured("EPSG:4326", matrix, 0, 3)[0], rel=1e-4)
    assert ground_size(header("EPSG:4326", matrix)) == pytest.approx((0.002 * 98_700, 0.001 * 110_800), rel=1e-2)


@given(height=st.integers(1, 400), first=st.floats(-89, 60), span=st.floats(0.01, 140))
def test_rows_partition_the_ground(height, first, span):
    """However a map is cut into rows, their areas add up to the closed form of the area between two latitudes."""
    last = min(first + span, 90.0)
    step = (last - first) / height
    found = header_of_degrees((1.0, 0, 0, 0, -step, last), (height, 1))
    squared, axis = (2 - 1 / 298.257223563) / 298.257223563, 6378137.0
    root = np.sqrt(squared)

    def below(latitude):
        sine = np.sin(np.radians(latitude))
        return axis**2 * (1 - squared) / 2 * (sine / (1 - squared * sine**2) + np.arctanh(root * sine) / root)

    assert row_areas(found, 0, height).sum() == pytest.approx(np.radians(1) * (below(last) - below(first)), rel=1e-6)


def header_of_degrees(matrix, shape, **changes):
    keys = {"34735": {"value": [1, 1, 0, 1, 1024, 0, 1, 2]}}
    rows = [*matrix[:2], 0, matrix[2], *matrix[3:5], 0, matrix[5], 0, 0, 0, 0, 0, 0, 0, 1]
    return Header(shape, 1, "uint8", pixel_size=(1.0, 1.0), unit="degree", georeference={"34264": {"value": rows}, **keys}, **changes)


def test_what_lies_beyond_a_pole_has_no_area():
    """A grid whose first and last pixels have their centres on the poles, as of models of the climate, covers the earth once."""
    found = header_of_degrees((1.0, 0, 0, 0, -1.0, 90.5), (181, 360))
    assert 360 * row_areas(found, 0, 181).sum() == pytest.approx(510_065_621_724_088, rel=1e-9)
    assert not beyond_pole(found)
    swapped = header_of_degrees((1e-5, 0, 27.6, 0, -1e-5, 95.5), SHAPE)
    assert beyond_pole(swapped)
    assert ground_size(swapped) is None
    assert row_areas(swapped, 0, 3).tolist() == [0, 0, 0]


def test_other_images_count_as_drawn():
    """Projected maps have the size of the map; a size that the user sets is that of the ground; microscopy and pictures have none."""
    utm = header("EPSG:32645", (0.5, 0, 3e5, 0, -0.5, 3e6))
    assert (ground_size(utm), has_equal_rows(utm)) == ((0.5, 0.5), True)
    assert row_areas(utm, 2, 4).tolist() == [0.25, 0.25]
    assert [one.tolist() for one in ground_sizes(utm, np.arange(2))] == [[0.5, 0.5], [0.5, 0.5]]
    chosen = header("EPSG:3857", MAPS[0][1], pixel_size=(2.0, 2.0), pixel_size_from="reader.pixel_size")
    assert (ground_size(chosen), ground_area(chosen), has_equal_rows(chosen)) == ((2.0, 2.0), (4.0, "meter"), True)
    scan = Header(SHAPE, 1, "uint8", pixel_size=(0.25, 0.5), unit="micrometer")
    assert (ground_size(scan), row_areas(scan, 0, 2), ground_sizes(scan, np.arange(2))) == (None, None, None)
    assert ground_area(scan) == (0.125, "micrometer")
    assert (ground_size(Header(SHAPE, 1, "uint8")), ground_area(Header(SHAPE, 1, "uint8"))) == (None, None)


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:2225"])
def test_a_sheared_map_has_the_area_of_its_parallelograms(crs):
    """Less than the product of the sides; a turned map has that product."""
    metres = CRS.from_user_input(crs).linear_units_factor[1]
    sheared = header(crs, (2.0, 1.0, 3e5, 0.1, -1.5, 3e6))
    assert ground_area(sheared) == (pytest.approx(3.1 * metres**2), "meter")
    assert row_areas(sheared, 2, 4) == pytest.approx(3.1 * metres**2)
    heights, widths = ground_sizes(sheared, np.arange(2))
    assert heights * widths * pixel_shares(sheared, np.arange(2)) == pytest.approx(3.1 * metres**2)
    turned = header(crs, (0.6, 0.8, 3e5, 0.8, -0.6, 3e6))
    assert ground_area(turned) == (turned.pixel_size[0] * turned.pixel_size[1], "meter")
    chosen = header(crs, (2.0, 1.0, 3e5, 0.1, -1.5, 3e6), pixel_size=(2.0, 2.0), pixel_size_from="reader.pixel_size")
    assert ground_area(chosen) == (4.0, "meter")


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3395"])
def test_sides_and_share_of_a_pixel_give_its_area(crs):
    """On turned and sheared maps whose rows differ, at the centre of each row."""
    unit = 1e-5 if crs == "EPSG:4326" else 1.0
    found = header(crs, (2.0 * unit, 1.0 * unit, 50 * unit, 0.1 * unit, -1.5 * unit, 40.0 if unit < 1 else 4e6))
    heights, widths = ground_sizes(found, np.arange(5))
    assert heights * widths * pixel_shares(found, np.arange(5)) == pytest.approx(row_areas(found, 0, 5), rel=1e-6)
    assert pixel_shares(found, np.arange(1))[0] < 0.95


def test_sizes_at_rows_are_those_of_the_rows():
    """Each row has its own width in degrees; half a row above the centre of the first one is its upper edge."""
    found = header("EPSG:4326", (0.1, 0, 85.0, 0, -0.2, 71.0))
    heights, widths = ground_sizes(found, np.array([0, 4.5, 9]))
    assert (heights[1], widths[1]) == pytest.approx(ground_size(found), rel=1e-12)
    assert widths[0] < widths[1] < widths[2]
    assert heights * widths == pytest.approx(row_areas(found, 0, 10)[[0, 4, 9]], rel=1e-2)


def test_other_planets_have_their_own_size():
    """A map of the moon names its ellipsoid."""
    moon = header("ESRI:104903", (1.0, 0, 0, 0, -1.0, 90.0), shape=(180, 360))
    assert 360 * row_areas(moon, 0, 180).sum() == pytest.approx(4 * np.pi * 1_737_400**2, rel=1e-9)
