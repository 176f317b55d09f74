"""Counts of pixels: exact integers that add, however an image was cut."""

from __future__ import annotations

import pickle
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.statistics.pixel_counts import Counts, class_areas, confusion_matrix, sum_cross_entropy

DTYPES = ["bool", "uint8", "int8", "uint16", ">u2", "int16", "int32", "uint32", "int64"]
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)


@st.composite
def pairs(draw):
    """Truth, mask and K; ids outside the classes are common, negative ones too."""
    shape = draw(SHAPES)
    classes = draw(st.integers(1, 20))
    arrays = []
    for _ in range(2):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        low = -3 if dtype.kind == "i" else 0
        values = st.booleans() if dtype.kind == "b" else st.sampled_from([*range(low, classes + 3), 100, 127])
        arrays.append(draw(hnp.arrays(dtype, shape, elements=values)))
    return arrays[0], arrays[1], classes


def reference(truth_YX, mask_YX, classes):
    counts = np.zeros((classes, classes), np.int64)
    for truth, mask in zip(truth_YX.ravel().tolist(), mask_YX.ravel().tolist(), strict=True):
        if 0 <= truth < classes and 0 <= mask < classes:
            counts[int(truth), int(mask)] += 1
    return counts


@settings(deadline=None)
@given(pairs())
def test_every_pair_is_counted_once(case):
    """The confusion is that of a loop over pixels, for every integer type, and its type is int64."""
    truth_YX, mask_YX, classes = case
    found = confusion_matrix(truth_YX, mask_YX, classes=classes)
    assert found.dtype == np.int64
    assert found.tolist() == reference(truth_YX, mask_YX, classes).tolist()


@settings(deadline=None)
@given(pairs(), st.lists(st.integers(0, 9), max_size=3), st.lists(st.integers(0, 9), max_size=3))
def test_the_sum_over_any_cut_is_the_whole(case, rows, cols):
    """Cut an image into blocks as you like: their counts add up to the image's, and no pixel is lost."""
    truth_YX, mask_YX, classes = case
    ys = sorted({0, truth_YX.shape[0], *(min(y, truth_YX.shape[0]) for y in rows)})
    xs = sorted({0, truth_YX.shape[1], *(min(x, truth_YX.shape[1]) for x in cols)})
    total = Counts(np.zeros(classes, np.int64))
    for y0, y1 in pairwise(ys):
        for x0, x1 in pairwise(xs):
            block = np.s_[y0:y1, x0:x1]
            predicted, missing = class_areas(mask_YX[block], classes=classes)
            total += Counts(predicted, missing, confusion_matrix(truth_YX[block], mask_YX[block], classes=classes))
    predicted, missing = class_areas(mask_YX, classes=classes)
    assert total.pixels == mask_YX.size
    assert (total.predicted.tolist(), total.no_prediction) == (predicted.tolist(), missing)
    if mask_YX.size:
        assert total.confusion.tolist() == confusion_matrix(truth_YX, mask_YX, classes=classes).tolist()


@pytest.mark.parametrize("classes", [2, 3, 15, 16, 255, 300])
def test_large_images_are_counted_band_by_band(classes):
    """An image larger than a band, seen through strides and with ids above 255, is counted exactly."""
    rng = np.random.default_rng(classes)
    truth_YX, mask_YX = rng.integers(0, classes + 2, (2, 1801, 1203)).astype(np.uint16)[:, ::2]
    joint = np.bincount(truth_YX.ravel().astype(np.int64) * (classes + 2) + mask_YX.ravel(), minlength=(classes + 2) ** 2)
    expected = joint.reshape(classes + 2, classes + 2)[:classes, :classes]
    assert (confusion_matrix(truth_YX, mask_YX, classes=classes) == expected).all()
    predicted, missing = class_areas(mask_YX, classes=classes)
    assert (predicted == np.bincount(mask_YX.ravel(), minlength=classes)[:classes]).all()
    assert missing == (mask_YX >= classes).sum()


def test_counts_are_exact_where_float32_stops():
    """Past 2**24 pixels, and past 2**53, one pixel more is one pixel more; the control shows that float32 loses it."""
    image_YX = np.zeros((4097, 4096), np.uint8)
    assert confusion_matrix(image_YX, image_YX, classes=2)[0, 0] == 4097 * 4096 > 2**24
    one = Counts(np.array([1, 0]), confusion=np.array([[1, 0], [0, 0]]))
    for many in (2**24, 2**53):
        total = Counts(np.array([many, 0]), confusion=np.array([[many, 0], [0, 0]])) + one
        assert (total.predicted[0], total.confusion[0, 0]) == (many + 1, many + 1)
        assert np.float32(many) + np.float32(1) == np.float32(many)


def test_parts_without_truth_change_no_metric():
    """Adding a block without truth adds its areas and leaves confusion and cross-entropy as they are."""
    known = Counts(np.array([1, 0]), confusion=np.array([[1, 0], [0, 0]]), cross_entropy=0.5, cross_entropy_pixels=1)
    total = known + Counts(np.array([0, 7]), no_prediction=2, skipped=2)
    assert (total.predicted.tolist(), total.no_prediction, total.skipped, total.pixels) == ([1, 7], 2, 2, 10)
    assert (total.confusion.tolist(), total.cross_entropy, total.cross_entropy_pixels) == ([[1, 0], [0, 0]], 0.5, 1)


def test_counts_travel():
    """Counts survive the way between processes."""
    counts = Counts(np.array([1, 2]), confusion=np.eye(2, dtype=np.int64), cross_entropy=1.5)
    back = pickle.loads(pickle.dumps(counts))
    assert (back.confusion == counts.confusion).all()
    assert back.cross_entropy == 1.5


def test_what_cannot_be_counted_is_refused():
    """Shapes that differ and ids that are not integers are errors, never a count."""
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), classes=2)
    with pytest.raises(TypeError, match="float64"):
        class_areas(np.zeros((2, 2)), classes=2)


def test_cross_entropy_has_no_clamp():
    """A confident mistake costs its whole logit, and a certain hit nothing."""
    logits_KYX = np.array([[[1000.0, 1000.0]], [[0.0, 0.0]]], np.float32)
    assert sum_cross_entropy(logits_KYX, np.array([[1, 0]])) == (1000.0, 2)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_one_logit_is_class_one_against_zero(seed):
    """K = 1: the logit of class 1 alone gives what the pair (0, logit) gives."""
    rng = np.random.default_rng(seed)
    logit_YX, truth_YX = rng.normal(size=(5, 7)).astype(np.float32), rng.integers(0, 3, (5, 7))
    assert sum_cross_entropy(logit_YX[None], truth_YX) == sum_cross_entropy(np.stack([0 * logit_YX, logit_YX]), truth_YX)


def test_ignored_pixels_may_hold_anything():
    """Logits under ignored truth are never looked at, NaN included, and nothing counted is zero nats over zero pixels."""
    logits_KYX = np.zeros((2, 3, 4), np.float32)
    logits_KYX[:, 1] = np.nan
    truth_YX = np.zeros((3, 4), np.uint8)
    truth_YX[1] = 255
    total, pixels = sum_cross_entropy(logits_KYX, truth_YX)
    assert (total, pixels) == (pytest.approx(8 * np.log(2)), 8)
    assert sum_cross_entropy(logits_KYX, np.full((3, 4), 255, np.uint8)) == (0.0, 0)


@pytest.mark.parametrize("classes", [2, 19])
def test_counting_needs_little_memory(classes):
    """Counting a block takes a few MB however large it is: an eighth of what float64 copies of the scores would."""
    rng = np.random.default_rng(0)
    logits_KYX = rng.normal(size=(classes, 1024, 1024)).astype(np.float32)
    truth_YX = rng.integers(0, classes, (1024, 1024)).astype(np.uint8)
    tracemalloc.start()
    try:
        sum_cross_entropy(logits_KYX, truth_YX)
        confusion_matrix(truth_YX, truth_YX, classes=classes)
        class_areas(truth_YX, classes=classes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
