"""Scores of objects compared: those of the reports, with intervals paired over images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.metrics.instances import ObjectQuality
from pipeline.metrics.semantic import Semantic
from pipeline.report import compare_reports
from pipeline.report.content import ImageCounts, build_report
from pipeline.report.object_differences import compare_objects
from pipeline.statistics import Counts, count_objects


def report_of(seed, images=9, without=(), empty=()):
    """A report of images of four objects; some are found, more or less well, some are not, and some that are found are none."""
    rng, rows = np.random.default_rng(seed), []
    for index in range(images):
        pairs, predicted = [], []
        for truth in () if index in empty else (1, 2, 3, 4):
            shared = int(rng.integers(0, 101))
            if shared:
                predicted.append(truth)
                pairs += [[truth, truth, shared], [truth, 0, 20]]
            if shared < 100:
                pairs.append([0, truth, 100 - shared])
        if index % 2:
            predicted.append(9)
            pairs.append([9, 0, 50])
        truths = [] if index in empty else [1, 2, 3, 4]
        sides = [(np.array(ids, int), np.ones(len(ids), int)) for ids in (predicted, truths)]
        objects = None if index in without else count_objects(np.array(pairs, np.int64).reshape(-1, 3), *sides)
        counts = Counts(np.array([100, 50]), 0, np.array([[90, 10], [5, 45]]))
        rows.append(ImageCounts(f"image{index}", counts, objects, has_truth=True))
    classes = [{"name": "ground"}, {"name": "cell"}]
    return build_report("done", classes, (Semantic(), ObjectQuality()), rows, model={"name": "unet", "sha256": None})


def by_name(report):
    return {image["name"]: image for image in report["per_image"]}


@pytest.mark.parametrize("empty", [(), (0, 4)])
def test_the_scores_are_those_of_the_reports(empty):
    """Where all images are compared, A and B have the AP and the PQ of their own reports."""
    reports = [report_of(seed, empty=empty) for seed in (1, 2)]
    found = compare_reports(*reports, ("a", "b"))["objects"]
    assert [(row["class"], row["metric"]) for row in found] == [("cell", "ap50"), ("cell", "pq")]
    for row in found:
        for key, report in zip(("a", "b"), reports, strict=True):
            assert row[key] == pytest.approx(report["instances"][0][row["metric"]], rel=1e-12)
        assert row["difference"] == row["b"] - row["a"]
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]


def test_the_interval_is_that_of_scipy():
    """AP at IoU 0.5 is a quotient of counts: its paired bootstrap over images gives the same ends."""
    reports = [report_of(seed) for seed in (1, 2)]
    row = compare_objects(*map(by_name, reports), [f"image{index}" for index in range(9)])[0]
    sums = []
    for report in reports:
        rows = [image["instances"][0] for image in report["per_image"]]
        pairs = np.array([round((one["recall50"] or 0) * one["truth"]) for one in rows], float)
        sums += [pairs, np.array([one["truth"] + one["predicted"] for one in rows]) - pairs]

    def difference(hits_a, union_a, hits_b, union_b, axis=-1):
        return hits_b.sum(axis=axis) / union_b.sum(axis=axis) - hits_a.sum(axis=axis) / union_a.sum(axis=axis)

    rng = np.random.default_rng(0)
    wanted = stats.bootstrap(sums, difference, paired=True, vectorized=True, method="percentile", rng=rng).confidence_interval
    assert row["interval"] == pytest.approx(list(wanted))


def test_only_what_both_scored_is_compared():
    """Images whose objects one run has not scored do not count; without objects there is nothing to compare."""
    first, second = report_of(1), report_of(2, without=(0, 1))
    (ap, pq) = compare_objects(by_name(first), by_name(second), [f"image{index}" for index in range(9)])
    assert ap["images"] == pq["images"] == 7
    assert compare_objects(by_name(first), by_name(report_of(2, without=range(9))), ["image1"]) == []
