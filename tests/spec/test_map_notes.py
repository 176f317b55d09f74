"""Maps that draw areas wrong are told; those for measuring are not."""

import pytest

from pipeline.inputs import Image
from pipeline.inputs.map_notes import _area_ratio, map_notes
from pipeline.raster import Header, MapGrid, map_scale, map_tags

rasterio = pytest.importorskip("rasterio", reason="maps need the extra `geo`")


def image(crs, east, north, size=1.0, **changes):
    """Return an image of 100 x 100 pixels on a map."""
    tags = map_tags(MapGrid((size, 0, east, 0, -size, north), rasterio.CRS.from_user_input(crs).to_wkt(version="WKT2_2019")))
    pixel_size, unit, _ = map_scale(tags)
    return Image(
        0, "a", "/a.tif", Header((100, 100), 1, "uint8", **{"pixel_size": pixel_size, "unit": unit, "georeference": tags, **changes}), {}
    )


@pytest.mark.parametrize(
    ("crs", "place", "is_told"),
    [
        ("EPSG:32632", (5e5, 5e6), False),
        ("EPSG:2263", (1e6, 2e5), False),  # in US survey feet
        ("EPSG:6933", (1e6, 5e6), False),  # of equal area
        ("EPSG:4087", (0, 6.68e6), True),  # equidistant cylindrical, at 60 degrees north
        ("EPSG:3031", (0, 4e6), True),  # polar stereographic, far from the pole
        ("EPSG:3031", (2e4, 3e4), True),  # and near it
        ("+proj=laea +lat_0=50 +lon_0=10 +units=km", (3.0, 4.0), False),
    ],
)
def test_the_ratio_is_that_of_the_projection(crs, place, is_told):
    """At the centre of the image, as PROJ's geodesics measure a square of 100 units."""
    pyproj = pytest.importorskip("pyproj", reason="the oracle of projections")
    found = image(crs, *place)
    east, north = ([value + step for step in steps] for value, steps in zip(place, ((0, 100, 100, 0), (-100, -100, 0, 0)), strict=True))
    corners = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(east, north)
    square_metres = (100 * pyproj.CRS(crs).axis_info[0].unit_conversion_factor) ** 2
    expected = square_metres / abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*corners)[0])
    assert _area_ratio(found.header) == pytest.approx(expected, rel=2e-3)
    assert bool(map_notes([found])) is is_told


@pytest.mark.parametrize(("crs", "scale"), [("EPSG:3031", 0.9727690), ("EPSG:3413", 0.9698582)])
def test_the_ratio_at_a_pole(crs, scale):
    """The scale there of a polar stereographic map of 71 degrees south and of 70 degrees north (Snyder 1987, equation 21-35)."""
    assert _area_ratio(image(crs, -50, 50).header) == pytest.approx(scale**2, rel=1e-4)


def test_a_note_says_what_to_do():
    """Once for a projection, with its first image and the way out; where the user sets the size, none."""
    far = image("EPSG:4087", 0, 6.68e6)
    (note,) = map_notes([far, far])
    assert note.startswith("a: areas of its map projection are 1.99 times those on the ground")
    assert "gdalwarp" in note
    assert not map_notes([image("EPSG:4087", 0, 6.68e6, pixel_size_from="reader.pixel_size")])
    (note,) = map_notes([image("EPSG:32632", 5e5, 5e6, pixel_size=(0.5, 0.5), pixel_size_from="reader.pixel_size")])
    assert note == ("reader.pixel_size is not the size that a map has on the ground: areas follow reader.pixel_size; a, 1 x 1 m")
    assert not map_notes([Image(0, "a", "/a.tif", Header((9, 9), 1, "uint8", pixel_size=(1.0, 1.0), unit="meter"), {})])


def test_what_is_exact_needs_no_note():
    """Degrees and Mercator are measured on the ground; beyond a pole nothing is."""
    assert not map_notes([image("EPSG:3857", 0, 8.4e6), image("EPSG:4326", 10, 60, 1e-5)])
    (note,) = map_notes([image("EPSG:4326", 27.6, 95.5, 1e-5)])
    assert "beyond a pole" in note


def test_a_code_that_proj_does_not_know_is_told():
    """Its size counts as metres, which may be wrong."""
    known = image("EPSG:32632", 5e5, 5e6)
    keys = {"type": 3, "value": [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 60001]}
    header = Header((9, 9), 1, "uint8", pixel_size=(1.0, 1.0), unit="meter", georeference={**known.header.georeference, "34735": keys})
    (note,) = map_notes([Image(0, "b", "/b.tif", header, {}), known])
    assert note == "b: PROJ does not know its coordinate system, EPSG:60001: its units are taken as metres"
