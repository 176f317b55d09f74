"""The places where validation images are wrong most: found by counting on a grid, as brute force finds them."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

import pipeline
from pipeline.geometry import Box
from pipeline.statistics import confusion_matrix
from pipeline.training.worst_crops import CELL, CELLS, _places, main_confusions, mean_iou, worst_crops, worst_csv
from tests.training.scene import discs, planned

SIDE = CELL * CELLS


@settings(max_examples=200)
@given(
    st.tuples(st.integers(1, 1200), st.integers(1, 900)),
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999), st.integers(1, 50)), max_size=8),
)
def test_the_first_place_is_the_worst_and_none_overlap(shape, number, spots):
    """Among all windows of whole cells none holds more wrong pixels; every place lies in the image; all are apart."""
    cells = tuple(-(-length // CELL) for length in shape)
    wrong_YX, known_YX = np.zeros(cells, np.int64), np.full(cells, 100)
    for row, col, pixels in spots:
        wrong_YX[int(row * cells[0]), int(col * cells[1])] += pixels
    places = list(_places(wrong_YX, known_YX, shape, number))
    tops, lefts = (range(max(1, count - CELLS + 1)) for count in cells)
    most = max(wrong_YX[top : top + CELLS, left : left + CELLS].sum() for top in tops for left in lefts)
    assert places[0][0] == most
    assert all(first[0] >= second[0] for first, second in pairwise(places))
    for wrong, box in places:
        assert wrong <= wrong_YX.sum()
        assert box.shape == tuple(min(SIDE, length) for length in shape)
        assert box.intersection(Box(0, 0, *shape)) == box
    assert not any(one.intersection(other) for at, (_, one) in enumerate(places) for _, other in places[:at])


def test_places_without_truth_are_none():
    """Cells without a known pixel are never chosen; a plane without any has no place."""
    known_YX = np.zeros((8, 8), np.int64)
    assert not list(_places(known_YX, known_YX, (1024, 1024), 4))
    known_YX[7, 7] = 5
    (place,) = _places(np.zeros((8, 8), np.int64), known_YX, (1024, 1000), 4)
    assert place == (0, Box(640, 616, 1024, 1000))


@given(st.integers(1, 4), st.data())
def test_confusions_and_iou_are_those_of_a_loop(classes, data):
    """Each class of the truth has the one it is taken for most; the IoU is that of its definition."""
    matrix = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 5), min_size=classes, max_size=classes), min_size=classes, max_size=classes))
    )
    found = {one.truth: one for one in main_confusions(matrix)}
    ious = []
    for one in range(classes):
        others = [matrix[one, other] for other in range(classes) if other != one]
        assert (one in found) == any(others)
        if any(others):
            assert found[one].pixels == max(others) == matrix[one, found[one].predicted]
            assert found[one].predicted != one
        if union := matrix[one].sum() + matrix[:, one].sum() - matrix[one, one]:
            ious.append(matrix[one, one] / union)
    assert mean_iou(matrix) == (pytest.approx(np.mean(ious)) if ious else None)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A large image and two small ones that a threshold segments well, but for what is wrong in their truth; and the masks."""
    folder = tmp_path_factory.mktemp("worst")
    for part in ("images", "truth"):
        (folder / part).mkdir()
    for name, side, seed in (("large", 1100, 1), ("small", 96, 2), ("good", 96, 3), ("unknown", 96, 4), ("learnt", 128, 5)):
        pixels, truth = discs(seed, side, number=side // 16)
        truth = (truth > 0).astype(np.uint8)
        if name == "large":
            truth[800:900, 600:700] = 1 - truth[800:900, 600:700]  # the worst place
            truth[100:160, 100:160] = 1 - truth[100:160, 100:160]  # another one
            truth[300:600, :] = 9  # not known there
        if name == "small":
            truth[:48] = 1 - truth[:48]
        if name == "unknown":
            truth[:] = 9
        Picture.fromarray(np.where(pixels > 120, 200, 20).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Picture.fromarray(truth).save(folder / "truth" / f"{name}.png")
    classes = [{"name": "ground"}, {"name": "disc"}]
    run = {"images": [str(folder / "images")], "model": {"name": "histogram"}, "normalize": None, "classes": classes}
    pipeline.run({**run, "output": str(folder / "run"), "compute": {"runner": "serial"}})
    names = {"val": {"names": ["large", "small", "good", "unknown"]}}
    return folder, planned(folder, classes=classes, ignore=9, **names), folder / "run" / "masks"


def test_what_is_wrong_is_found_first(scored):
    """The image with the largest share of wrong pixels is first; each place covers what is wrong; what is unknown counts nowhere."""
    folder, plan, masks = scored
    crops = worst_crops(plan, masks)
    assert [crop.image.name for crop in crops] == ["small", "large", "large", "good"]
    first, second = (crop.box for crop in crops[1:3])
    assert first.intersection(Box(800, 600, 900, 700)) == Box(800, 600, 900, 700)
    assert second.intersection(Box(100, 100, 160, 160)) == Box(100, 100, 160, 160)
    for crop in crops:
        truth = np.asarray(Picture.open(folder / "truth" / f"{crop.image.name}.png"))[crop.box.slices]
        mask = np.asarray(pipeline.open_run(folder / "run").mask(crop.image.name))[crop.box.slices]
        assert crop.confusion_KK.tolist() == confusion_matrix(truth, mask, classes=2).tolist()
        assert crop.wrong == ((truth != mask) & (truth < 2)).sum()
        assert crop.known == (truth < 2).sum()


def test_the_list_says_where_and_what(scored):
    """A row of worst.csv names image, box, score and the most common confusion."""
    _, plan, masks = scored
    crops = worst_crops(plan, masks)
    rows = list(csv.DictReader(io.StringIO(worst_csv(plan, crops))))
    assert [row["image"] for row in rows] == [crop.image.name for crop in crops]
    for row, crop in zip(rows, crops, strict=True):
        assert Box(*(int(row[key]) for key in ("y0", "x0", "y1", "x1"))) == crop.box
        assert float(row["wrong"]) == pytest.approx(crop.wrong / crop.known, abs=1e-6)
        assert (row["truth"] == "") == (crop.wrong == 0)
    assert (rows[1]["truth"], rows[1]["taken for"]) == ("disc", "ground")
    assert int(rows[1]["px"]) > 5000


def test_a_mask_that_failed_has_no_place(scored, tmp_path):
    """An image whose blocks have failed is left out."""
    _, plan, _ = scored
    assert worst_crops(plan, tmp_path) == []


def test_every_plane_of_a_stack_is_looked_at(tmp_path):
    """The place lies in the plane that is wrong."""
    for part in ("images", "truth"):
        (tmp_path / part).mkdir()
    for name in ("a", "b"):
        truth = np.stack([discs(seed, 96)[1] > 0 for seed in range(3)]).astype(np.uint8)
        pixels = np.where(truth > 0, 200, 20).astype(np.uint8)
        truth[2, :40, :40] = 1 - truth[2, :40, :40]
        for part, stack in (("images", pixels), ("truth", truth)):
            tifffile.imwrite(tmp_path / part / f"{name}.tif", stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    classes, reader = [{"name": "ground"}, {"name": "disc"}], {"name": "auto", "axes": "zyx"}
    run = {"images": [str(tmp_path / "images")], "model": {"name": "histogram"}, "normalize": None, "classes": classes, "reader": reader}
    pipeline.run({**run, "output": str(tmp_path / "run"), "compute": {"runner": "serial"}})
    plan = planned(tmp_path, classes=classes, reader=reader, truth="truth/{stem}.tif", val={"names": ["b"]})
    crop = worst_crops(plan, tmp_path / "run" / "masks")[0]
    assert crop.plane == 2
    assert crop.wrong >= 1600
