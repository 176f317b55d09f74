"""Regions that somebody drew: read as QuPath and GIS programs write them, and decided at the centre of each pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import Header, affine, coordinate_system
from pipeline.skips import SkippedImage, _regions, open_kept
from pipeline.skips._regions import Polygons, read_geojson, unpack_polygons

SHAPE = (60, 80)
SQUARE = [[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0], [10.0, 20.0]]
GEO = {  # 0.5 m a pixel, the first one's corner at (500000, 4000000), UTM zone 33
    "33550": {"type": 12, "value": [0.5, 0.5, 0.0]},
    "33922": {"type": 12, "value": [0.0, 0.0, 0.0, 500000.0, 4000000.0, 0.0]},
    "34735": {"type": 3, "value": [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633]},
}


def written(folder, content):
    """A GeoJSON file."""
    path = folder / "a.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@given(st.integers(0, 10_000), st.booleans())
@example(596, True)  # a hole that reaches beyond its outer ring
def test_pixels_are_those_of_rasterio(seed, is_inside):
    """Stars with holes of any corners, also beyond the image: what GDAL burns, whole and by region."""
    features = pytest.importorskip("rasterio.features")
    random = np.random.default_rng(seed)
    polygons = []
    for _ in range(3):
        angles = np.sort(random.uniform(0, 2 * np.pi, 9))
        center, radius = random.uniform([-10, -10], [90, 70]), random.uniform(5, 40)
        ring = center + radius * np.c_[np.cos(angles), np.sin(angles)] * random.uniform(0.6, 1, (9, 1))
        polygons.append([ring, center + (ring[::-1] - center) * 0.4])
    shapes = [({"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]}, 1) for rings in polygons]
    burnt = features.rasterize(shapes, out_shape=SHAPE) > 0
    kept = Polygons(polygons, is_inside)
    whole = kept.of(Box(0, 0, *SHAPE), 0)
    expected = burnt if is_inside else ~burnt
    assert (whole != expected).sum() <= 1  # GDAL may round a centre that lies on an edge
    (y0, y1), (x0, x1) = (sorted(random.choice(side + 1, 2, replace=False).tolist()) for side in SHAPE)
    box = Box(y0, x0, y1, x1)
    assert np.array_equal(kept.of(box, 0), whole[box.slices])
    assert kept.has_any(box, 0) == whole[box.slices].any()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda polygon: polygon,
        lambda polygon: {"type": "Feature", "geometry": polygon, "properties": {"objectType": "annotation"}},
        lambda polygon: [{"type": "Feature", "geometry": polygon}],
        lambda polygon: {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": polygon}]},
        lambda polygon: {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}, polygon]},
        lambda polygon: {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]},
    ],
    ids=["geometry", "feature", "list", "collection", "geometries", "multi"],
)
def test_every_way_to_write_a_polygon(tmp_path, wrap):
    """What QuPath and other programs write gives one polygon, in pixels: 20 columns and 30 rows."""
    file = written(tmp_path, wrap({"type": "Polygon", "coordinates": [SQUARE]}))
    ((ring,),) = read_geojson(file, Header(SHAPE, 1, "uint8"))
    assert ring.tolist() == SQUARE
    kept = Polygons([[ring]]).of(Box(0, 0, *SHAPE), 0)
    assert kept.sum() == 600
    assert kept[20:50, 10:30].all()


def test_map_coordinates_are_those_of_the_image(tmp_path):
    """A crs that the image has too: a square of the map lies where its pixels do, and on the working grid at its scale."""
    corners = [[500000 + x / 2, 4000000 - y / 2] for x, y in SQUARE]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}}
    file = written(tmp_path, {"type": "FeatureCollection", "crs": crs, "features": [feature]})
    own = Header(SHAPE, 1, "uint8", georeference=GEO)
    ((ring,),) = read_geojson(file, own)
    assert np.allclose(ring, SQUARE, atol=1e-6)
    image = SkippedImage("a", "a.tif", own, Header((30, 40), 1, "uint8"))
    found = build("skips", {"name": "regions", "path": file}).find(image)
    assert np.allclose(unpack_polygons(found).polygons[0][0], np.array(SQUARE) / 2)


@pytest.fixture(params=["geo", "plain"])
def installed(request, monkeypatch):
    """Whether the packages of the extra ``geo`` are there."""
    if request.param == "plain":
        monkeypatch.setattr(_regions, "missing_packages", lambda: ["pyogrio"])
    return request.param == "geo"


IN_DEGREES = {"type": "name", "properties": {"name": "EPSG:4326"}}


@pytest.mark.parametrize(
    ("content", "plain", "geo"),
    [
        ("{", "no GeoJSON", "cannot be read as polygons"),
        ({"type": "Polygon", "coordinates": [[[200, 0], [201, 1]]]}, "less than three points", "all outside of the image"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, float("inf")], [1, 0]]]}, "no GeoJSON", "no finite numbers"),
        ({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "no polygon", "no polygon"),
        ({"type": "FeatureCollection", "features": []}, "no polygon", "no polygon"),
        ({"type": "Polygon", "coordinates": [SQUARE], "crs": IN_DEGREES}, "EPSG:4326; expected EPSG:32633", "EPSG:4326"),
    ],
    ids=["damaged", "line", "infinite", "lines", "empty", "crs"],
)
def test_what_holds_no_region_is_refused(tmp_path, installed, content, plain, geo):
    """One message that names the file and says what is wrong with it."""
    if isinstance(content, dict) and "crs" in content and installed:  # a square elsewhere
        content = content | {"coordinates": [[[x + 60, y] for x, y in SQUARE]]}
    file = written(tmp_path, content)
    own = Header(SHAPE, 1, "uint8", georeference=GEO)
    skip = build("skips", {"name": "regions", "path": file})
    (problem,) = skip.problems(SkippedImage("a", "a.tif", own, own))
    assert file in str(InputError(problem))
    assert (geo if installed else plain) in str(InputError(problem))


def test_regions_of_another_image_are_refused(tmp_path, installed):
    """Polygons that all lie outside would skip everything; one that reaches in is enough, and the outside may be meant as well."""
    header = Header(SHAPE, 1, "uint8")
    for keep in ("inside", "outside"):
        far = [[x + 80, y] for x, y in SQUARE]
        skip = build("skips", {"name": "regions", "path": written(tmp_path, {"type": "Polygon", "coordinates": [far]}), "keep": keep})
        (problem,) = skip.problems(SkippedImage("a", "a.tif", header, header))
        for words in ("polygons", "x 90", "all outside of the image; expected some within", "micrometres"):
            assert words in str(InputError(problem)), installed
        near = {"type": "MultiPolygon", "coordinates": [[far], [SQUARE]]}
        skip = build("skips", {"name": "regions", "path": written(tmp_path, near), "keep": keep})
        assert not skip.problems(SkippedImage("a", "a.tif", header, header))


def test_both_ways_to_read_keep_the_same_pixels(tmp_path, monkeypatch):
    """Holes and several polygons, in pixels and in the system of the map, with and without the extra."""
    map_square = [[500000 + x / 2, 4000000 - y / 2] for x, y in SQUARE]
    hole = [[15, 25], [15, 40], [25, 40], [15, 25]]
    small = [[40.3, 10.2], [70.9, 12.1], [60.1, 55.5], [40.3, 10.2]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    for coordinates, members, georeference in (([[SQUARE, hole], [small]], {}, {}), ([[map_square]], {"crs": crs}, GEO)):
        own = Header(SHAPE, 1, "uint8", georeference=georeference)
        feature = {"type": "Feature", "properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": coordinates}}
        file = written(tmp_path, {"type": "FeatureCollection", **members, "features": [feature]})
        skip, found = build("skips", {"name": "regions", "path": file}), []
        for missing in ([], ["pyogrio"]):
            monkeypatch.setattr(_regions, "missing_packages", lambda missing=missing: missing)
            kept = unpack_polygons(skip.find(SkippedImage("a", "a.tif", own, own)))
            found.append(kept.of(Box(0, 0, *SHAPE), 0))
        assert found[0].any()
        assert np.array_equal(*found)


def test_pixels_on_a_map_are_said_to_be_pixels(tmp_path, installed):
    """Small numbers may be degrees: they are refused on a map, unless ``crs`` is null; pixels are those of the largest level."""
    own = Header((30, 40), 1, "uint8", georeference=GEO, levels=(SHAPE, (30, 40)))
    image = SkippedImage("a", "a.tif", own, own)
    polygon = {"type": "Polygon", "coordinates": [SQUARE]}
    (problem,) = build("skips", {"name": "regions", "path": written(tmp_path, polygon)}).problems(image)
    assert '"crs": null' in str(InputError(problem)), installed
    skip = build("skips", {"name": "regions", "path": written(tmp_path, {**polygon, "crs": None})})
    kept = unpack_polygons(skip.find(image)).of(Box(0, 0, 30, 40), 0)
    assert kept.sum() == 150
    assert kept[10:25, 5:15].all()


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb", "a.geojson"])
def test_regions_of_any_format_and_system(tmp_path, name):
    """What another program wrote in longitude and latitude lies where the map is; a layer is chosen among several."""
    from rasterio.warp import transform_geom
    from shapely.geometry import shape

    from tests.spec.test_polygons import on_map, write

    geometry = shape(transform_geom("EPSG:32633", "EPSG:4326", on_map(10, 20, 30, 50).__geo_interface__))
    layers = ["one", "two"] if name == "a.gpkg" else [None]
    for layer in layers:
        file = write(tmp_path / name, [geometry], "EPSG:4326", layer)
    own = Header(SHAPE, 1, "uint8", georeference=GEO)
    skip = build("skips", {"name": "regions", "path": file, "layer": layers[-1]})
    assert not skip.problems(SkippedImage("a", "a.tif", own, own))
    kept = unpack_polygons(skip.find(SkippedImage("a", "a.tif", own, own))).of(Box(0, 0, *SHAPE), 0)
    assert kept.sum() == 600
    assert kept[20:50, 10:30].all()


def test_files_belong_to_their_images(tmp_path):
    """`{stem}` is the last part of a name and `{name}` all of it; a file that is missing is named; one that changes is another."""
    (tmp_path / "b").mkdir()
    written(tmp_path / "b", {"type": "Polygon", "coordinates": [SQUARE]})
    header = Header(SHAPE, 1, "uint8")
    by_stem = build("skips", {"name": "regions", "path": f"{tmp_path}/b/{{stem}}.geojson"})
    by_name = build("skips", {"name": "regions", "path": f"{tmp_path}/{{name}}.geojson"})
    for skip in (by_stem, by_name):
        assert not skip.problems(SkippedImage("b/a", "a.tif", header, header))
    (missing,) = by_name.problems(SkippedImage("c", "c.tif", header, header))
    assert f"{tmp_path}/c.geojson, which does not exist" in str(InputError(missing))
    before = by_stem.identity("b/a", "")
    written(tmp_path / "b", {"type": "Polygon", "coordinates": [SQUARE[:3]]})
    assert by_stem.identity("b/a", "") != before


def test_a_mask_of_other_proportions_is_refused(tmp_path):
    """A mask may be smaller than its image, but not of another form."""
    import tifffile

    tifffile.imwrite(tmp_path / "m.tif", np.ones((30, 30), np.uint8))
    header = Header(SHAPE, 1, "uint8")
    (problem,) = build("skips", {"name": "regions", "path": str(tmp_path / "m.tif")}).problems(SkippedImage("a", "", header, header))
    assert "the proportions of (60, 80)" in str(InputError(problem))


def test_outside_of_far_regions_is_kept_without_a_look():
    """A region that lies beside a block keeps all of it or nothing."""
    kept = Polygons([[np.array(SQUARE)]], is_inside=False)
    assert kept.has_any(Box(55, 0, 60, 80), 0)
    assert not open_kept({**_packed(), "is_inside": True}, Header(SHAPE, 1, "uint8"), None).has_any(Box(55, 0, 60, 80), 0)


def _packed():
    """A square as the ledger holds it."""
    import base64
    import zlib

    corners = zlib.compress(np.array(SQUARE, "<f8").tobytes())
    return {"corners": base64.b64encode(corners).decode(), "lengths": [[len(SQUARE)]]}


def test_georeference_of_centres():
    """Tie points that locate centres move by half a pixel; a system that the tags do not name is 0."""
    corner = affine(GEO) @ [0, 0, 1]
    keys = GEO["34735"]["value"]
    centered = affine({**GEO, "34735": {"value": [*keys[:3], 2, *keys[4:], 1025, 0, 1, 2]}}) @ [0.5, 0.5, 1]
    assert np.allclose(corner, centered)
    assert (coordinate_system(GEO), coordinate_system({})) == (32633, 0)
