"""Intervals of IoU: those of scipy's bootstrap over images, and none where images are too few."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from pipeline.report import intervals
from pipeline.report.intervals import difference_intervals_of, intervals_of, ious_of


def counts_of(images, classes=3, seed=3, most=5000):
    return np.random.default_rng(seed).integers(0, most, (images, classes, 3))


def pooled_iou(hits, false, missed, axis=-1):
    union = hits.sum(axis=axis) + false.sum(axis=axis) + missed.sum(axis=axis)
    with np.errstate(invalid="ignore"):
        return hits.sum(axis=axis) / union


def by_scipy(arrays, statistic, seed):
    """Return (low, high) as a user of scipy would compute them: one value at a time, arrays of pixels paired by image."""
    found = stats.bootstrap(
        arrays, statistic, paired=True, vectorized=True, method="percentile", batch=100, rng=np.random.default_rng(seed)
    )
    return tuple(float(end) for end in found.confidence_interval)


def columns(counts_NK3, class_id):
    return tuple(counts_NK3[:, class_id].T.astype(float))


@pytest.mark.parametrize("seed", [0, 7])
def test_intervals_equal_those_of_scipy(seed):
    """Each class has the interval that scipy gives for it alone with the same seed, to the last bit, and the mean likewise."""
    counts_NK3 = counts_of(12)

    def mean_iou(*pixels, axis=-1):
        return np.mean([pooled_iou(*pixels[3 * one : 3 * one + 3], axis=axis) for one in range(3)], axis=0)

    found = intervals_of(counts_NK3, seed=seed)
    assert list(found.classes) == [by_scipy(columns(counts_NK3, one), pooled_iou, seed) for one in range(3)]
    every = sum((columns(counts_NK3, one) for one in range(3)), ())
    assert found.mean == pytest.approx(by_scipy(every, mean_iou, seed), rel=1e-14)
    assert found.describe() == {
        "method": "percentile bootstrap over images",
        "confidence": 0.95,
        "resamples": 9999,
        "seed": seed,
        "images": 12,
        "note": None,
    }


def test_differences_equal_those_of_scipy():
    """The interval of a difference is scipy's for the paired statistic, narrower than that of a run where both vary alike."""
    first_NK3 = counts_of(12)
    second_NK3 = first_NK3 + np.array([300, 0, 0])
    found = difference_intervals_of(first_NK3, second_NK3)

    def difference(a, b, c, d, e, f, axis=-1):
        return pooled_iou(d, e, f, axis=axis) - pooled_iou(a, b, c, axis=axis)

    for one in range(3):
        assert found.classes[one] == by_scipy((*columns(first_NK3, one), *columns(second_NK3, one)), difference, 0)
    alone = intervals_of(first_NK3).classes[0]
    low, high = found.classes[0]
    assert 0 < low < high
    assert high - low < (alone[1] - alone[0]) / 2


def test_a_run_does_not_differ_from_itself():
    """The paired difference of equal counts is 0 in every draw."""
    found = difference_intervals_of(counts_of(6), counts_of(6))
    assert found.classes == ((0, 0),) * 3
    assert found.mean == (0, 0)


@pytest.mark.parametrize("images", [0, 1, 4])
def test_few_images_have_no_interval(images):
    """Below five images nothing is drawn, and the note says how many are needed."""
    found = intervals_of(counts_of(images))
    assert (found.classes, found.mean) == ((None,) * 3, None)
    assert found.describe()["resamples"] == 0
    assert found.note == f"intervals take at least 5 images with truth; there {'is' if images == 1 else 'are'} {images}"


def test_a_class_of_few_images_has_no_interval():
    """A class that occurs in four images has none, one that is nowhere has none; the others keep theirs, and no warning appears."""
    counts_NK3 = counts_of(9)
    counts_NK3[4:, 1] = 0
    counts_NK3[:, 2] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = intervals_of(counts_NK3)
    assert found.classes == (by_scipy(columns(counts_NK3, 0), pooled_iou, 0), None, None)
    assert found.mean is not None
    assert found.note == "a class that occurs in fewer than 5 images has no interval"


def test_draws_without_a_class_are_left_out_for_it():
    """A class that some draws do not hold has the interval of the draws that do, and each mean is that of the classes in its draw."""
    counts_NK3 = counts_of(16, classes=2)
    counts_NK3[5:, 1] = 0
    scores, means = [], []
    for drawn in np.random.default_rng(0).integers(0, 16, (9999, 16)):
        pixels = [[sum(int(counts_NK3[image, one, kind]) for image in drawn) for kind in range(3)] for one in range(2)]
        ious = [hits / (hits + false + missed) for hits, false, missed in pixels if hits + false + missed]
        scores += ious[1:]
        means.append(sum(ious) / len(ious))
    assert 9900 < len(scores) < 9999
    found = intervals_of(counts_NK3)
    assert found.classes[1] == pytest.approx(np.quantile(scores, [0.025, 0.975]), rel=1e-12)
    assert found.mean == pytest.approx(np.quantile(means, [0.025, 0.975]), rel=1e-12)


def test_batches_do_not_change_an_interval(monkeypatch):
    """Memory is bounded by drawing in batches, which changes no number."""
    whole = intervals_of(counts_of(20))
    monkeypatch.setattr(intervals, "BATCH", 20 * 7)
    assert intervals_of(counts_of(20)) == whole


def test_large_counts_are_exact():
    """Pixels of many gigapixel images add up without rounding: IoU of equal images has an interval without width."""
    counts_NK3 = np.broadcast_to(np.array([[2**32 - 1, 1, 2]]), (100, 1, 3))
    share = (2**32 - 1) / (2**32 + 2)
    assert intervals_of(counts_NK3).classes == ((share, share),)


def test_iou_of_no_pixel_is_undefined():
    """A class without a pixel is NaN and left out of the mean; a mean of no class is NaN."""
    ious = ious_of(np.array([[[3, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]))
    assert ious[0].tolist()[::2] == [0.75, 0.75]
    assert math.isnan(ious[0, 1])
    assert np.isnan(ious[1]).all()
