"""Our instance metrics are those of StarDist, Cellpose, panopticapi, torchmetrics, HoVer-Net and the Cell Tracking Challenge."""

from __future__ import annotations

import csv
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from pipeline.metrics.instances import ObjectQuality
from pipeline.statistics import IOU_THRESHOLDS, Counts, count_objects
from tests.judges.instance_metrics import NUM_CASES, TABLE, case

NO_PIXELS = Counts(np.zeros(0, np.int64))


def pairs_of(predicted_YX, truth_YX):
    """Rows (predicted id, truth id, pixels)."""
    pairs, pixels = np.unique(np.stack([predicted_YX.ravel(), truth_YX.ravel()]), axis=1, return_counts=True)
    return np.column_stack([pairs.T, pixels]).astype(np.int64)


def objects_of(labels_YX, classes=None):
    """Ids and the class of each, by label; class 1 for all by default."""
    ids = np.unique(labels_YX[labels_YX > 0])
    return ids, np.ones(len(ids), np.int64) if classes is None else classes[ids]


def counted(predicted_YX, truth_YX, predicted_classes=None, truth_classes=None):
    objects = objects_of(predicted_YX, predicted_classes), objects_of(truth_YX, truth_classes)
    return count_objects(pairs_of(predicted_YX, truth_YX), *objects)


def scored(counts):
    """The report's rows by class id."""
    return {row["class"]: row for row in ObjectQuality().compute(NO_PIXELS, counts)["instances"]}


def golden_case():
    """16 squares; the predictions are moved and narrowed step by step, one is missing, and one is invented."""
    truth_YX, predicted_YX = np.zeros((2, 128, 128), np.int64)
    for k in range(16):
        i, j = divmod(k, 4)
        y, x, d = 8 + 30 * i, 8 + 30 * j, (i + j) % 5
        truth_YX[y : y + 16, x : x + 16] = k + 1
        if k < 15:
            predicted_YX[y + d : y + 16 + d, x : x + 16 - d] = 101 + k
    predicted_YX[120:126, 2:10] = 999
    return predicted_YX, truth_YX


def test_golden_case():
    """Published programs agree on these numbers."""
    row = scored(counted(*golden_case()))[1]
    assert (row["truth"], row["predicted"], row["count_error"], row["splits"], row["merges"]) == (16, 16, 0, 0, 0)
    assert row["precision50"] == row["recall50"] == row["f1_50"] == 0.75  # 12 of 16: 12 TP, 4 FP, 4 FN
    assert row["ap50"] == row["ap"][0] == 0.6
    wanted = {"ap75": 0.185185, "pq": 0.563904, "sq": 0.751872, "rq": 0.75, "aji": 0.639315, "object_dice": 0.813058}
    assert {name: round(row[name], 6) for name in wanted} == wanted


TABLED = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))


def test_the_table_is_of_all_cases():
    """The table has rows of most cases; where neither side has an object there is none."""
    assert len(TABLED) > NUM_CASES
    assert len({row["case"] for row in TABLED}) > 0.9 * NUM_CASES


@pytest.mark.parametrize("kind", range(6))
def test_agrees_with_other_programs(kind):
    """Each class of each random case scores what the programs say; where HoVer-Net divides by zero, ours is 0: nothing overlaps."""
    for row in TABLED:
        number = int(row["case"])
        if number % 6 != kind:
            continue
        one = case(number)
        assert f"{one.crc:08x}" == row["crc"], "the random images have changed: run tests/judges/instance_metrics.py again"
        counts = counted(one.predicted_YX, one.truth_YX, one.predicted_classes, one.truth_classes)[int(row["class"])]
        found = scored({0: counts})[0]
        assert [counts.matches.truth, counts.matches.predicted] == [int(row["truth"]), int(row["predicted"])]
        assert list(counts.matches.matched) == [int(row[f"tp{5 * part}"]) for part in range(10, 20)]
        assert [found["splits"], found["merges"]] == [int(row["splits"]), int(row["merges"])]
        for name in ("ap50", "precision50", "recall50", "f1_50", "pq", "sq", "rq", "aji", "object_dice"):
            # The programs give 0 where a value is undefined.
            assert (found[name] or 0) == pytest.approx(float(row[name] or 0), abs=2e-8), (number, name)
        if counts.matches.matched[0] == counts.matches.above_half:
            assert (found["pq"] or 0) == pytest.approx(float(row["stardist_pq"]), abs=1e-6)


LABELS = st.integers(1, 7).flatmap(lambda side: hnp.arrays(np.int64, (2, side, 8), elements=st.integers(0, 4)))


@settings(deadline=None, max_examples=150)
@given(LABELS)
def test_agrees_with_the_definitions(sides):
    """Word for word from the definitions, pixel set by pixel set, in fractions."""
    predicted_YX, truth_YX = sides
    guesses = {label: set(np.flatnonzero(predicted_YX == label)) for label in np.unique(predicted_YX[predicted_YX > 0])}
    truths = {label: set(np.flatnonzero(truth_YX == label)) for label in np.unique(truth_YX[truth_YX > 0])}
    if not (guesses or truths):
        assert counted(predicted_YX, truth_YX) == {}
        return
    row = scored(counted(predicted_YX, truth_YX))[1]
    iou = np.array([[Fraction(len(one & other), len(one | other)) for other in guesses.values()] for one in truths.values()])
    matched = [most_pairs(iou, Fraction(part, 20)) for part in range(10, 20)]
    objects = len(guesses) + len(truths)
    assert row["ap"] == [pairs / (objects - pairs) for pairs in matched]
    assert row["mean_ap"] == pytest.approx(np.mean(row["ap"]))
    above = [one for one in iou.ravel() if one > Fraction(1, 2)]
    assert row["pq"] == pytest.approx(float(2 * sum(above) / objects))
    assert row["glas_dice"] == pytest.approx(glas_dice(list(truths.values()), list(guesses.values())))
    assert row["merges"] == sum(max(0, sum(2 * len(one & truth) > len(truth) for truth in truths.values()) - 1) for one in guesses.values())
    assert row["splits"] == sum(max(0, sum(2 * len(one & guess) > len(guess) for guess in guesses.values()) - 1) for one in truths.values())


def most_pairs(iou, threshold):
    """The size of the largest matching of pairs that reach a threshold."""
    allowed = np.array(iou >= threshold, np.int64)
    return int(allowed[linear_sum_assignment(allowed, maximize=True)].sum()) if allowed.size else 0


def glas_dice(truths, guesses):
    """Dice with the object of the other side that shares most, the first of them if several do, weighted by area."""
    total = 0.0
    for ours, others in ((truths, guesses), (guesses, truths)):
        for one in ours:
            best = max(others, key=lambda other, one=one: len(one & other), default=set())
            dice = 2 * len(one & best) / (len(one) + len(best))
            total += dice * len(one) / sum(map(len, ours)) / 2
    return total


def test_thresholds_are_twentieths():
    """An IoU of exactly a threshold reaches it, for each threshold: 11 of 20 pixels are 0.55."""
    for place, part in enumerate(range(10, 20)):
        labels_YX = np.zeros((2, 1, 20), np.int64)
        labels_YX[0, 0, :part], labels_YX[1] = 1, 1
        matches = counted(*labels_YX)[1].matches
        assert matches.matched == tuple([1] * (place + 1) + [0] * (9 - place)), IOU_THRESHOLDS[place]
