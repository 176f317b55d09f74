"""Polygons on the grid of an image: every format, every coordinate system, and pixels that no box changes."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio import CRS, Affine
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from shapely.geometry import box, mapping, shape

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.polygons import PolygonLayer, is_polygons, read_polygons, vector_files
from pipeline.polygons import reading as readings
from pipeline.raster import Header, MapGrid, map_tags

SHAPE = (60, 80)
PLAIN = Header(SHAPE, 1, "uint8")


def header_of(code, matrix, size=SHAPE):
    """A header of an image on a map."""
    from rasterio.crs import CRS

    return Header(size, 1, "uint8", georeference=map_tags(MapGrid(matrix, CRS.from_epsg(code).to_wkt())))


UTM = header_of(32633, (0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0))


def write(path, geometries, crs="EPSG:32633", layer=None, **columns):
    """A layer of any format of GDAL."""
    options = {"layer": layer, "append": path.exists()} if layer else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of layers without a coordinate system
        pyogrio.raw.write(
            str(path),
            shapely.to_wkb(np.array(geometries, object)),
            [np.array(values) for values in columns.values()],
            list(columns),
            geometry_type="Unknown" if path.suffix == ".gpkg" else "Polygon",
            crs=crs,
            **options,
        )
    return str(path)


def write_json(path, geometries, **members):
    """A GeoJSON with members of its own."""
    features = [{"type": "Feature", "properties": {}, "geometry": mapping(geometry)} for geometry in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", **members, "features": features}))
    return str(path)


def on_map(x0, y0, x1, y1):
    """A rectangle of pixels of UTM, in its map coordinates."""
    return box(500000 + x0 / 2, 4000000 - y1 / 2, 500000 + x1 / 2, 4000000 - y0 / 2)


def drawn(layer, size=SHAPE):
    """The pixels of a whole image, one where polygons lie."""
    return layer.rasterise(Box(0, 0, *size), np.ones(len(layer), np.uint8), 0)


def layer_of(geometries, size):
    """A layer that is in pixels already."""
    return PolygonLayer(np.array(geometries, object), None, np.arange(len(geometries)), size)


def stars(seed, size, number=12):
    """Polygons of any corners, some on a grid, where centres and borders of pixels lie on edges; some have holes."""
    random, found = np.random.default_rng(seed), []
    steps = random.choice([1, 2, 8, 1000])
    for _ in range(number):
        angles = np.sort(random.uniform(0, 2 * np.pi, 9))
        center, radius = random.uniform(-0.1, 1.1, 2) * size[::-1], random.uniform(2, max(size) / 2)
        ring = center + radius * np.c_[np.cos(angles), np.sin(angles)] * random.uniform(0.6, 1, (9, 1))
        star = shapely.make_valid(
            shapely.Polygon(np.round(ring * steps) / steps, [np.round((center + (ring - center) / 3) * steps) / steps])
        )
        found += [part for part in shapely.get_parts(star) if part.geom_type == "Polygon"]
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.booleans(), st.data())
def test_pixels_do_not_depend_on_the_box(seed, all_touched, data):
    """Every box is cut out of the whole, also where centres of pixels lie on edges, and where squares of drawing meet."""
    size = (530, 1100)
    layer = layer_of(stars(seed, size), size)
    values = np.arange(1, len(layer) + 1, dtype=np.uint16)
    whole = layer.rasterise(Box(0, 0, *size), values, 0, all_touched=all_touched)
    y0, x0 = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    part = Box(y0, x0, data.draw(st.integers(y0 + 1, size[0])), data.draw(st.integers(x0 + 1, size[1])))
    assert np.array_equal(layer.rasterise(part, values, 0, all_touched=all_touched), whole[part.slices])


@settings(deadline=None, max_examples=40)
@example(495, True)  # an edge across the right side of the image
@given(st.integers(0, 10_000), st.booleans())
def test_pixels_are_those_of_rasterio(seed, all_touched):
    """What GDAL draws in one go; where a centre or a corner of a pixel lies on an edge, GDAL may round it to the other side."""
    size = (530, 1100)
    layer = layer_of(stars(seed, size), size)
    values = np.arange(1, len(layer) + 1, dtype=np.uint16)
    # GDAL wraps what it touches beyond the right side to the next row, so it gets room there.
    room = (size[0] + 800, size[1] + 800)
    burnt = rasterize(zip(layer.geometries, values.tolist(), strict=True), out_shape=room, all_touched=all_touched, dtype="uint16")
    burnt = burnt[: size[0], : size[1]]
    found = layer.rasterise(Box(0, 0, *size), values, 0, all_touched=all_touched)
    assert (found != burnt).mean() < 1e-3
    edges = shapely.union_all([one.boundary for one in layer.geometries])
    for y, x in np.argwhere(found != burnt):
        assert edges.distance(box(x, y, x + 1, y + 1) if all_touched else shapely.Point(x + 0.5, y + 0.5)) < 1e-6


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 529), st.integers(1, 1099))
def test_covered_pixels_of_each_polygon_add_up(seed, cut_y, cut_x):
    """Four boxes give every polygon the pixels of one box: those of the polygon drawn alone, though polygons overlap."""
    size = (530, 1100)
    layer = layer_of(stars(seed, size, 4), size)
    boxes = [Box(0, 0, cut_y, cut_x), Box(0, cut_x, cut_y, 1100), Box(cut_y, 0, 530, cut_x), Box(cut_y, cut_x, *size)]
    before = None
    for parts in (boxes, [Box(0, 0, *size)]):
        found = np.zeros((len(layer), *size), np.uint8)
        for part in parts:
            for index, inside, covered_YX in layer.covered(part):
                assert inside.clip(size) == inside
                found[index][inside.slices] += covered_YX
        alone = [layer_of([one], size).rasterise(Box(0, 0, *size), np.ones(1, np.uint8), 0) for one in layer.geometries]
        assert found.max(initial=0) <= 1
        assert sum((one != other).sum() for one, other in zip(found, alone, strict=True)) <= 3 * len(layer)
        assert before is None or np.array_equal(found, before)
        before = found


def test_the_later_polygon_wins_and_the_rest_is_filled():
    """Values keep their type; the order of the file decides where polygons overlap."""
    layer = layer_of([box(0, 0, 20, 20), box(10, 10, 30, 30), box(25, 25, 27, 27)], SHAPE)
    found = layer.rasterise(Box(0, 0, *SHAPE), np.array([-5, 7, 300], np.int16), -1)
    assert found.dtype == np.int16
    assert [found[5, 5], found[15, 15], found[26, 26], found[50, 50]] == [-5, 7, 300, -1]


def test_all_touched_takes_every_touched_pixel():
    """A sliver between two centres covers nothing by centres, and a row by touch."""
    layer = layer_of([box(3.6, 10.1, 20.4, 10.2)], SHAPE)
    assert not drawn(layer).any()
    touched = layer.rasterise(Box(0, 0, *SHAPE), np.ones(1, np.uint8), 0, all_touched=True)
    assert np.argwhere(touched).tolist() == [[10, x] for x in range(3, 21)]


def parquet(path, geometries, encoding="WKB", crs="EPSG:32633", **columns):
    """GeoParquet as its specification says, written by hand."""
    from rasterio.crs import CRS

    if encoding == "WKB":
        column = pa.array(shapely.to_wkb(np.array(geometries, object)).tolist(), pa.binary())
    else:
        corners = [[[{"x": x, "y": y} for x, y in ring.coords] for ring in (one.exterior, *one.interiors)] for one in geometries]
        polygon = pa.list_(pa.list_(pa.struct([("x", pa.float64()), ("y", pa.float64())])))
        column = pa.array(
            corners if encoding == "polygon" else [[one] for one in corners], polygon if encoding == "polygon" else pa.list_(polygon)
        )
    own = {"encoding": encoding, "geometry_types": []}
    own |= {} if crs == "missing" else {"crs": crs and json.loads(json.dumps(CRS.from_user_input(crs).to_dict(projjson=True)))}
    table = pa.table({"geometry": column, **columns})
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": own}}
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", "WKB", "polygon", "multipolygon"])
def test_every_format_gives_the_same_pixels(tmp_path, suffix):
    """Holes, attributes and coordinates come through each format alike."""
    geometries = [on_map(10, 20, 30, 50).difference(on_map(15, 25, 20, 30)), on_map(40.3, 5.2, 71.9, 33.3)]
    columns = {"kind": ["roof", "road"], "number": [3, 4]}
    if suffix[0] == ".":
        file = write(tmp_path / f"a{suffix}", geometries, **columns)
    else:
        file = parquet(tmp_path / "a.parquet", geometries, suffix, **columns)
    for attribute, values in columns.items():
        layer = read_polygons(file, UTM, attribute=attribute)
        order = np.argsort(layer.numbers)  # FlatGeobuf sorts its features by place
        assert sorted(layer.values[order].tolist()) == sorted(values)
        expected = rasterize(
            [(geometry, value) for geometry, value in zip(geometries, columns["number"], strict=True)],
            out_shape=SHAPE,
            transform=Affine(0.5, 0, 500000, 0, -0.5, 4000000),
        )
        codes = layer.values if attribute == "number" else np.array([columns["number"][values.index(one)] for one in layer.values])
        assert np.array_equal(layer.rasterise(Box(0, 0, *SHAPE), codes.astype(np.uint8), 0), expected)
        assert layer.is_placed
        assert layer.notes == ()


@pytest.mark.parametrize("code", [4326, 3857, 32632, 32633])
def test_any_coordinate_system_lies_where_it_should(tmp_path, code):
    """A rectangle of the image's map, drawn in another system, covers the pixels of the rectangle."""
    geometry = shape(transform_geom("EPSG:32633", f"EPSG:{code}", mapping(on_map(10, 20, 30, 50))))
    layer = read_polygons(write(tmp_path / "a.gpkg", [geometry], f"EPSG:{code}"), UTM)
    assert np.array_equal(drawn(layer), drawn(layer_of([box(10, 20, 30, 50)], SHAPE)))


def test_long_edges_follow_their_curve(tmp_path):
    """An edge along a parallel of 8 degrees is a curve in UTM, 10 km away from the line between its ends."""
    header = header_of(32633, (1000.0, 0.0, 100000.0, 0.0, -1000.0, 6700000.0), (200, 800))
    wide = box(11, 59, 19, 60)
    layer = read_polygons(write(tmp_path / "a.gpkg", [wide], "EPSG:4326"), header)
    dense = shape(transform_geom("EPSG:4326", "EPSG:32633", mapping(wide.segmentize(0.001))))
    truth = rasterize([dense], out_shape=header.shape, transform=Affine(1000, 0, 100000, 0, -1000, 6700000))
    straight = shape(transform_geom("EPSG:4326", "EPSG:32633", mapping(wide)))
    control = rasterize([straight], out_shape=header.shape, transform=Affine(1000, 0, 100000, 0, -1000, 6700000))
    found = drawn(layer, header.shape)
    assert (control != truth).sum() > 2000
    assert (found != truth).sum() < 60  # a tenth of a pixel along 800 pixels of edges
    assert (
        shapely.hausdorff_distance(layer.geometries[0], shapely.transform(dense, lambda at: (at - [100000, 6700000]) / [1000, -1000]))
        < 0.11
    )


def test_a_belt_round_the_earth_covers_a_polar_map(tmp_path):
    """An edge along a whole parallel ends where it begins: on a map of the pole it is a circle."""
    header = header_of(3031, (10000.0, 0.0, -4000000.0, 0.0, -10000.0, 4000000.0), (800, 800))
    layer = read_polygons(write(tmp_path / "a.gpkg", [box(-180, -80, 180, -65)], "EPSG:4326"), header)
    radius = [
        np.hypot(*transform_geom("EPSG:4326", "EPSG:3031", {"type": "Point", "coordinates": (0, lat)})["coordinates"]) for lat in (-65, -80)
    ]
    area = np.pi * (radius[0] ** 2 - radius[1] ** 2) / 10000**2
    assert abs(drawn(layer, (800, 800)).sum() / area - 1) < 0.002


def test_a_rotated_map_turns_the_polygons(tmp_path):
    """The inverse of the whole affine counts, not the pixel size alone."""
    turned = Affine.translation(500000, 4000000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    header = header_of(32633, tuple(turned)[:6])
    corners = [turned @ corner for corner in [(10, 20), (30, 20), (30, 50), (10, 50)]]
    layer = read_polygons(write(tmp_path / "a.gpkg", [shapely.Polygon(corners)]), header)
    assert np.allclose(layer.bounds, [10, 20, 30, 50], atol=1e-6)
    assert drawn(layer).sum() == 600


@pytest.mark.parametrize("code", [4326, 4269, 3832])
def test_maps_that_count_longitudes_to_360(tmp_path, code):
    """A map beyond longitude 180 finds polygons of negative longitudes, also parts that were cut there; others stay where they are."""
    header = header_of(4326, (0.1, 0.0, 179.0, 0.0, -0.1, 5.0), (100, 40))
    cut = shapely.MultiPolygon([box(179.5, 3, 180, 4), box(-180, 3, -179.5, 4)])
    geometries = [box(-179.5, 1, -178.5, 2), box(179.2, 1, 179.8, 2), box(10, 1, 20, 2), box(0.5, 1, 1.5, 2), cut]
    if code == 3832:  # Mercator of the Pacific
        geometries = [shape(transform_geom("EPSG:4326", "EPSG:3832", mapping(one))) for one in (*geometries[:2], cut)]
    layer = read_polygons(write(tmp_path / "a.gpkg", geometries, f"EPSG:{code}"), header)
    assert layer.bounds[:, [0, 2]].round(3).tolist() == [[15.0, 25.0], [2.0, 8.0], [5.0, 15.0]]


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_maps_that_begin_before_180_degrees_west(tmp_path, suffix):
    """A map beyond longitude -180 finds polygons of both sides, and a layer of another place is refused."""
    header = header_of(4326, (0.1, 0.0, -182.0, 0.0, -0.1, 5.0), (100, 40))
    layer = read_polygons(
        write(tmp_path / f"a{suffix}", [box(178.5, 1, 180, 2), box(-180, 1, -179, 2), box(0, 1, 1, 2)], "EPSG:4326"), header
    )
    assert layer.bounds.round(3).tolist() == [[5.0, 30.0, 20.0, 40.0], [20.0, 30.0, 30.0, 40.0]]
    elsewhere = write(tmp_path / f"b{suffix}", [box(0, 1, 1, 2), box(5, 1, 6, 2)], "EPSG:4326")
    refused("all outside of the image", path=elsewhere, header=header)
    assert not len(read_polygons(elsewhere, header, may_miss=True))


def test_polygons_across_longitude_180_of_a_plane_map(tmp_path):
    """On a map that ends there, the part on its side is drawn; a ring round a pole has no place on a map in degrees."""
    header = header_of(4326, (0.1, 0.0, 176.0, 0.0, -0.1, 5.0), (100, 40))
    corners = [(175.0, 1.0), (-179.0, 1.0), (-179.0, 2.0), (175.0, 2.0)]
    across = shapely.Polygon(
        [transform_geom("EPSG:4326", "EPSG:3832", {"type": "Point", "coordinates": at})["coordinates"] for at in corners]
    )
    layer = read_polygons(write(tmp_path / "a.gpkg", [across], "EPSG:3832"), header)
    assert layer.bounds.round(3).tolist() == [[-10.0, 30.0, 50.0, 40.0]]
    west = read_polygons(str(tmp_path / "a.gpkg"), header_of(4326, (0.1, 0.0, -180.0, 0.0, -0.1, 5.0), (100, 40)))
    assert west.bounds.round(3).tolist() == [[-50.0, 30.0, 10.0, 40.0]]
    pole = write(tmp_path / "b.gpkg", [box(-1e6, -1e6, 1e6, 1e6)], "EPSG:3031")
    refused("a ring round a pole", path=pole, header=header_of(4326, (0.1, 0.0, 10.0, 0.0, -0.1, -80.0), (100, 40)))


def test_a_web_map_in_longitude_and_latitude(tmp_path):
    """A GeoJSON without a crs is in degrees, as RFC 7946 says, where these meet the image."""
    file = write_json(tmp_path / "a.geojson", [shape(transform_geom("EPSG:32633", "EPSG:4326", mapping(on_map(10, 20, 30, 50))))])
    layer = read_polygons(file, UTM)
    assert drawn(layer).sum() == 600
    assert (layer.is_placed, layer.notes) == (True, ())


def test_pixels_of_an_image_without_a_map(tmp_path):
    """QuPath's list of features and its collection are in pixels, and its classification has a name."""
    feature = {"type": "Feature", "geometry": mapping(box(10, 20, 30, 50))}
    feature["properties"] = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}
    for number, content in enumerate(([feature], {"type": "FeatureCollection", "features": [feature]})):
        (tmp_path / f"{number}.geojson").write_text(json.dumps(content))
        layer = read_polygons(str(tmp_path / f"{number}.geojson"), PLAIN, attribute="classification")
        assert layer.values.tolist() == ["Tumor"]
        assert drawn(layer)[20:50, 10:30].all()
        assert drawn(layer).sum() == 600
        assert not layer.is_placed


def test_pixels_on_a_map_are_told_or_declared(tmp_path):
    """Numbers beyond degrees are pixels, with a note; small ones need ``crs: null``, and are refused without."""
    large = Header((400, 400), 1, "uint8", georeference=UTM.georeference)
    layer = read_polygons(write_json(tmp_path / "a.geojson", [box(300, 20, 320, 50)]), large)
    assert drawn(layer, (400, 400)).sum() == 600
    assert "read as pixels" in layer.notes[0]
    with pytest.raises(InputError, match='"crs": null'):
        read_polygons(write_json(tmp_path / "b.geojson", [box(10, 20, 30, 50)]), large)  # as degrees, they cover the image
    layer = read_polygons(write_json(tmp_path / "c.geojson", [box(10, 20, 30, 50)], crs=None), large)
    assert drawn(layer, (400, 400))[20:50, 10:30].all()
    assert not layer.is_placed


def test_a_null_of_a_feature_is_not_that_of_the_file(tmp_path):
    """Properties may be called ``crs`` as well; the member of the collection counts."""
    member = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    for crs, geometry in ((member, on_map(10, 20, 30, 50)), (None, box(10, 20, 30, 50))):
        feature = {"type": "Feature", "properties": {"crs": None}, "geometry": mapping(geometry)}
        (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature], "crs": crs}))
        layer = read_polygons(str(tmp_path / "a.geojson"), UTM)
        assert drawn(layer)[20:50, 10:30].all()
        assert layer.is_placed is (crs is not None)


def test_pixels_are_those_of_the_largest_level(tmp_path):
    """A coarser level of a pyramid is read: polygons shrink with it."""
    header = Header((30, 40), 1, "uint8", levels=(SHAPE, (30, 40)))
    layer = read_polygons(write_json(tmp_path / "a.geojson", [box(10, 20, 30, 50)]), header)
    assert layer.bounds.tolist() == [[5.0, 10.0, 15.0, 25.0]]
    assert layer.scaled((0.5, 0.5), SHAPE).bounds.tolist() == [[10.0, 20.0, 30.0, 50.0]]


def test_only_polygons_near_the_image_are_read(tmp_path):
    """A layer of a county gives each image its own polygons, under the numbers of the file."""
    geometries = [on_map(5000, 0, 5010, 10), on_map(10, 20, 30, 50), on_map(-5000, 0, -4000, 10)]
    for name, first in (("a.gpkg", 1), ("a.geojson", 0), ("a.fgb", 0)):
        layer = read_polygons(write(tmp_path / name, geometries), UTM)
        assert len(layer) == 1
        assert name == "a.fgb" or layer.numbers.tolist() == [first + 1]
    assert read_polygons(parquet(tmp_path / "a.parquet", geometries), UTM).numbers.tolist() == [1]
    between = [on_map(5000, 0, 5010, 10), on_map(-5000, 0, -4000, 10)]
    layer = read_polygons(write(tmp_path / "b.gpkg", between), UTM)
    assert len(layer) == 0
    assert layer.notes == ("no polygon lies in the image",)
    assert not drawn(layer).any()


def test_wrong_polygons_are_repaired_and_told(tmp_path):
    """A bow tie keeps both halves, parts that overlap are joined, and what has no area is left out; each is counted."""
    tie = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    twice = shapely.MultiPolygon([box(40, 10, 60, 30), box(50, 10, 70, 30)])
    collection = shapely.GeometryCollection([shapely.Point(1, 1), box(40, 40, 50, 50)])
    flat = shapely.Polygon([(1, 1), (2, 2), (3, 3), (1, 1)])
    file = write_json(tmp_path / "a.geojson", [tie, shapely.Point(3, 3), twice, shapely.LineString([(0, 0), (9, 9)]), collection, flat])
    layer = read_polygons(file, PLAIN)
    assert layer.notes == (
        "2 geometries without an area left out, such as points and lines",
        "3 invalid polygons repaired, such as rings that cross themselves",
        "1 invalid polygon without an area left out",
    )
    found = drawn(layer)
    assert found[10:30, 40:70].all()
    assert found[40:50, 40:50].all()
    assert abs(int(found[10:30, 10:30].sum()) - 200) <= 20
    assert [found[20, 12], found[20, 28], found[12, 20]] == [1, 1, 0]
    assert layer.numbers.tolist() == [0, 2, 4]


def test_nulls_of_an_attribute_are_none(tmp_path):
    """Whoever asks for values decides what a missing one means."""
    file = write(tmp_path / "a.gpkg", [on_map(0, 0, 5, 5), on_map(5, 5, 9, 9)], kind=["roof", None])
    assert read_polygons(file, UTM, attribute="kind").values.tolist() == ["roof", None]


def refused(*words, path, header=UTM, **options):
    """The message of a refusal, which holds all of these words."""
    with pytest.raises(InputError) as error:
        read_polygons(path, header, **options)
    for word in words:
        assert word in str(error.value), (word, str(error.value))


def test_what_is_no_layer_is_refused(tmp_path):
    """A missing file, one of another kind, an empty one: one message that names it."""
    refused("a.gpkg: found no file", path=str(tmp_path / "a.gpkg"))
    for suffix in (".geojson", ".gpkg", ".shp", ".fgb", ".parquet"):
        (tmp_path / f"b{suffix}").write_bytes(b"no polygons")
        refused(f"b{suffix}", "cannot be read", path=str(tmp_path / f"b{suffix}"))
        (tmp_path / f"c{suffix}").write_bytes(b"")
        refused(f"c{suffix}", path=str(tmp_path / f"c{suffix}"))
    refused("no polygon", path=write_json(tmp_path / "d.geojson", []))
    refused("no polygon", "Lines and points", path=write_json(tmp_path / "e.geojson", [shapely.Point(1, 1)]))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "f.parquet")
    refused("`geo` metadata", path=str(tmp_path / "f.parquet"))


def test_layers_and_attributes_are_listed(tmp_path):
    """Several layers need a name; a name that is not there brings those that are, and the nearest."""
    for layer in ("roofs", "roads"):
        file = write(tmp_path / "a.gpkg", [on_map(0, 0, 9, 9)], layer=layer, kind=["x"], height=[2.0])
    refused("2 layers and none named", "roofs or roads", path=file)
    refused("'rofs'", "Did you mean 'roofs'?", path=file, layer="rofs")
    refused("attribute 'knd'", "kind or height", "Did you mean 'kind'?", path=file, layer="roads", attribute="knd")
    assert len(read_polygons(file, UTM, layer="roads")) == 1
    single = parquet(tmp_path / "a.parquet", [on_map(0, 0, 9, 9)], kind=["x"])
    refused("layer 'roads'", "no layer", path=single, layer="roads")
    refused("attribute 'knd'", "kind", path=single, attribute="knd")


def test_another_place_is_refused_with_both_extents(tmp_path):
    """A layer that does not meet the image is another's: the message says where both lie."""
    far = [on_map(5000, 0, 5010, 10)]
    for path in (write(tmp_path / "a.gpkg", far), parquet(tmp_path / "a.parquet", far)):
        refused("x 502500 to 502505", "all outside of the image", "x 499999.2 to 500040.8", "EPSG:32633", path=path)
    refused(
        "x 100 to 110",
        "all outside",
        "x 0 to 80, y 0 to 60 (pixels)",
        path=write_json(tmp_path / "b.geojson", [box(100, 5, 110, 9)]),
        header=PLAIN,
    )


def test_a_place_that_cannot_be_known_is_refused(tmp_path):
    """Without a coordinate system on one side only, nothing is guessed; degrees on an image without a map are no pixels."""
    refused("EPSG:32633", "no coordinate system", path=write(tmp_path / "a.gpkg", [on_map(0, 0, 9, 9)]), header=PLAIN)
    refused("without a coordinate system", "ogr2ogr -a_srs", path=write(tmp_path / "b.gpkg", [box(0, 0, 9, 9)], None))
    refused("without a coordinate system", path=parquet(tmp_path / "b.parquet", [box(0, 0, 9, 9)], crs=None))
    assert len(read_polygons(write(tmp_path / "c.gpkg", [box(0, 0, 9, 9)], None), PLAIN)) == 1
    assert len(read_polygons(parquet(tmp_path / "c.parquet", [box(0, 0, 9, 9)], crs=None), PLAIN)) == 1
    refused("are these degrees?", path=write_json(tmp_path / "d.geojson", [box(15.1, 36.1, 15.2, 36.2)]), header=PLAIN)
    refused("EPSG:4326", path=parquet(tmp_path / "e.parquet", [box(0, 0, 9, 9)], crs="missing"), header=PLAIN)


def test_a_map_that_proj_does_not_know_takes_no_polygons_of_another_system(tmp_path, capfd):
    """They are refused in one line, and GDAL prints nothing."""
    site = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    place = map_tags(MapGrid((1.0, 0.0, 500.0, 0.0, -1.0, 900.0), CRS.from_wkt(site).to_wkt(version="WKT2_2019")))
    unknown = Header(SHAPE, 1, "uint8", georeference=place)
    path = write(tmp_path / "a.gpkg", [box(500, 890, 510, 900)])
    refused("found polygons in EPSG:32633", "whose coordinate system is not known to PROJ", path=path, header=unknown)
    assert "ERROR" not in capfd.readouterr().err


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".shp"])
def test_a_projection_without_a_name_is_a_system(tmp_path, suffix):
    """PROJ calls a system that a text of parameters defines `unknown`; its polygons lie where they should."""
    crs = CRS.from_string("+proj=laea +lat_0=50 +lon_0=15 +ellps=bessel +units=m")
    place = map_tags(MapGrid((1.0, 0.0, 500.0, 0.0, -1.0, 900.0), crs.to_wkt(version="WKT2_2019")))
    layer = read_polygons(
        write(tmp_path / f"a{suffix}", [box(510, 870, 520, 880)], crs.to_wkt()), Header(SHAPE, 1, "uint8", georeference=place)
    )
    assert layer.bounds.round(6).tolist() == [[10, 20, 20, 30]]


def test_points_where_the_image_lies_are_no_polygons(tmp_path):
    """A layer of points alone is refused, though it lies in the image and only what is near the image is read."""
    points = write(tmp_path / "a.gpkg", [on_map(0, 0, 9, 9).centroid])
    refused("found no polygon", "points have no inside", path=points)
    assert not len(read_polygons(points, UTM, may_miss=True))


def test_coordinates_that_no_map_holds_are_refused(tmp_path):
    """Infinity, an uncut antimeridian, latitudes beyond a pole, and an image whose pixels have no area."""
    infinite = shapely.from_wkt("POLYGON ((0 0, Inf 1, 2 2, 0 0))")
    refused("no finite numbers", path=parquet(tmp_path / "a.parquet", [infinite]))
    fiji = shapely.Polygon([(179.5, -17), (-179.5, -17), (-179.5, -16), (179.5, -16)])
    pacific = header_of(32760, (100.0, 0.0, 700000.0, 0.0, -100.0, 8200000.0), (2000, 2000))
    degrees = header_of(4326, (0.1, 0.0, 80.0, 0.0, -0.1, -10.0), (100, 100))
    for header in (pacific, degrees):
        refused("359.0 degrees", "-wrapdateline", path=write(tmp_path / "b.geojson", [fiji], "EPSG:4326"), header=header)
    polar = header_of(3857, (10000.0, 0.0, -400000.0, 0.0, -10000.0, 20000000.0), SHAPE)
    refused("cannot show", path=write(tmp_path / "c.gpkg", [box(-1, 80, 1, 91)], "EPSG:4326"), header=polar)
    flat = Header(SHAPE, 1, "uint8", georeference=header_of(32633, (0.5, 0.5, 500000.0, 0.5, 0.5, 4000000.0)).georeference)
    refused("no area", path=write(tmp_path / "d.gpkg", [on_map(0, 0, 9, 9)]), header=flat)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    """Without the packages, the message is the command that installs them."""
    monkeypatch.setattr(vector_files.importlib.util, "find_spec", lambda name: None if name == "pyogrio" else name)
    refused('pip install "gigaseg[geo]"', "pyogrio", path=str(tmp_path / "a.gpkg"))


def test_a_changed_file_is_read_again(tmp_path):
    """What is kept is found by the state of the file, and what is kept is bounded."""
    file = write_json(tmp_path / "a.geojson", [box(10, 20, 30, 50)])
    first = read_polygons(file, PLAIN)
    assert read_polygons(file, PLAIN) is first
    write_json(tmp_path / "a.geojson", [box(10, 20, 30, 50), box(0, 0, 5, 5)])
    assert len(read_polygons(file, PLAIN)) == 2


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    """Old layers leave; the one used last stays, however large it is."""
    monkeypatch.setattr(readings, "CACHE_BYTES", 3000)
    files = [write_json(tmp_path / f"{number}.geojson", [box(10, 20, 30, 50 + number)]) for number in range(5)]
    layers = [read_polygons(file, PLAIN) for file in files]
    assert sum(one.nbytes for one in readings._LAYERS.values()) <= 3000
    assert read_polygons(files[-1], PLAIN) is layers[-1]
    assert read_polygons(files[0], PLAIN) is not layers[0]


def test_a_geopackage_may_hold_images(tmp_path):
    """Its table of contents says which: rasters are read as masks."""
    import rasterio

    file = tmp_path / "a.gpkg"
    with rasterio.open(
        file, "w", driver="GPKG", width=80, height=60, count=1, dtype="uint8", crs="EPSG:32633", transform=Affine(1, 0, 5e5, 0, -1, 4e6)
    ) as out:
        out.write(np.ones((60, 80), np.uint8), 1)
    assert not is_polygons(str(file))
    assert is_polygons(write(tmp_path / "b.gpkg", [on_map(0, 0, 9, 9)]))
    assert not is_polygons("a.tif")
