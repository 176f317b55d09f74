"""Detections for QuPath: each object once, with its class, its measurements and a valid polygon."""

from __future__ import annotations

import json
from uuid import UUID

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.raster import ArrayRaster
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers.geojson import GeoJson
from tests.writers.objects_by_hand import CLASSES, cells, view_of

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
features_of, warp = (pytest.importorskip(f"rasterio.{name}", reason="rasterio is not installed") for name in ("features", "warp"))

UTM = {
    "33550": {"type": 12, "value": [0.5, 0.5, 0.0]},
    "33922": {"type": 12, "value": [0.0, 0.0, 0.0, 691000.0, 5334000.0, 0.0]},
    "34735": {"type": 3, "value": [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632]},
}


def exported(folder, view, writer=None):
    """The content of the file."""
    mask = ArrayRaster(np.zeros(view.meta.shape, np.uint8))
    meta = MaskMeta(view.meta.shape, planes=view.meta.planes, classes=CLASSES, objects=view)
    (writer or GeoJson()).export(mask, meta, LocalStorage(folder), "a.geojson")
    return json.loads((folder / "a.geojson").read_text())


def test_every_object_is_a_detection(tmp_path):
    """QuPath's rules hold: unique UUIDs, closed rings, valid polygons, class and colour, finite numbers; ids are in order."""
    ids_YX = cells((300, 400), 300)
    content = exported(tmp_path, view_of(ids_YX, rows=77, pixel_size=(1.0, 2.0), unit="micrometer", own_factor=(4.0, 4.0)))
    assert content["type"] == "FeatureCollection"
    assert content["pixel_size"] == {"size": [0.5, 0.25], "unit": "micrometer"}
    features = content["features"]
    assert len({UUID(one["id"]) for one in features}) == len(features) == ids_YX.max()
    for number, one in enumerate(features, 1):
        assert (one["type"], one["geometry"]["type"] in {"Polygon", "MultiPolygon"}) == ("Feature", True)
        spec = CLASSES[1 if number % 2 else 2]
        assert one["properties"]["objectType"] == "detection"
        assert one["properties"]["classification"] == {"name": spec["name"], "color": list(bytes.fromhex(spec["color"][1:]))}
        area = int((ids_YX == number).sum())
        touches = one["properties"]["measurements"].pop("touches_border")
        assert touches in {0, 1}
        assert type(touches) is int
        assert one["properties"]["measurements"] == {"id": number, "area_px": area, "intensity_mean_0": area / 7}
        shape = shapely.geometry.shape(one["geometry"])
        assert shape.is_valid
        assert shape.area == 16 * area
    parts = [
        one["geometry"]["coordinates"] if one["geometry"]["type"] == "MultiPolygon" else [one["geometry"]["coordinates"]]
        for one in features
    ]
    assert all(ring[0] == ring[-1] and len(ring) >= 4 for polygons in parts for polygon in polygons for ring in polygon)


def test_a_stack_says_the_plane(tmp_path):
    """A detection lies in the z and t of its object."""
    ids = np.zeros((2, 3, 9, 9), np.uint32)
    ids[0, 1, 2:4, 2:4], ids[1, 2, 3:5, 3:5] = 1, 2
    features = exported(tmp_path, view_of(ids, planes={"t": 2, "z": 3}))["features"]
    assert [one["geometry"]["plane"] for one in features] == [{"c": -1, "z": 1, "t": 0}, {"c": -1, "z": 2, "t": 1}]


def test_objects_of_a_map(tmp_path):
    """Map coordinates name their system; WGS 84 is longitude and latitude as RFC 7946 says, without a name and counterclockwise."""
    ids_YX = cells((300, 400), 100)
    view = view_of(ids_YX, georeference=UTM, pixel_size=(0.5, 0.5), unit="meter")
    on_map = exported(tmp_path, view)
    assert on_map["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    shapes = [shapely.geometry.shape(one["geometry"]) for one in on_map["features"]]
    transform = rasterio.Affine(0.5, 0, 691000, 0, -0.5, 5334000)
    drawn = features_of.rasterize(zip(shapes, range(1, len(shapes) + 1), strict=True), ids_YX.shape, transform=transform, dtype="uint32")
    np.testing.assert_array_equal(drawn, ids_YX)
    degrees = exported(tmp_path, view, GeoJson(coordinates="wgs84"))
    assert not {"crs", "pixel_size"} & set(degrees)
    for one, shape in zip(degrees["features"], shapes, strict=True):
        globe = shapely.geometry.shape(one["geometry"])
        assert globe.is_valid
        assert all(part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors) for part in getattr(globe, "geoms", [globe]))
        x, y = warp.transform("EPSG:4326", "EPSG:32632", *([value] for value in globe.centroid.coords[0]))
        assert np.hypot(x[0] - shape.centroid.x, y[0] - shape.centroid.y) < 0.01
    assert 11 < globe.centroid.x < 12
    assert 48 < globe.centroid.y < 49
    assert exported(tmp_path, view, GeoJson(coordinates="pixel"))["pixel_size"] == {"size": [0.5, 0.5], "unit": "meter"}


def test_simple_outlines_are_valid(tmp_path):
    """Simplified objects are valid, have fewer points and about the same area."""
    ids_YX = cells((300, 400), 100)
    whole, simple = (exported(tmp_path, view_of(ids_YX), GeoJson(simplify=simplify))["features"] for simplify in (0, 1))
    pairs = [[shapely.geometry.shape(one["geometry"]) for one in pair] for pair in zip(whole, simple, strict=True)]
    assert all(few.is_valid and not few.is_empty for _, few in pairs)
    assert sum(shapely.get_num_coordinates(few) for _, few in pairs) < 0.6 * sum(shapely.get_num_coordinates(many) for many, _ in pairs)
    assert sum(few.area for _, few in pairs) == pytest.approx(sum(many.area for many, _ in pairs), rel=0.03)


def test_classes_on_request(tmp_path):
    """`of` chooses; objects that are not told apart are refused."""
    ids_YX = np.zeros((9, 9), np.uint32)
    ids_YX[2:5, 2:5] = 1
    mask, view = ArrayRaster((ids_YX > 0).astype(np.uint8)), view_of(ids_YX)
    kinds = []
    for of, objects in (("auto", view), ("auto", None), ("classes", view), ("objects", view)):
        GeoJson(of=of).export(mask, MaskMeta((9, 9), classes=CLASSES, objects=objects), LocalStorage(tmp_path), "a.geojson")
        (one,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
        kinds.append(one["properties"]["objectType"])
    assert kinds == ["detection", "annotation", "annotation", "detection"]
    assert [GeoJson(of=of).needs_objects for of in ("auto", "classes", "objects")] == [False, False, True]
    with pytest.raises(InputError, match="Set `instances`"):
        GeoJson(of="objects").export(mask, MaskMeta((9, 9), classes=CLASSES), LocalStorage(tmp_path), "b.geojson")
    assert not (tmp_path / "b.geojson").exists()


def test_no_object_at_all(tmp_path):
    """An image without objects has a file without features."""
    assert exported(tmp_path, view_of(np.zeros((5, 5), np.uint32))) == {"type": "FeatureCollection", "features": []}
