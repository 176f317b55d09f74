"""What every way to skip promises; a new file in pipeline/skips/ is tested with no edit here."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from pipeline.geometry import Box
from pipeline.plugins import available, build
from pipeline.raster import Header
from pipeline.skips import SkippedImage, open_kept
from tests.contracts.plugin_examples import check_options, example_in

each = pytest.mark.parametrize("name", available("skips"))
SHAPE = (400, 600)
SIDE = 8


def example_of(name):
    """The spec that the docstring shows."""
    return example_in("skips", name)["skip"]


@pytest.fixture
def image(tmp_path, monkeypatch):
    """Stained noise on the left, glass on the right, no data in the left upper corner, and a polygon."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "regions").mkdir()
    ring = [[10, 20], [300, 20], [300, 390], [10, 20]]
    (tmp_path / "regions" / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    random, rows, cols = np.random.default_rng(0), SHAPE[0] // SIDE, SHAPE[1] // SIDE
    cells_CYX = random.integers(90, 200, (3, rows, cols)).astype(np.uint8)
    cells_CYX[:, :, cols // 2 :] = 240
    valid_YX = np.ones((rows, cols), np.bool_)
    valid_YX[:12, :12] = False
    header = Header(SHAPE, 3, "uint8", has_mask=True, is_color=True)
    return SkippedImage("b/a", "a.tif", header, header, SIDE, 16, cells=lambda: [(cells_CYX, valid_YX)], has_data=lambda: [valid_YX])


@each
def test_options_are_strict_and_described(name):
    """An unknown option is refused by its name, and every option says what it means."""
    check_options("skips", "skip", name)


@each
@pytest.mark.parametrize("skipped_as", ["none", "background"])
def test_a_skip_is_a_value(name, skipped_as):
    """It is frozen, travels to other processes, and is built again from its options, `as` among them."""
    skip = build("skips", {**example_of(name), "as": skipped_as})
    assert skip.skipped_as == skipped_as
    assert pickle.loads(pickle.dumps(skip)) == skip
    dumped = json.loads(json.dumps(skip.model_dump(mode="json")))
    assert dumped["as"] == skipped_as
    assert build("skips", {"name": name, **dumped}) == skip
    with pytest.raises(ValueError, match="frozen"):
        skip.anything = 1


@each
def test_what_is_kept_is_told_by_region(name, image):
    """What is found is JSON that is the same each time; each region is that of the whole, and so is whether any of it is kept."""
    skip = build("skips", example_of(name))
    assert not skip.problems(image)
    found = skip.find(image)
    assert json.loads(json.dumps(found)) == found == skip.find(image)
    kept = open_kept(found, image.header, None)
    whole_YX = kept.of(Box(0, 0, *SHAPE), 0)
    assert whole_YX.shape == SHAPE
    assert whole_YX.dtype == bool
    assert 0 < whole_YX.mean() < 1
    random = np.random.default_rng(1)
    for _ in range(50):
        (y0, y1), (x0, x1) = (sorted(random.choice(side + 1, 2, replace=False).tolist()) for side in SHAPE)
        box = Box(y0, x0, y1, x1)
        assert np.array_equal(kept.of(box, 0), whole_YX[box.slices])
        assert kept.has_any(box, 0) == whole_YX[box.slices].any()
