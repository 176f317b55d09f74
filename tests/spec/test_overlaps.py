"""Tiles of a map that are images of their own are told; what lies apart is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs import Image
from pipeline.inputs.overlaps import overlap_notes
from pipeline.raster import Header

UTM = {"34735": {"type": 3, "value": [1, 1, 0, 1, 3072, 0, 1, 32633]}}


def image(name, column, row, side=100, system=UTM, path=None, size=0.5):
    """Return an image of ``side`` pixels whose upper left corner lies at a pixel of one grid."""
    place = {"33550": {"value": [size, size, 0]}, "33922": {"value": [0, 0, 0, 5e5 + size * column, 5e6 - size * row, 0]}}
    header = Header((side, side), 1, "uint8", georeference={**system, **place})
    return Image(0, name, path or f"/{name}.tif", header, {})


def test_images_that_share_ground_are_told():
    """How many, two of them, what follows and what to do, in one note."""
    (note,) = overlap_notes([image("a", 0, 0), image("b", 90, 0), image("far", 500, 0)])
    assert note.startswith("2 images overlap others on the map, such as a and b: what they share is counted once for each")
    assert "`images: {mosaic: FOLDER}`" in note
    assert "--mosaic" in note


def test_images_side_by_side_are_told():
    """A line of pixels more or less is side by side; a corner is not, nor are two images with a gap."""
    for shift in (99.5, 100, 100.5):
        (note,) = overlap_notes([image("a", 0, 0), image("b", shift, 0)])
        assert note.startswith("2 images adjoin others on the map, such as a and b: each is segmented alone"), shift
    assert not overlap_notes([image("a", 0, 0), image("b", 100, 100)])
    assert not overlap_notes([image("a", 0, 0), image("b", 102, 0)])
    assert not overlap_notes([image("a", 0, 0), image("b", 100, 0)], is_segmented=False)


def test_what_cannot_be_compared_is_not():
    """Another coordinate system, no place, and images of one file."""
    assert not overlap_notes([image("a", 0, 0), image("b", 0, 0, system={})])
    assert not overlap_notes([image("a", 0, 0, path="/x.tif"), image("b", 0, 0, path="/x.tif")])
    plain = Image(0, "a", "/a.tif", Header((9, 9), 1, "uint8"), {})
    assert not overlap_notes([plain, plain])
    assert not overlap_notes([])


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(20, 120)), min_size=2, max_size=8))
def test_overlaps_are_those_of_painted_squares(places):
    """The number of images that overlap is that of squares which share over a hundredth of the smaller, painted pixel by pixel."""
    painted = np.zeros((len(places), 520, 520), bool)
    for canvas, (column, row, side) in zip(painted, places, strict=True):
        canvas[row : row + side, column : column + side] = True
    shared = np.einsum("ayx,byx->ab", painted.astype(np.int32), painted.astype(np.int32))
    least = np.minimum.outer(shared.diagonal(), shared.diagonal())
    expected = int(((shared > 0.01 * least) & ~np.eye(len(places), dtype=bool)).any(axis=1).sum())
    notes = overlap_notes([image(f"n{at}", *place) for at, place in enumerate(places)])
    told = [note for note in notes if "overlap" in note]
    assert bool(told) is bool(expected)
    if told:
        assert told[0].startswith(f"{expected} images overlap")


@pytest.mark.parametrize("number", [2, 3])
def test_rows_of_tiles_adjoin(number):
    """Every tile of a checker of tiles adjoins another."""
    tiles = [image(f"{row}-{column}", 100 * column, 100 * row) for row in range(number) for column in range(number)]
    assert overlap_notes(tiles)[0].startswith(f"{number**2} images adjoin")
