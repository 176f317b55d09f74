"""From scores to classes: numpy's argmax, weights that sum to one, probabilities to the nearest step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import BlockError
from pipeline.tiling import stitching as stitch
from pipeline.tiling.stitching import argmax_into, axis_weights, softmax_bytes

WIDTH, ROWS = 7, 9  # of the arrays that follow; and rows of theirs that are worked on at a time


@pytest.fixture(autouse=True)
def _bands(monkeypatch):
    """Bands of a few rows, so that small arrays have several."""
    monkeypatch.setattr(stitch, "BAND", WIDTH * ROWS)


SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([-3.5, -1.0, -0.0, 0.0, 1.0, 2.0, 1e30, -1e30, 3e38, 1e-40]),
)


@given(SCORES)
def test_argmax_is_numpys(scores_KYX):
    """The first of the largest, ties to the lowest class, also where the sum of all scores overflows."""
    mask_YX = np.full(scores_KYX.shape[1:], 77, np.uint8)
    argmax_into(scores_KYX, mask_YX)
    assert (mask_YX == scores_KYX.argmax(axis=0)).all()


@pytest.mark.parametrize("height", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_argmax_of_many_rows_and_classes(height, kind):
    """Bands leave no seam; the mask may be a view, and classes above 255 need 16 bits."""
    classes = 5 if kind == np.uint8 else 300
    scores_KYX = np.random.default_rng(height).integers(0, 9, (classes, height, WIDTH)).astype(np.float32)
    whole = np.zeros((height + 2, 11), kind)
    argmax_into(scores_KYX, whole[1:-1, 2:-2])
    assert (whole[1:-1, 2:-2] == scores_KYX.argmax(axis=0)).all()
    assert not whole[0].any()
    assert not whole[:, :2].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@given(
    where=st.tuples(st.integers(0, 2), st.integers(0, 2 * ROWS), st.integers(0, 4)), also=st.sampled_from([None, np.inf, -np.inf, np.nan])
)
@settings(max_examples=25)
def test_scores_that_are_not_finite_are_refused(bad, where, also):
    """NaN and infinities are found wherever they are, also two that cancel each other out."""
    scores_KYX = np.zeros((3, 2 * ROWS + 1, 5), np.float32)
    scores_KYX[where] = bad
    if also is not None:
        scores_KYX[(where[0] + 1) % 3, where[1], where[2]] = also
    with pytest.raises(BlockError, match="NaN or infinite"):
        argmax_into(scores_KYX, np.zeros(scores_KYX.shape[1:], np.uint8))


@given(
    kind=st.sampled_from(["linear", "gaussian"]),
    core=st.integers(1, 40),
    halo=st.integers(0, 120),
    count=st.integers(1, 12),
)
def test_weights_sum_to_one(kind, core, halo, count):
    """At every pixel of the axis the weights of all tiles that reach it sum to one, also where the halo is wider than the core."""
    total = np.zeros(core * count + 2 * halo)
    for index in range(count):
        own = axis_weights(kind, core, halo, index, count)
        assert own.shape == (core + 2 * halo,)
        assert own.dtype == np.float32
        assert (own > 0).all()
        total[index * core : index * core + len(own)] += own
    assert total[halo : halo + core * count] == pytest.approx(1, abs=1e-5)


@given(st.sampled_from(["linear", "gaussian"]), st.integers(1, 20), st.integers(0, 30))
def test_weights_look_alike_from_both_sides(kind, core, halo):
    """The first tile's weights are the last one's in reverse; of a lone tile all are one."""
    first, last = axis_weights(kind, core, halo, 0, 5), axis_weights(kind, core, halo, 4, 5)
    assert first == pytest.approx(last[::-1], abs=1e-6)
    assert axis_weights(kind, core, halo, 0, 1) == pytest.approx(np.ones(core + 2 * halo))


@given(hnp.arrays(np.float32, (3, ROWS + 3, 2), elements=st.floats(-90, 90, width=32)))
@settings(max_examples=25)
def test_probabilities_are_softmax_in_steps(scores_KYX):
    """Each is the softmax times 255 to the nearest step, and the scores stay as they were."""
    before = scores_KYX.copy()
    shifted = scores_KYX.astype(np.float64) - scores_KYX.max(axis=0)
    wanted = 255 * np.exp(shifted) / np.exp(shifted).sum(axis=0)
    assert (np.abs(softmax_bytes(scores_KYX) - wanted) <= 0.501).all()
    assert (scores_KYX == before).all()
