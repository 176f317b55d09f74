"""The gallery of a report: the worst images first, drawn so that errors are seen, in bounded bytes."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report import gallery
from pipeline.report.gallery import MOST_BYTES, MOST_PICTURES, draw_picture, make_gallery, rank_images
from pipeline.report.pictures import FALSE, MISSED, UNKNOWN, WRONG
from pipeline.storage import open_storage
from tests.report.scenes import CLASSES, leave, report_of, scored, thumbnails_of

COLORS = [one["color"] for one in CLASSES]
LOST = {"pixels": 0, "no_prediction": 0}


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path))


def pixels_of(uri):
    """Red, green, blue and opacity of a picture in a page, (Y, X, 4)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


def colors_in(uri):
    return {tuple(color) for color in pixels_of(uri).reshape(-1, 4).tolist()}


def test_the_worst_image_comes_first():
    """Lowest mean IoU, then images without truth by agreement, then those of which nothing is known, then those without prediction."""
    whole = {"pixels": 9, "no_prediction": 0}
    images = [
        {**whole},
        LOST,
        {**whole, "mean_iou": 0.9},
        {**whole, "mean_iou": 0.1},
        {**whole, "overlap_agreement": 0.2, "mean_iou": None},
    ]
    assert rank_images({"per_image": images}) == [3, 2, 4, 0, 1]


def test_errors_are_told_apart():
    """False, missed and wrong class have a colour each, what is right is dimmed, no prediction is striped."""
    mask_YX = np.array([[0, 1, 0, 1, 1, 255, 255, 255, 255, 255]], np.uint8).repeat(10, 0)
    truth_YX = np.array([[0, 0, 1, 2, 1, 0, 1, 2, 0, 0]], np.uint8).repeat(10, 0)
    found = thumbnails_of(10, 10).__class__((10, 10), np.zeros((10, 10, 3), np.uint8), mask_YX, truth_YX)
    drawn = draw_picture(found, COLORS, 0, 1, MOST_BYTES)
    assert [panel.title for panel in drawn.panels] == ["Image", "Predicted outlines", "Errors"]
    errors_YXS = pixels_of(drawn.panels[2].overlay)
    assert [tuple(one[:3]) for one in errors_YXS[0, 1:4].tolist()] == [FALSE, MISSED, WRONG]
    assert errors_YXS[0, 0].tolist() == errors_YXS[0, 4].tolist()
    assert 0 < errors_YXS[0, 0, 3] < 255
    assert {tuple(one) for one in errors_YXS[:, 5:].reshape(-1, 4).tolist()} == set(UNKNOWN)
    assert {(0xE6, 0x19, 0x4B, 255), *UNKNOWN, (0, 0, 0, 0)} == colors_in(drawn.panels[1].overlay)
    assert (drawn.has_errors, drawn.has_unknown, drawn.has_ignored) == (True, True, False)


def test_ignored_truth_is_not_judged():
    """A pixel whose truth is ignored is neither right nor wrong."""
    drawn = draw_picture(thumbnails_of(missing=True), COLORS, 0, 1, MOST_BYTES)
    assert drawn.has_ignored
    assert tuple(pixels_of(drawn.panels[2].overlay)[5, -1, :3]) == (128, 128, 128)


def test_outlines_are_drawn_inside_of_their_class():
    """A square has an outline of its own pixels; its inside and the background are clear, and two classes that touch have one each."""
    mask_YX = np.zeros((12, 12), np.uint8)
    mask_YX[2:8, 2:8] = 1
    mask_YX[2:8, 8:11] = 2
    drawn = draw_picture(thumbnails_of().__class__((12, 12), np.zeros((12, 12, 3), np.uint8), mask_YX), COLORS, 0, 1, MOST_BYTES)
    seen_YX = pixels_of(drawn.panels[1].overlay)[..., 3] > 0
    assert seen_YX[2:8, 2].all()
    assert seen_YX[2:8, 7].all()
    assert seen_YX[2:8, 8].all()
    assert not seen_YX[3:7, 3:7].any()
    assert not seen_YX[mask_YX == 0].any()


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        ({"with_truth": False}, ["Image", "Predicted outlines", "Predicted classes"]),
        ({"with_image": False}, ["Predicted classes", "Truth", "Errors"]),
        ({"with_image": False, "with_truth": False}, ["Predicted classes"]),
    ],
)
def test_panels_are_those_that_can_be_drawn(options, titles):
    """Without truth there is no map of errors; without an image masks stand alone."""
    drawn = draw_picture(thumbnails_of(**options), COLORS, 0, 1, MOST_BYTES)
    assert [panel.title for panel in drawn.panels] == titles
    assert bool(drawn.image) == options.get("with_image", True)


def test_classes_beyond_a_palette_are_drawn():
    """A mask of 600 classes is a picture; ids above 255 have the colours of their classes."""
    mask_YX = np.arange(600, dtype=np.uint16).reshape(20, 30)
    colors = [f"#{index:06x}" for index in range(600)]
    drawn = draw_picture(thumbnails_of().__class__((20, 30), None, mask_YX, None, 65535), colors, 0, 1, MOST_BYTES)
    assert len(colors_in(drawn.panels[0].overlay)) == 250


def test_bytes_are_bounded(storage, monkeypatch):
    """48 images at most, all pictures within the bytes that are given, the larger sides where there is room."""
    images = [scored(f"image {index}", 0.5 + index / 200) for index in range(60)]
    report = report_of(*images, classes=CLASSES[:2])
    for image in images:
        leave(storage, image.name, thumbnails_of(200, 300))
    made = make_gallery(report, storage, COLORS)
    assert (len(made.pictures), made.total) == (MOST_PICTURES, 60)
    assert sum(one.num_bytes for one in made.pictures) <= MOST_BYTES
    assert {one.width for one in made.pictures} == {300}
    small = make_gallery(report, storage, COLORS, most_bytes=1_000_000)
    assert sum(one.num_bytes for one in small.pictures) <= 1_000_000
    assert max(one.width for one in small.pictures) < 300
    monkeypatch.setattr(gallery, "read_thumbnails", pytest.fail)
    assert make_gallery({"per_image": []}, storage, COLORS) is None


def test_truth_that_has_changed_since_is_not_shown(storage):
    """Errors are drawn only against the truth that the report counted."""
    leave(storage, "a", thumbnails_of())
    report = report_of(scored("a", 0.5))
    assert make_gallery(report, storage, COLORS, {"a": "key"}).pictures[0].has_errors
    assert not make_gallery(report, storage, COLORS, {"a": "another key"}).pictures[0].has_errors


def test_an_image_without_thumbnail_keeps_its_place(storage):
    """Its card has no panels; without any thumbnail there is no gallery."""
    report = report_of(scored("a", 0.9), scored("b", 0.5))
    assert make_gallery(report, storage, COLORS) is None
    leave(storage, "a", thumbnails_of())
    assert [bool(one.panels) for one in make_gallery(report, storage, COLORS).pictures] == [False, True]
