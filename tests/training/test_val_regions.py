"""Validation by region: which parts of an image are kept, that nothing near them is learnt from, and what they are scored by."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

import pipeline
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.models.bundle_files import read_spec
from pipeline.raster import Header
from pipeline.training import crops as crops_module
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.val_regions import ValRegions, choose_regions, grid_cells, leaves_room
from tests.training.scene import OFF, discs, planned, refusal, report_of, train_yaml, write_scene
from workflows.plan_training import plan_training
from workflows.train import train

BY_REGION = {"by": "region", "fraction": 0.2}
sides = st.integers(1, 90)


def image_of(shape, name="a"):
    return Image(0, name, f"/{name}.tif", Header(shape, 1, "uint8"), {"name": "auto"})


def closed_pixels(shape, boxes, gap):
    """Which pixels lie in a box or within ``gap`` rows and columns of it, one box at a time."""
    closed = np.zeros(shape, bool)
    for box in boxes:
        closed[max(0, box.y0 - gap) : box.y1 + gap, max(0, box.x0 - gap) : box.x1 + gap] = True
    return closed


@given(st.tuples(sides, sides), st.floats(0.05, 0.9), st.integers(4, 40))
def test_cells_cover_the_image_once(shape, fraction, crop):
    """Every pixel is in one cell, there are at least two cells, and cells are not much larger than they may be."""
    cells = grid_cells(shape, fraction, crop)
    covered = np.zeros(shape, int)
    for cell in cells:
        covered[cell.slices] += 1
    assert (covered == 1).all()
    assert len(cells) > 1 or shape == (1, 1)
    assert all(side <= 12 * crop for cell in cells for side in cell.shape)


@given(st.data(), st.tuples(st.integers(20, 90), st.integers(20, 90)), st.floats(0.1, 0.6), st.integers(4, 12), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_what_is_chosen(data, shape, fraction, crop, margin):
    """Regions hold labels, leave room for a crop, depend on seed, name and labels alone, and come close to the share."""
    cells, reach = grid_cells(shape, fraction, crop), crop + 2 * margin
    labelled = data.draw(st.lists(st.integers(0, 50), min_size=len(cells), max_size=len(cells)))
    chosen = choose_regions(image_of(shape), cells, labelled, fraction=fraction, crop=crop, reach=reach, seed=3)
    again = choose_regions(image_of(shape), cells, labelled, fraction=fraction, crop=crop, reach=reach, seed=3)
    by_box = dict(zip(cells, labelled, strict=True))
    assert chosen == again
    assert all(by_box[box] > 0 for box in chosen.boxes)
    assert chosen.num_labelled == sum(by_box[box] for box in chosen.boxes)
    assert chosen.num_labelled_in_all == sum(labelled)
    if chosen.boxes:
        assert leaves_room(chosen.boxes, shape, crop, reach)
        assert chosen.num_labelled <= fraction * sum(labelled) + max(by_box[box] for box in chosen.boxes)


@given(st.data(), st.tuples(sides, sides), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_room_is_what_trying_every_place_finds(data, shape, crop, margin):
    """There is room where some crop inside the image, with its margin cut off at the edge, is clear of regions and gaps."""
    box = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1), st.integers(1, 30), st.integers(1, 30))
    boxes = [Box(y, x, min(y + h, shape[0]), min(x + w, shape[1])) for y, x, h, w in data.draw(st.lists(box, max_size=3))]
    closed = closed_pixels(shape, boxes, crop)
    tops, lefts = (range(length - crop + 1) if length >= crop else [(length - crop) // 2] for length in shape)
    clear = (not closed[max(0, y - margin) : y + crop + margin, max(0, x - margin) : x + crop + margin].any() for y in tops for x in lefts)
    assert leaves_room(boxes, shape, crop, crop + 2 * margin) == any(clear)


@given(st.data(), st.tuples(sides, sides), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_closed_pixels(data, shape, gap):
    """Counting, marking and asking agree with a mask of the whole image."""
    box = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1), st.integers(1, 30), st.integers(1, 30))
    boxes = [Box(y, x, min(y + h, shape[0]), min(x + w, shape[1])) for y, x, h, w in data.draw(st.lists(box, max_size=4))]
    closed, regions = closed_pixels(shape, boxes, gap), ValRegions(tuple(boxes), gap)
    y, x, h, w = data.draw(box)
    part = Box(y, x, min(y + h, shape[0]), min(x + w, shape[1]))
    ids = np.zeros(part.shape, np.uint8)
    regions.mark(ids, part, 7)
    assert regions.num_closed(shape) == closed.sum()
    np.testing.assert_array_equal(ids == 7, closed[part.slices])
    assert regions.is_clear(part) == (not closed[part.slices].any())


def one_scene(folder, side=320, number=40, count=1):
    """One image or more, large enough for regions."""
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        pixels, truth = discs(seed, side, 1, number)
        Picture.fromarray(pixels).save(folder / "images" / f"a{seed}.png")
        Picture.fromarray(truth).save(folder / "truth" / f"a{seed}.png")
    return folder


@pytest.mark.parametrize("augment", [OFF, {"scale": [0.5, 2.0], "rotate": 40, "elastic": 1.5, "blur": 1.0}])
@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_nothing_that_is_read_for_a_crop_is_near_a_region(tmp_path, monkeypatch, augment, balance):
    """Whatever the augmentation needs around a crop, no pixel of a region or of its gap is read."""
    plan = planned(one_scene(tmp_path, count=2), val=BY_REGION, crop=32, augment=augment, sampling={"balance": balance})
    read = []

    def recording(raster, box, plane):
        read.append(box)
        return original(raster, box, plane)

    original = crops_module.read_zero_filled
    monkeypatch.setattr(crops_module, "read_zero_filled", recording)
    crops, number = Crops(plan, ImageCache(2**28)), {"a0": 0, "a1": 0}
    for index in range(200):
        name = crops[index].where.partition(" at ")[0]
        at = [image.name for image in plan.train].index(name)
        assert not closed_pixels((320, 320), plan.regions[at].boxes, 32)[read[-1].clip((320, 320)).slices].any()
        number[name] += 1
    assert min(number.values()) > 50


def test_regions_change_nothing_that_is_learnt(tmp_path):
    """Class areas and the numbers to normalise with are those of the pixels outside of regions and gaps, counted by numpy."""
    folder = one_scene(tmp_path)
    pixels, truth = (np.asarray(Picture.open(folder / part / "a0.png")) for part in ("images", "truth"))
    plan = planned(folder, val=BY_REGION, crop=32, normalize="dataset")
    is_open = ~closed_pixels((320, 320), plan.regions[0].boxes, 32)
    assert 0 < is_open.sum() < is_open.size
    assert plan.num_pixels == is_open.sum()
    assert plan.statistics.areas.pixels == ((truth[is_open] == 0).sum(), (truth[is_open] > 0).sum())
    np.testing.assert_allclose(plan.normalize["mean"], pixels[is_open].mean(), rtol=1e-6)
    np.testing.assert_allclose(plan.normalize["std"], pixels[is_open].std(), rtol=1e-6)


def test_the_share_is_of_labelled_pixels(tmp_path):
    """Half of an image without data and truth that is ignored elsewhere: regions lie where labels are, and hold about the share of them."""
    folder = one_scene(tmp_path, side=640, number=90)
    pixels, truth = (np.asarray(Picture.open(folder / part / "a0.png")).copy() for part in ("images", "truth"))
    pixels[:, :320] = 0
    truth[500:] = 255
    Picture.fromarray(np.maximum(pixels, np.where(np.arange(640) < 320, 0, 1)).astype(np.uint8)).save(folder / "images" / "a0.png")
    Picture.fromarray(truth).save(folder / "truth" / "a0.png")
    plan = planned(folder, val=BY_REGION, crop=16, ignore=255, reader={"name": "auto", "nodata": 0})
    regions = plan.regions[0]
    inside = np.zeros((640, 640), bool)
    for box in regions.boxes:
        inside[box.slices] = True
    is_labelled = (np.arange(640) >= 320)[None, :] & (np.arange(640) < 500)[:, None]
    assert regions.num_labelled_in_all == is_labelled.sum()
    assert regions.num_labelled == (inside & is_labelled).sum()
    assert 0.1 < regions.num_labelled / is_labelled.sum() < 0.35
    crops = Crops(plan, ImageCache(2**28))
    assert all((crops[index].target_YX != 255).any() for index in range(60))


def test_other_seeds_keep_other_regions(tmp_path):
    """The same seed keeps the same regions; of several seeds, not all keep the same."""
    folder = one_scene(tmp_path)
    boxes = [planned(folder, val=BY_REGION, crop=32, seed=seed).regions[0].boxes for seed in (0, 0, 1, 2, 3)]
    assert boxes[0] == boxes[1]
    assert len(set(boxes)) > 1


def test_an_image_that_is_too_small_is_refused_with_its_numbers(tmp_path):
    """Side, region, gap and what a crop needs are named, and what to do."""
    message = refusal(write_scene(tmp_path, 2), val=BY_REGION, crop=48)
    assert "a0.png: found 96 x 96 pixels, of which a region takes 48 x 48, its gap 48 on each side" in message
    assert "up to 60 x 60. Use a smaller crop, or keep whole images: val: 0.2." in message
    assert "a1.png" in message


@pytest.mark.parametrize(
    ("val", "found"),
    [
        ({"fraction": 0.2}, "found {'fraction': 0.2}; expected {names: [..]}, {fraction: 0.2, by: region}, or {by: 'rat\\d+'}"),
        ({"names": ["a0"], "by": "region"}, "expected {names: [..]}, {fraction: 0.2, by: region}, or {by: 'rat\\d+'}"),
        ({"by": "regions"}, "val.by: found 'regions', which finds nothing in 6 of 6 names (a0, a1, a2, a3 and 2 more)"),
        ({"by": "region", "fraction": 1.0}, "val.fraction: found 1.0; expected a number above 0 and below 1 or null"),
    ],
)
def test_a_wrong_val_is_refused(mine, val, found):
    """What is wrong is named with its key."""
    assert found in refusal(mine, val=val)


@pytest.fixture(scope="module", params=["png", "half"])
def trained(request, tmp_path_factory):
    """A training on two images by region: on the images' own grid, and at half their resolution."""
    folder = one_scene(tmp_path_factory.mktemp(request.param), count=2)
    scale = {"resolution": {"scale": 0.5}, "crop": 16} if request.param == "half" else {"crop": 32}
    yaml = train_yaml(folder, val=BY_REGION, steps=40, **scale)
    assert train(yaml) == 0
    return folder, yaml, planned(folder, val=BY_REGION, steps=40, **scale)


def test_the_score_is_that_of_the_regions_alone(trained):
    """A run over the whole images, counted by numpy inside the regions, has the confusion of the training's report."""
    folder, _, plan = trained
    scale = {"resolution": {"scale": 0.5}} if plan.val[0].grid else {}
    whole = pipeline.run(
        {
            "images": [str(folder / "images")],
            "model": {"name": "bundle", "path": str(folder / "out" / "bundle")},
            "output": str(folder / "whole"),
            **scale,
        }
    )
    confusion = np.zeros((2, 2), int)
    for image in plan.val:
        mask = np.asarray(whole.mask(image.name))
        truth = np.asarray(Picture.open(folder / "truth" / f"{image.name}.png")) > 0
        truth = truth[1::2, 1::2] if scale else truth
        for box in plan.regions_of(image).boxes:
            np.add.at(confusion, (truth[box.slices].astype(int), mask[box.slices]), 1)
    report, scores = report_of(folder / "out"), read_spec(folder / "out" / "bundle").scores["validation"]
    assert report["confusion"] == confusion.tolist()
    assert scores["pixels"] == confusion.sum()
    assert scores["iou"]["disc"] == confusion[1, 1] / (confusion[1].sum() + confusion[0, 1])
    assert scores["mean_iou"] == report["mean_iou"]


def test_what_validates_is_recorded_in_words(trained, capsys):
    """model.yaml, run.json, the page and the plan say how much is kept; the regions lie beside them, for other models."""
    folder, yaml, plan = trained
    out = folder / "out"
    words = plan.val_words
    assert words.startswith("2 regions of 2 images with ")
    assert words.endswith(f"no training crop comes within {plan.crop} pixels of a region")
    assert read_spec(out / "bundle").scores["validation"]["val"] == words
    assert json.loads((out / "run.json").read_text())["training"]["val"] == words
    assert words in (out / "training.html").read_text()
    plan_training(yaml, ["output=other"])
    told = capsys.readouterr().out
    assert f"validation: {words}" in told
    assert f"truth/a1.png, {len(plan.regions[1].boxes)} region of it\n" in told
    plan_training(yaml, ["output=other"], as_json=True)
    listed = json.loads(capsys.readouterr().out)["val"]
    assert [[Box(*box) for box in one["regions"]] for one in listed] == [list(one.boxes) for one in plan.regions]
    for image in plan.val:
        features = json.loads((out / "val_regions" / f"{image.name}.geojson").read_text())["features"]
        assert len(features) == len(plan.regions_of(image).boxes)
    assert train(yaml) == 0  # a second call changes nothing


def test_every_plane_of_a_stack_has_the_same_regions(tmp_path):
    """A crop of any plane stays clear of them, and labels are counted over all planes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "truth").mkdir()
    stacks = [np.stack(part) for part in zip(*(discs(seed, 256, 1, 30) for seed in range(3)), strict=True)]
    for folder, stack in zip(("images", "truth"), stacks, strict=True):
        tifffile.imwrite(tmp_path / folder / "a.tif", stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    plan = planned(tmp_path, truth="truth/{stem}.tif", val=BY_REGION, crop=32, augment=OFF, reader={"name": "auto", "axes": "zyx"})
    closed = closed_pixels((256, 256), plan.regions[0].boxes, 32)
    assert plan.regions[0].num_labelled_in_all == 3 * 256 * 256
    assert plan.num_pixels == 3 * (~closed).sum()
    crops = Crops(plan, ImageCache(2**28))
    for index in range(40):
        box = eval(crops[index].where.partition(" at ")[2], {"Box": Box})  # noqa: S307 - our own text
        assert not closed[box.slices].any()


def test_an_image_without_regions_validates_nothing():
    """It has no closed pixel."""
    none = ValRegions((), 16)
    assert none.num_closed((10, 10)) == 0
    assert none.is_clear(Box(0, 0, 10, 10))
    assert replace(none, gap=0) != none
