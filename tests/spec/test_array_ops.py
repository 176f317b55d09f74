"""Array operations: what each of them promises, held by numpy's and by those of a device alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import BlockError
from pipeline.statistics import CONFIDENCE_BINS, CONFIDENCE_STEPS
from pipeline.tiling import NumpyOps
from pipeline.tiling.stitching import axis_weights

torch = pytest.importorskip("torch")


def every_kind():
    """Numpy, torch's CPU as the device that it stands for, and a GPU where there is one."""
    from pipeline.tiling.torch_ops import TorchOps

    return {"numpy": NumpyOps(), "device": TorchOps("cpu"), **({"gpu": TorchOps("cuda")} if torch.cuda.is_available() else {})}


OPS = every_kind()


@pytest.fixture(params=list(OPS))
def ops(request):
    """Operations of one kind."""
    return OPS[request.param]


def fetched(ops, value):
    """A value of any kind, as numpy or Python."""
    return ops.fetch({"value": value})()["value"]


SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 5), st.integers(1, 6), st.integers(1, 6)),
    elements=st.sampled_from([-3.5, -1.0, 0.0, 1.0, 20.0, 1e30]),
)


@given(SCORES)
def test_argmax_is_the_first_of_the_largest(scores_KYX):
    """Ties go to the lowest class, and finite scores of any size have a finite check."""
    for ops in OPS.values():
        ids_YX, check = ops.argmax(ops.put(scores_KYX))
        assert np.array_equal(fetched(ops, ids_YX), scores_KYX.argmax(0))
        assert np.isfinite(fetched(ops, check))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_told(ops, bad):
    """Numpy refuses it at once; a device does not wait to find out, and the check that comes with the classes is not finite."""
    scores_KYX = np.zeros((3, 4, 5), np.float32)
    scores_KYX[1, 2, 3] = bad
    if isinstance(ops, NumpyOps):
        with pytest.raises(BlockError, match="NaN or infinite"):
            ops.argmax(scores_KYX)
    else:
        _, check = ops.argmax(ops.put(scores_KYX))
        assert not np.isfinite(fetched(ops, check))


@pytest.mark.parametrize("num", [1, 3])
def test_views_become_a_batch(ops, num):
    """One array or several of one shape are a batch of them in order; a single one is not copied."""
    views = [ops.put(np.full((2, 3, 4), at, np.uint8)) for at in range(num)]
    batch = ops.stack(views)
    assert tuple(batch.shape) == (num, 2, 3, 4)
    assert [int(one[0, 0, 0]) for one in batch] == list(range(num))
    batch[0, 0, 0, 0] = 77
    assert (int(views[0][0, 0, 0]) == 77) == (num == 1)


def test_outputs_of_a_model_become_arrays_of_the_kind(ops):
    """Whatever a model gives, an array or a tensor, has the same values as an array of this kind."""
    values_KYX = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for outputs in (values_KYX, torch.from_numpy(values_KYX)):
        array = ops.as_array(outputs)
        assert type(array) is type(ops.put(values_KYX))
        assert np.array_equal(fetched(ops, array), values_KYX)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16"])
def test_arrays_begin_as_zeros_of_their_type(ops, dtype):
    """Whatever a device computes with, masks, probabilities and maps come back in the type that was asked for."""
    found = fetched(ops, ops.zeros((2, 3, 4), dtype))
    assert (found.dtype, found.shape) == (dtype, (2, 3, 4))
    assert not found.any()


@given(SCORES)
def test_the_winners_probability_is_the_largest_of_all(scores_KYX):
    """In steps of 1/255 it is that of the class which argmax finds, for scores of any size."""
    for ops in OPS.values():
        winner_YX = fetched(ops, ops.winner_bytes(ops.put(scores_KYX)))
        probs_KYX = fetched(ops, ops.softmax_bytes(ops.put(scores_KYX)))
        assert winner_YX.dtype == np.uint8
        assert np.array_equal(winner_YX, probs_KYX.max(0))


def test_halves_stay_inside_their_range(ops):
    """Distances beyond what float16 holds become its largest number rather than infinity."""
    halves, check = ops.as_half(ops.put(np.array([0.25, -7.0, 1e6, -3e38, 3e38], np.float32)))
    assert fetched(ops, halves).dtype == np.float16
    assert fetched(ops, halves).tolist() == [0.25, -7.0, 65504, -65504, 65504]
    assert np.isfinite(fetched(ops, check))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_half_that_is_not_finite_is_told(ops, bad):
    """As of scores: numpy refuses it at once, a device later."""
    values = np.array([1.0, bad], np.float32)
    if isinstance(ops, NumpyOps):
        with pytest.raises(BlockError, match="NaN or infinite"):
            ops.as_half(values)
    else:
        assert not np.isfinite(fetched(ops, ops.as_half(ops.put(values))[1]))


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_weights_are_those_of_stitching(ops, kind):
    """Weights of a tile are the same to the bit, whoever makes them, and however often."""
    for place in ((8, 3, 0, 4), (8, 3, 2, 4), (8, 12, 1, 4), (8, 3, 0, 1)):
        for _ in range(2):
            assert np.array_equal(fetched(ops, ops.axis_weights(kind, *place)), axis_weights(kind, *place))


def test_weighing_makes_new_scores(ops):
    """Scores times both weights, in float32; the scores stay as they were."""
    rng = np.random.default_rng(0)
    scores_KYX, weight_Y, weight_X = (rng.random(shape, np.float32) for shape in ((3, 5, 4), 5, 4))
    given_KYX = ops.put(scores_KYX)
    weighted_KYX = fetched(ops, ops.weigh(given_KYX, ops.put(weight_Y), ops.put(weight_X)))
    assert weighted_KYX.dtype == np.float32
    assert np.array_equal(weighted_KYX, scores_KYX * (weight_Y[:, None] * weight_X))
    assert np.array_equal(fetched(ops, given_KYX), scores_KYX)


@settings(max_examples=25)
@given(hnp.arrays(np.float32, (3, 4, 2), elements=st.floats(-90, 90, width=32)))
def test_probabilities_are_softmax_in_steps(scores_KYX):
    """Each is the softmax times 255, to the nearest step."""
    shifted = scores_KYX.astype(np.float64) - scores_KYX.max(axis=0)
    wanted = 255 * np.exp(shifted) / np.exp(shifted).sum(axis=0)
    for ops in OPS.values():
        probs_KYX = fetched(ops, ops.softmax_bytes(ops.put(scores_KYX)))
        assert probs_KYX.dtype == np.uint8
        assert (np.abs(probs_KYX - wanted) <= 0.51).all()


@given(seed=st.integers(0, 99), num_classes=st.sampled_from([2, 3, 300]))
@settings(max_examples=20)
def test_counts_are_those_of_every_pixel(seed, num_classes):
    """Classes, pixels without prediction, confusion and equal pixels are as counted one by one; a truth that is no class has no row."""
    rng = np.random.default_rng(seed)
    kind = np.uint8 if num_classes <= 255 else np.uint16
    mask_YX, truth_YX = (rng.integers(0, num_classes, (9, 7)).astype(kind) for _ in range(2))
    mask_YX[rng.random(mask_YX.shape) < 0.2] = truth_YX[rng.random(truth_YX.shape) < 0.2] = np.iinfo(kind).max
    pairs = list(zip(truth_YX.ravel().tolist(), mask_YX.ravel().tolist(), strict=True))
    for ops in OPS.values():
        counts = ops.fetch(ops.count(ops.put(mask_YX), ops.put(truth_YX), num_classes))()
        assert counts["predicted"].tolist() == [sum(mask == k for _, mask in pairs) for k in range(num_classes)]
        assert counts["no_prediction"] == sum(mask >= num_classes for _, mask in pairs)
        confusion = np.zeros((num_classes, num_classes), int)
        for truth, mask in pairs:
            if truth < num_classes and mask < num_classes:
                confusion[truth, mask] += 1
        assert np.array_equal(counts["confusion"], confusion)
        assert ops.fetch(ops.count(ops.put(mask_YX), None, num_classes))()["confusion"] is None
        assert fetched(ops, ops.count_equal(ops.put(mask_YX), ops.put(truth_YX))) == sum(truth == mask for truth, mask in pairs)


def test_cross_entropy_is_summed_over_known_pixels(ops):
    """Nats of the true class, summed in float64 over the pixels whose truth is a class, and how many those are."""
    rng = np.random.default_rng(3)
    scores_KYX = (rng.standard_normal((3, 6, 5)) * 30).astype(np.float32)
    truth_YX = rng.integers(0, 4, (6, 5)).astype(np.uint8)  # 3 is no class
    values_KYX = scores_KYX.astype(np.float64)
    nats_YX = np.log(np.exp(values_KYX - values_KYX.max(0)).sum(0)) + values_KYX.max(0)
    wanted = sum(nats_YX[y, x] - values_KYX[truth_YX[y, x], y, x] for y, x in np.argwhere(truth_YX < 3))
    nats, pixels = (fetched(ops, value) for value in ops.cross_entropy(ops.put(scores_KYX), ops.put(truth_YX)))
    assert nats == pytest.approx(wanted, rel=1e-12)
    assert pixels == np.count_nonzero(truth_YX < 3)


def test_confidence_is_counted_over_known_pixels(ops):
    """Pixels, right pixels and summed probability of each bin: of the softmax's largest value, where the truth is a class."""
    rng = np.random.default_rng(4)
    scores_KYX = rng.standard_normal((3, 50, 40)).astype(np.float32) * 2
    truth_YX = rng.integers(0, 4, (50, 40)).astype(np.uint8)  # 3 is no class
    classes_YX = scores_KYX.argmax(0).astype(np.uint8)
    shares_KYX = np.exp(scores_KYX.astype(np.float64))
    shares_YX = (shares_KYX / shares_KYX.sum(0)).max(0)[truth_YX < 3]
    right = (classes_YX == truth_YX)[truth_YX < 3]
    bins = (shares_YX * CONFIDENCE_BINS).astype(int)
    found = fetched(ops, ops.confidence(ops.put(scores_KYX), ops.put(classes_YX), ops.put(truth_YX)))
    assert found.dtype == np.int64
    assert found[0].tolist() == np.bincount(bins, minlength=CONFIDENCE_BINS).tolist()
    assert found[1].tolist() == np.bincount(bins[right], minlength=CONFIDENCE_BINS).tolist()
    sums = np.bincount(bins, shares_YX, minlength=CONFIDENCE_BINS) * CONFIDENCE_STEPS
    assert np.abs(found[2] - sums).max() <= 2 * found[0].max()


def test_what_is_fetched_is_numpys_and_pythons(ops):
    """Arrays come back as numpy arrays, numbers as Python numbers, None and text as they are."""
    array_YX = np.arange(6, dtype=np.int16).reshape(2, 3)
    values = ops.fetch(
        {"array": ops.put(array_YX), "number": ops.count_equal(ops.put(array_YX), ops.put(array_YX)), "none": None, "text": "a"}
    )()
    assert np.array_equal(values["array"], array_YX)
    assert isinstance(values["array"], np.ndarray)
    assert values["number"] == 6
    assert isinstance(values["number"], int)
    assert (values["none"], values["text"]) == (None, "a")
