"""Our metrics are those of scikit-learn, torchmetrics and torch, on random and on degenerate data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.metrics.semantic import Semantic
from pipeline.statistics import CONFIDENCE_BINS, count_confidence
from pipeline.statistics.pixel_counts import Counts, class_areas, confusion_matrix, sum_cross_entropy

IGNORED = 255


def scored(truth_YX, mask_YX, classes):
    predicted, missing = class_areas(mask_YX, classes=classes)
    return Semantic().compute(Counts(predicted, missing, confusion_matrix(truth_YX, mask_YX, classes=classes)))


@st.composite
def cases(draw):
    """Truth with ignored pixels, mask with holes, K; any of them may lack any class."""
    classes = draw(st.integers(1, 6))
    size = draw(st.integers(1, 40))
    in_truth = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes)) + draw(st.sampled_from([[], [IGNORED]]))
    in_mask = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes)) + draw(st.sampled_from([[], [IGNORED]]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(in_truth, (1, size)).astype(np.uint8), rng.choice(in_mask, (1, size)).astype(np.uint8), classes


def none_to_nan(values):
    return [math.nan if value is None else value for value in values]


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None)
@given(cases())
def test_agrees_with_scikit_learn(case):
    """Confusion, IoU, F1, precision and recall per class, macro, micro and weighted means, accuracy."""
    truth_YX, mask_YX, classes = case
    both = (truth_YX < classes) & (mask_YX < classes)
    truth, mask = truth_YX[both], mask_YX[both]
    found = scored(truth_YX, mask_YX, classes)
    if not both.any():
        assert found["mean_iou"] is found["micro_f1"] is found["pixel_accuracy"] is found["frequency_weighted_iou"] is None
        return
    labels = list(range(classes))
    assert (confusion_matrix(truth_YX, mask_YX, classes=classes) == sklearn.metrics.confusion_matrix(truth, mask, labels=labels)).all()
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(truth, mask, labels=labels, zero_division=np.nan)
    per_class = {name: none_to_nan(one[name] for one in found["classes"]) for name in ("iou", "dice", "f1", "precision", "recall")}
    present = [label for label in labels if label in truth or label in mask]
    iou = sklearn.metrics.jaccard_score(truth, mask, labels=present, average=None)
    assert [per_class["iou"][label] for label in present] == pytest.approx(iou)
    assert all(math.isnan(per_class["iou"][label]) for label in labels if label not in present)
    assert per_class["precision"] == pytest.approx(precision, nan_ok=True)
    assert per_class["recall"] == pytest.approx(recall, nan_ok=True)
    assert per_class["f1"] == per_class["dice"] == pytest.approx(f1, nan_ok=True)
    assert [one["truth"] for one in found["classes"]] == support.tolist()
    assert found["mean_iou"] == pytest.approx(iou.mean())
    assert found["macro_f1"] == found["mean_dice"] == pytest.approx(sklearn.metrics.f1_score(truth, mask, labels=present, average="macro"))
    assert found["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, mask, labels=present, average="micro"))
    assert found["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, mask))
    weighted = sklearn.metrics.jaccard_score(truth, mask, labels=present, average="weighted")
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_agrees_with_torchmetrics(classes, seed, ignores):
    """IoU, F1, precision, recall and accuracy where every class is present, with and without ignored pixels."""
    torch = pytest.importorskip("torch")
    tm = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(seed)
    truth_YX = rng.integers(0, classes, (16, 17))
    mask_YX = np.where(rng.random(truth_YX.shape) < 0.6, truth_YX, rng.integers(0, classes, truth_YX.shape))
    truth_YX[0, :classes] = mask_YX[0, :classes] = range(classes)
    if ignores:
        truth_YX[1:4, 2:5] = IGNORED
    found = scored(truth_YX.astype(np.uint8), mask_YX.astype(np.uint8), classes)
    given = {"preds": torch.from_numpy(mask_YX), "target": torch.from_numpy(truth_YX), "num_classes": classes}
    if ignores:
        given["ignore_index"] = IGNORED
    names = {
        "iou": tm.multiclass_jaccard_index,
        "f1": tm.multiclass_f1_score,
        "precision": tm.multiclass_precision,
        "recall": tm.multiclass_recall,
    }
    for name, metric in names.items():
        theirs = metric(**given, average="none").double().numpy()
        assert [one[name] for one in found["classes"]] == pytest.approx(theirs, rel=1e-5)
    assert found["mean_iou"] == pytest.approx(tm.multiclass_jaccard_index(**given, average="macro").item(), rel=1e-5)
    assert found["pixel_accuracy"] == pytest.approx(tm.multiclass_accuracy(**given, average="micro").item(), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.sampled_from([1.0, 30.0, 1000.0]), st.integers(0, 2**32 - 1), st.booleans())
def test_cross_entropy_is_that_of_torch(classes, scale, seed, ignores):
    """The sum of nats is torch's in float64 to 12 digits, over several bands, saturated logits and ignored pixels included."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    height = 2**17 // classes // 512 * 2 + 3
    logits_KYX = (rng.normal(size=(classes, height, 512)) * scale).astype(np.float32)
    truth_YX = rng.integers(0, classes, (height, 512)).astype(np.uint8)
    if ignores:
        truth_YX[rng.random(truth_YX.shape) < 0.2] = IGNORED
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits_KYX).double()[None], torch.from_numpy(truth_YX).long()[None], reduction="sum", ignore_index=IGNORED
    )
    total, pixels = sum_cross_entropy(logits_KYX, truth_YX)
    assert total == pytest.approx(theirs.item(), rel=1e-12)
    assert pixels == (truth_YX != IGNORED).sum()


@settings(max_examples=20, deadline=None)
@example(2, 8.0, 83)
@given(st.integers(2, 8), st.sampled_from([0.5, 2.0, 8.0]), st.integers(0, 2**32 - 1))
def test_calibration_error_is_that_of_torchmetrics(classes, scale, seed):
    """The expected calibration error is the published one, whatever the blocks that the counts were added up from."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(seed)
    logits_KYX = (rng.normal(size=(classes, 90, 70)) * scale).astype(np.float32)
    truth_YX = rng.integers(0, classes, (90, 70)).astype(np.uint8)
    # Rounding decides the bin of a confidence at an edge between two bins, and float32 differs from machine to machine.
    place_YX = torch.from_numpy(logits_KYX).double().softmax(0).amax(0).numpy() * CONFIDENCE_BINS
    is_at_edge = (np.abs(place_YX - place_YX.round()) < 1e-4) & (place_YX.round() < CONFIDENCE_BINS)
    truth_YX[(rng.random(truth_YX.shape) < 0.2) | is_at_edge] = IGNORED
    mask_YX = logits_KYX.argmax(0)
    theirs = functional.multiclass_calibration_error(
        torch.from_numpy(logits_KYX)[None].softmax(1),
        torch.from_numpy(truth_YX).long()[None],
        classes,
        CONFIDENCE_BINS,
        ignore_index=IGNORED,
    )
    parts = [count_confidence(logits_KYX[:, rows], mask_YX[rows], truth_YX[rows]) for rows in (slice(0, 31), slice(31, 90))]
    ours = Semantic().compute(Counts(np.zeros(classes, np.int64), confusion=np.zeros((classes, classes), np.int64), confidence=sum(parts)))
    assert ours["calibration_error"] == pytest.approx(theirs.item(), abs=1e-4)


TABLE = [  # what: truth, mask, K -> iou, precision, recall, mean_iou
    ("single pixel, right", [[1]], [[1]], 2, [None, 1.0], [None, 1.0], [None, 1.0], 1.0),
    ("single pixel, wrong", [[1]], [[0]], 2, [0.0, 0.0], [0.0, None], [None, 0.0], 0.0),
    ("everything wrong", [[0, 1]], [[1, 0]], 2, [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], 0.0),
    ("absent from both", [[0, 0]], [[0, 0]], 3, [1.0, None, None], [1.0, None, None], [1.0, None, None], 1.0),
    ("only predicted", [[0, 0]], [[0, 1]], 2, [0.5, 0.0], [1.0, 0.0], [0.5, None], 0.25),
    ("only in truth", [[0, 1]], [[0, 0]], 2, [0.5, 0.0], [0.5, None], [1.0, 0.0], 0.25),
    ("all ignored", [[255, 255]], [[0, 1]], 2, [None, None], [None, None], [None, None], None),
    ("no prediction", [[0, 1]], [[255, 1]], 2, [None, 1.0], [None, 1.0], [None, 1.0], 1.0),
    ("one class", [[0, 0]], [[0, 0]], 1, [1.0], [1.0], [1.0], 1.0),
]


@pytest.mark.parametrize(
    ("truth", "mask", "classes", "iou", "precision", "recall", "mean"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_absent_is_none_and_missed_is_zero(truth, mask, classes, iou, precision, recall, mean):
    """Absent from both: None and out of the mean; absent from one: 0; no prediction: no precision; no truth: no recall."""
    found = scored(np.array(truth, np.uint8), np.array(mask, np.uint8), classes)
    assert [one["iou"] for one in found["classes"]] == iou
    assert [one["precision"] for one in found["classes"]] == precision
    assert [one["recall"] for one in found["classes"]] == recall
    assert found["mean_iou"] == mean


def test_ratios_are_exact_where_int64_sums_would_overflow():
    """Twice the hits of 2**62 pixels is past int64; the Dice is still right."""
    matrix = np.array([[2**61, 0], [2**61, 2**60]])
    found = Semantic().compute(Counts(matrix.sum(axis=0), confusion=matrix))
    assert found["classes"][0]["dice"] == pytest.approx(2 / 3)
    assert found["classes"][0]["iou"] == 0.5


def test_a_float32_count_would_report_a_perfect_score():
    """Past 2**24 pixels our IoU is right; the control counts the same pixels in float32 and finds nothing wrong."""
    right, wrong = 2**24, 2**21
    matrix = np.array([[right, wrong], [0, 0]])
    assert Semantic().compute(Counts(matrix.sum(axis=0), confusion=matrix))["classes"][0]["iou"] == right / (right + wrong) < 0.9
    pixels = np.ones(right + wrong, np.float32)
    counted = np.cumsum(pixels, out=pixels)
    assert counted[right - 1] / counted[-1] == 1.0
