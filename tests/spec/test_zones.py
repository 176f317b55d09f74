"""Zones at plan time: every mistake is told with the others, before a folder is made."""

from __future__ import annotations

import importlib.util
import json
import os

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from tests.conftest import engine_yaml, save_tiff

pytest.importorskip("pyogrio", reason="zones need the extra `geo`")
pytest.importorskip("rasterio", reason="zones need the extra `geo`")

MODEL = {"model": {"name": "identity", "classes": 2}, "normalize": None, "tiling": {"halo": 0}}


def save_zones(path, *corners, **properties):
    """Write squares of 20 pixels with the same properties, in pixels."""
    features = []
    for x, y in corners:
        ring = [[x, y], [x + 20, y], [x + 20, y + 20], [x, y + 20], [x, y]]
        features.append({"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture
def catalogue(tmp_path):
    """Build the catalogue of two images with ``zones``."""
    for name in "ab":
        save_tiff(tmp_path / f"{name}.tif", np.zeros((100, 120), np.uint8))

    def build(zones, **keys):
        return build_catalogue(load_config(engine_yaml(tmp_path, **MODEL, **{"images": ["a.tif", "b.tif"], **keys}, zones=zones)))

    return build


def refused(catalogue, zones, **keys):
    with pytest.raises(InputError) as caught:
        catalogue(zones, **keys)
    return str(caught.value)


def test_images_get_their_zones(tmp_path, catalogue):
    """One file for all, or one for each; names by the attribute, else by the number; several polygons of a name are one zone."""
    save_zones(tmp_path / "z.geojson", (10, 10), (50, 50), name="north")
    images = catalogue({"path": "z.geojson", "attribute": "name"}).images
    assert {image.zones.path for image in images} == {f"{tmp_path}/z.geojson"}
    zones = images[0].zones.on(images[0])
    assert (zones.names, zones.shared) == (["north", "north"], {"north"})
    numbered = catalogue("z.geojson").images[0]
    assert numbered.zones.on(numbered).names == ["0", "1"]
    assert numbered.zones.identity != images[0].zones.identity
    save_zones(tmp_path / "a.geojson", (1, 1))
    found = catalogue("{stem}.geojson")
    assert [image.zones and image.zones.path for image in found.images] == [f"{tmp_path}/a.geojson", None]
    assert "b: no file of zones" in found.notes
    assert catalogue(None).images[0].zones is None


def test_zones_lie_on_the_working_grid(tmp_path, catalogue):
    """Pixels are those of the file; half as many of the working grid."""
    save_zones(tmp_path / "z.geojson", (10, 20))
    image = catalogue("z.geojson", resolution={"scale": 0.5}).images[0]
    assert image.zones.on(image).layer.bounds.tolist() == [[5, 10, 15, 20]]


def test_a_missing_file_is_told_with_the_others(tmp_path, catalogue):
    """Exit 2 holds every problem: the zones, and an image that is missing as well."""
    text = refused(catalogue, "none.gpkg", images=["a.tif", "gone.tif"])
    assert "none.gpkg" in text
    assert "gone.tif" in text
    assert "zones: found" in text
    assert "No zones for a" in text
    assert refused(catalogue, "z/{stem}.gpkg").count("zones: found") == 1


def test_an_attribute_or_a_layer_that_is_missing_is_refused(tmp_path, catalogue):
    """With the nearest one that is there."""
    save_zones(tmp_path / "z.geojson", (10, 10), district="north")
    text = refused(catalogue, {"path": "z.geojson", "attribute": "distrikt"})
    assert "distrikt" in text
    assert "district" in text
    assert "nolayer" in refused(catalogue, {"path": "z.geojson", "layer": "nolayer"})


def test_polygons_that_meet_no_image_are_refused(tmp_path, catalogue):
    """If one image is met, the others are outside of all zones, which is no mistake."""
    save_zones(tmp_path / "z.geojson", (500, 500))
    text = refused(catalogue, "z.geojson")
    assert "z.geojson: found polygons at x 500 to" in text
    assert "all outside of the image; expected some within x 0 to" in text
    save_zones(tmp_path / "a.geojson", (10, 10))
    save_zones(tmp_path / "b.geojson", (500, 500))
    assert len(catalogue("{stem}.geojson").images) == 2


def test_a_zone_may_not_be_called_as_the_rest_is(tmp_path, catalogue):
    """`outside` is what reports call the pixels of no zone; a null is told apart by name."""
    save_zones(tmp_path / "z.geojson", (10, 10), name="outside")
    assert "a zone named 'outside'" in refused(catalogue, {"path": "z.geojson", "attribute": "name"})
    save_zones(tmp_path / "z.geojson", (10, 10), (40, 40), name=None)
    (tmp_path / "z.geojson").write_text((tmp_path / "z.geojson").read_text().replace("null", '"x"', 1))
    image = catalogue({"path": "z.geojson", "attribute": "name"}).images[0]
    assert image.zones.on(image).names == ["x", "unnamed"]


def test_a_file_that_changes_is_another_one(tmp_path, catalogue):
    """Size and time of change are part of its identity."""
    save_zones(tmp_path / "z.geojson", (10, 10))
    before = catalogue("z.geojson").images[0].zones
    os.utime(tmp_path / "z.geojson", ns=(1, 1))
    after = catalogue("z.geojson").images[0].zones
    assert before.identity != after.identity
    assert before.states.changed() == f"{tmp_path}/z.geojson"


def test_without_the_packages_a_message_says_what_to_install(tmp_path, catalogue, monkeypatch):
    """The extra may be absent: the way out is the command that installs it."""
    save_zones(tmp_path / "z.geojson", (10, 10))
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pyogrio" else spec(name, *rest))
    assert 'pip install "gigaseg[geo]"' in refused(catalogue, "z.geojson")
