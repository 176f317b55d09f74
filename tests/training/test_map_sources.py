"""Training on what maps come as: tiles of a mosaic and polygons give the weights that one file and a mask give."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.readers.map_tiles import save_quarters, save_tile
from tests.training.scene import discs, report_of, train_yaml, weights_at
from workflows.train import train

SHORT = {"steps": 6, "crop": 32, "val": {"by": "region"}}
CLASSES = [{"name": "ground"}, {"name": "disc"}]


def assert_same_training(one, other):
    """Two output folders hold the same weights and the same scores."""
    found, wanted = weights_at(one), weights_at(other)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    assert report_of(one)["confusion"] == report_of(other)["confusion"]
    assert report_of(one)["mean_iou"] is not None


@pytest.fixture(scope="module")
def of_file(tmp_path_factory):
    """The output of a training on one map and its mask, which are discs(3, 256, 3, 30)."""
    folder = tmp_path_factory.mktemp("file")
    pixels, truth = discs(3, 256, 3, 30)
    for name in ("images", "truth"):
        (folder / name).mkdir()
    save_tile(folder / "images" / "map.tif", np.moveaxis(pixels, -1, 0), 0, 0)
    save_tile(folder / "truth" / "map.tif", (truth > 0).astype(np.uint8), 0, 0)
    assert train(train_yaml(folder, **SHORT, truth="truth/{stem}.tif", classes=CLASSES)) == 0
    return folder / "out"


def test_a_mosaic_is_learnt_from_as_one_image(tmp_path, of_file):
    """Four tiles with four tiles of truth, kept apart by region, against the same pixels in one file."""
    pixels, truth = discs(3, 256, 3, 30)
    save_quarters(tmp_path / "tiles", np.moveaxis(pixels, -1, 0), (128, 96))
    save_quarters(tmp_path / "masks", (truth > 0).astype(np.uint8), (96, 160))
    mosaic = {"images": {"mosaic": "tiles/*.tif", "name": "map"}, "truth": {"mosaic": "masks/*.tif"}}
    assert train(train_yaml(tmp_path, **SHORT, **mosaic, classes=CLASSES)) == 0
    assert_same_training(tmp_path / "out", of_file)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of an image, its mask, the same mask as GeoJSON with the names of classes, and a training on image and mask."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(4)
    pixels, mask = rng.integers(40, 90, (256, 256)).astype(np.uint8), np.zeros((256, 256), np.uint8)
    features = []
    for y, x in rng.integers(4, 230, (24, 2)).tolist():
        mask[y : y + 18, x : x + 14] = 1
        pixels[y : y + 18, x : x + 14] += 100
        ring = [[x, y], [x + 14, y], [x + 14, y + 18], [x, y + 18], [x, y]]
        features.append({"type": "Feature", "properties": {"kind": "disc"}, "geometry": {"type": "Polygon", "coordinates": [ring]}})
        pixels = np.minimum(pixels, 200)
    for name in ("images", "truth"):
        (folder / name).mkdir()
    Image.fromarray(pixels).save(folder / "images" / "a.png")
    Image.fromarray(mask).save(folder / "truth" / "a.png")
    (folder / "truth" / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert train(train_yaml(folder, **SHORT, classes=CLASSES, output="of_mask")) == 0
    return folder


@pytest.mark.parametrize("attribute", [None, "kind"])
def test_polygons_are_learnt_from_as_a_mask_is(drawn, attribute):
    """Squares drawn as GeoJSON, with and without the names of classes, against a mask of the same squares."""
    truth = {"path": "truth/{stem}.geojson", **({"attribute": attribute} if attribute else {})}
    output = f"of_polygons_{attribute}"
    assert train(train_yaml(drawn, f"{output}.yaml", **SHORT, truth=truth, classes=CLASSES, output=output)) == 0
    assert_same_training(drawn / output, drawn / "of_mask")


def test_truth_on_another_grid_is_learnt_from_where_it_lies(tmp_path, of_file):
    """Truth on a larger canvas that begins elsewhere, which is told, against the same truth on the grid of the image."""
    pixels, truth = discs(3, 256, 3, 30)
    for name in ("images", "wide"):
        (tmp_path / name).mkdir()
    save_tile(tmp_path / "images" / "map.tif", np.moveaxis(pixels, -1, 0), 0, 0)
    save_tile(tmp_path / "wide" / "map.tif", np.pad((truth > 0).astype(np.uint8), ((20, 5), (30, 7)), constant_values=1), -20, -30)
    assert train(train_yaml(tmp_path, **SHORT, truth="wide/{stem}.tif", classes=CLASSES)) == 0
    assert_same_training(tmp_path / "out", of_file)
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
    assert any(note.endswith("wide/map.tif: shifted by 20 rows, 30 columns and cropped to the image") for note in notes)
