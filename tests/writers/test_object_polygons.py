"""Polygons of objects: valid, equal to the pixels, and the same however image and table are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import BlockError
from pipeline.writers import _object_polygons
from pipeline.writers._object_polygons import object_polygons
from pipeline.writers._tracing import find_corners, join_corners
from tests.writers.objects_by_hand import cells, in_order, view_of

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
features = pytest.importorskip("rasterio.features", reason="rasterio is not installed")

SMALL = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))


def traced(labels_YX, count):
    """One geometry a label."""
    return join_corners(find_corners(np.pad(labels_YX, 1), 0, 0), count)


def outlines(view):
    """All geometries, in order."""
    return np.concatenate([geometries for _, geometries in object_polygons(view)])


def same(one, two):
    """Whether two arrays of geometries are equal, point by point."""
    return list(shapely.to_wkb(one)) == list(shapely.to_wkb(two))


@settings(max_examples=100, deadline=None)
@given(labels_YX=SMALL)
def test_polygons_are_the_pixels(labels_YX):
    """A geometry is valid and covers the pixels of its label and no other; a label without pixels has none."""
    for label, geometry in enumerate(traced(labels_YX, 3), 1):
        is_label_YX = labels_YX == label
        if not is_label_YX.any():
            assert geometry is None
            continue
        assert shapely.is_valid(geometry), shapely.is_valid_reason(geometry)
        assert geometry.area == is_label_YX.sum()
        np.testing.assert_array_equal(features.rasterize([geometry], out_shape=labels_YX.shape), is_label_YX)


@settings(max_examples=100, deadline=None)
@given(labels_YX=SMALL, rows=st.integers(1, 4))
def test_corners_may_come_in_strips(labels_YX, rows):
    """Corners found strip by strip make the same polygons as those of the whole image."""
    whole_YX = np.pad(labels_YX, 1)
    parts = [find_corners(whole_YX[y : y + rows + 1], y, 0) for y in range(0, len(whole_YX) - 1, rows)]
    assert same(join_corners(np.concatenate(parts), 3), traced(labels_YX, 3))


def test_gdal_finds_the_same_areas():
    """Parts and holes of noise are those that GDAL finds, which shares no code with ours."""
    labels_YX = np.random.default_rng(0).integers(0, 3, (150, 170)).astype(np.int32)
    found = [(int(value), shapely.geometry.shape(shape)) for shape, value in features.shapes(labels_YX, connectivity=4) if value]
    for label, geometry in enumerate(traced(labels_YX, 2), 1):
        expected = [shape for value, shape in found if value == label]
        assert sorted(shapely.to_wkb(shapely.normalize(list(geometry.geoms)))) == sorted(shapely.to_wkb(shapely.normalize(expected)))


def test_islands_lie_in_holes():
    """A ring around a ring around a dot is three parts, each with its own hole."""
    yy, xx = np.mgrid[:59, :59]
    labels_YX = (np.maximum(abs(yy - 29), abs(xx - 29)) // 5 % 2 == 0).astype(np.uint8)
    (geometry,) = traced(labels_YX, 1)
    assert shapely.is_valid(geometry)
    assert geometry.area == labels_YX.sum()
    assert sorted(len(part.interiors) for part in geometry.geoms) == [0, 1, 1]


@pytest.mark.parametrize("cut", [{}, {"WINDOW": 64}, {"WINDOW": 16, "STRIP_PIXELS": 100}, {"BATCH": 37}], ids=str)
def test_the_cut_does_not_show(monkeypatch, cut):
    """Touching cells have the same polygons for any windows, strips, batches and parts of the table."""
    ids_YX = cells((500, 600), 900)
    expected = traced(ids_YX, int(ids_YX.max()))
    for name, value in cut.items():
        monkeypatch.setattr(_object_polygons, name, value)
    for rows in (10_000, 41):
        assert same(outlines(view_of(ids_YX, rows=rows)), expected)


def test_one_object_may_be_the_whole_image(monkeypatch):
    """An object that is larger than windows and strips, with others in its holes, is whole."""
    monkeypatch.setattr(_object_polygons, "WINDOW", 50)
    monkeypatch.setattr(_object_polygons, "STRIP_PIXELS", 3000)
    labels_YX = np.ones((300, 400), np.uint32)
    labels_YX[40:90, 30:350] = 0
    labels_YX[50:60, 40:50] = 2
    labels_YX[::7, ::11] = 0
    ids_YX = in_order(labels_YX)
    assert same(outlines(view_of(ids_YX)), traced(ids_YX, 2))


def test_planes_of_a_stack_are_apart():
    """Objects of several planes are traced each in its own plane."""
    ids = np.stack([cells((70, 80), 20, seed=seed) for seed in range(4)])
    for plane in range(1, 4):
        ids[plane][ids[plane] > 0] += ids[plane - 1].max()
    found = outlines(view_of(ids.reshape(2, 2, 70, 80), planes={"t": 2, "z": 2}))
    for plane in range(4):
        numbers = np.unique(ids[plane])[1:]
        drawn = features.rasterize(zip(found[numbers - 1], numbers, strict=True), out_shape=(70, 80), dtype="uint32")
        np.testing.assert_array_equal(drawn, ids[plane])


def test_no_object_and_ids_beyond_32_bits():
    """An image without objects has no polygons; 64-bit ids work."""
    assert len(outlines(view_of(np.zeros((5, 5), np.uint32)))) == 0
    assert outlines(view_of(np.ones((1, 1), np.uint64)))[0].area == 1


def test_a_table_of_other_labels_is_refused():
    """An object that the labels do not have is an error that names it."""
    ids_YX = cells((70, 80), 20)
    view = view_of(ids_YX)
    ids_YX[ids_YX == 7] = 0
    with pytest.raises(BlockError, match="object 7 is in the table"):
        outlines(view)
