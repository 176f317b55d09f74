"""Tiles are what is stored: pixels, classes, truth and errors, at full size and smaller, side by side without a gap."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import mask_at
from tests.viewer.conftest import CLASSES, SHAPE, run_scene

COLORS = np.array([[*bytes.fromhex(one["color"][1:]), 255] for one in CLASSES], np.uint8)
FALSE, MISSED, WRONG = (213, 94, 0), (86, 180, 233), (204, 121, 167)


def stored_mask(scene, step, output="out"):
    """The mask at a step: a level of its pyramid, or every second pixel of the smallest."""
    import zarr

    group = scene / output / "masks" / "scan.ome.zarr"
    level = min(step.bit_length() - 1, 2)
    assert not (group / "3").exists()
    return zarr.open_array(group / str(level), mode="r")[...][:: step // 2**level, :: step // 2**level]


def truth(scene, step=1):
    import tifffile

    return tifffile.imread(scene / "truth" / "scan.tif")[::step, ::step]


@pytest.mark.parametrize("step", [1, 2, 8])
def test_a_mask_is_what_is_stored(scene, opened, step):
    """Each pixel has the colour of its class, at full size, on a level of the pyramid, and above the smallest level."""
    mask_YX = stored_mask(scene, step)
    assert set(np.unique(mask_YX)) == {0, 1, 2}
    np.testing.assert_array_equal(opened(scene / "out").picture("mask", step), COLORS[mask_YX])


@pytest.mark.parametrize("step", [1, 4])
def test_truth_is_what_is_stored_and_ignored_pixels_are_transparent(scene, opened, step):
    """Each pixel has the colour of its true class, by the first pixel of each square."""
    truth_YX = truth(scene, step)
    expected = np.concatenate([COLORS, np.zeros((7, 4), np.uint8)])[truth_YX]
    picture = opened(scene / "out").picture("truth", step)
    np.testing.assert_array_equal(picture[..., 3], expected[..., 3])
    np.testing.assert_array_equal(picture[picture[..., 3] > 0], expected[picture[..., 3] > 0])


@pytest.mark.parametrize("step", [1, 4])
def test_errors_are_where_the_tiles_of_mask_and_truth_differ(scene, opened, step):
    """False, missed and wrong class have a colour each; what is right or ignored is transparent."""
    mask_YX, truth_YX = stored_mask(scene, step), truth(scene, step)
    kinds = {FALSE: (truth_YX == 0) & (mask_YX > 0), MISSED: (mask_YX == 0) & (truth_YX > 0)}
    kinds[WRONG] = (mask_YX != truth_YX) & (mask_YX > 0) & (truth_YX > 0)
    picture = opened(scene / "out").picture("error", step)
    is_wrong = np.zeros(truth_YX.shape, bool)
    for color, found in kinds.items():
        found &= truth_YX != 9
        is_wrong |= found
        assert (picture[found] == [*color, 255]).all()
    assert is_wrong.any()
    np.testing.assert_array_equal(picture[..., 3] > 0, is_wrong)


def test_only_chosen_classes_are_shown(scene, opened):
    """Other classes are transparent, and an error counts if the mask or the truth is of a chosen class."""
    mask_YX, truth_YX = stored_mask(scene, 1), truth(scene)
    page = opened(scene / "out")
    np.testing.assert_array_equal(page.picture("mask", 1, classes="0,2")[..., 3] > 0, mask_YX != 1)
    kinds = page.picture("error", 1, classes="2")
    differs = ((mask_YX == 2) != (truth_YX == 2)) & (truth_YX != 9)
    np.testing.assert_array_equal(kinds[..., 3] > 0, differs)
    assert (kinds[(mask_YX == 2) & differs] == [*FALSE, 255]).all()


def test_an_image_keeps_its_colours(scene, opened):
    """8-bit colours differ by what JPEG changes, and a smaller picture is the mean over each square."""
    import tifffile

    page = opened(scene / "out")
    pixels = tifffile.imread(scene / "scan.tif").astype(float)
    for step in (1, 4):
        whole = pixels[: SHAPE[0] // step * step, : SHAPE[1] // step * step]
        expected = whole.reshape(SHAPE[0] // step, step, SHAPE[1] // step, step, 3).mean(axis=(1, 3))
        picture = page.picture("image", step)
        assert picture.shape == (-(-SHAPE[0] // step), -(-SHAPE[1] // step), 4)
        assert (picture[..., 3] == 255).all()
        shown = picture[: expected.shape[0], : expected.shape[1], :3]
        assert np.abs(shown - expected).mean() < 8
        assert np.abs(shown[1:] - expected[:-1]).mean() > 20  # a pixel further these pixels differ by much more


def test_difference_is_where_two_masks_differ(scene, opened):
    """The layer is offered where the other run has the image, and shows each pixel whose classes differ."""
    page = opened(scene / "out", scene / "other")
    assert "difference" in page.json("/api/image", name="scan")["layers"]
    differs = stored_mask(scene, 1) != stored_mask(scene, 1, "other")
    assert differs.any()
    np.testing.assert_array_equal(page.picture("difference", 1)[..., 3] > 0, differs)
    assert "difference" not in opened(scene / "out").json("/api/image", name="scan")["layers"]


def test_difference_is_that_of_classes_of_a_name(scene, opened):
    """A run that lists its classes in another order: the masks hold the same ids, which mean other classes."""
    if not (scene / "turned").exists():
        run_scene(scene, "turned", classes=[CLASSES[1], CLASSES[0], CLASSES[2]])
    mask_YX = stored_mask(scene, 1)
    np.testing.assert_array_equal(stored_mask(scene, 1, "turned"), mask_YX)
    page = opened(scene / "out", scene / "turned")
    np.testing.assert_array_equal(page.picture("difference", 1)[..., 3] > 0, mask_YX != 2)


def test_outlines_are_the_outermost_pixels_of_objects(scene, opened):
    """They have the colour of the class and do not depend on how tiles are cut; the chosen object is filled."""
    import zarr

    ids = zarr.open_array(scene / "out" / "instances" / "scan.ome.zarr" / "0", mode="r")[...]
    padded = np.pad(ids, 1, mode="edge")
    around = [padded[1 + dy : 1 + dy + SHAPE[0], 1 + dx : 1 + dx + SHAPE[1]] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    expected = np.logical_or.reduce([one != ids for one in around]) & (ids > 0)
    page = opened(scene / "out")
    picture = page.picture("outlines", 1)
    np.testing.assert_array_equal(picture[..., 3] > 0, expected)
    assert (picture[expected] == COLORS[2]).all()
    chosen = int(np.bincount(ids[ids > 0]).argmax())
    np.testing.assert_array_equal(page.picture("outlines", 1, object=chosen)[..., 3] > 0, expected | (ids == chosen))


def test_a_level_of_one_pixel_and_places_outside(scene, opened):
    """Level 0 is one pixel, as in Deep Zoom; there is nothing beyond the picture."""
    page = opened(scene / "out")
    assert page.json("/api/image", name="scan")["levels"] == 12
    assert page.tile("mask", 0, 0, 0).shape == (1, 1, 4)
    assert page.tile("image", 11, 5, 2).shape == (700 - 512, 1300 - 1280, 4)
    for place in ("11/6_0", "11/0_3", "12/0_0", "99/0_0", "11/9999999_0"):
        assert page.get(f"/tile/a/mask/{place}.png", name="scan").status_code == 404


def test_a_pixel_has_class_truth_object_and_values(scene, opened):
    """What a click shows is what is stored; the ignored corner has no true class."""
    import tifffile

    page, mask_YX = opened(scene / "out"), mask_at(scene / "out", "scan")
    y, x = map(int, np.argwhere((mask_YX == 2) & (truth(scene) != 9))[5])
    found = page.json("/api/at", name="scan", plane=0, y=y, x=x)
    assert (found["class"], found["truth"]) == (2, truth(scene)[y, x])
    assert found["values"] == tifffile.imread(scene / "scan.tif")[y, x].tolist()
    row = page.json("/api/object", name="scan", id=found["object"])
    assert row["box"][0] <= y < row["box"][2]
    assert page.json("/api/at", name="scan", y=3, x=3)["truth"] is None
    assert page.get("/api/at", name="scan", y=700, x=3).status_code == 400


def test_worst_blocks_are_those_of_the_ledger(scene, opened):
    """They come worst first, with their pixels; the count of wrong pixels is that of mask and truth."""
    page = opened(scene / "out")
    worst = page.json("/api/worst", by="error", count=4)
    assert [one["pixels"] for one in worst] == sorted((one["pixels"] for one in worst), reverse=True)
    y0, x0, y1, x1 = worst[0]["box"]
    mask_YX, truth_YX = stored_mask(scene, 1)[y0:y1, x0:x1], truth(scene)[y0:y1, x0:x1]
    wrong = int(((mask_YX != truth_YX) & (truth_YX != 9)).sum())
    assert worst[0]["pixels"] == wrong > 0
    assert worst[0]["share"] == pytest.approx(wrong / (truth_YX != 9).sum())
    assert len(page.json("/api/worst")) == 18
    assert page.json("/api/worst")[:4] == worst
    report = json.loads((scene / "out" / "report" / "report.json").read_text())["per_image"][0]
    assert page.json("/api/run")["images"] == [{"name": "scan", "mean_iou": report["mean_iou"], "state": "done"}]
