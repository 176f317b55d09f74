"""The page of a report stays small, however many images, classes, objects and failures there are; the tables hold every row."""

from __future__ import annotations

import csv
import json
import time

import numpy as np

from pipeline.metrics.instances import ObjectQuality
from pipeline.metrics.semantic import Semantic
from pipeline.report import write_report
from pipeline.report.content import Failure, ImageCounts, build_report
from pipeline.statistics import Counts, ObjectCounts

IMAGES, CLASSES, TURNS = 100, 5, 100
MOST_PAGE_BYTES = 15_000_000
"""Libraries take 0.8 MB, pictures at most 6, the table of images 4, that of objects 2, all else 2."""
MOST_SECONDS = 60


def test_the_page_stays_small(tmp_path):
    """10,000 images with long names, five classes of objects, and 3000 failures: a bounded page in bounded time, and whole tables."""
    classes = [{"name": f"class {index}"} for index in range(CLASSES)]
    objects = {index: ObjectCounts(3, (1, 2)) for index in range(CLASSES)}
    images = [ImageCounts(f"{index}" + "\u202e" * 150, Counts(np.ones(CLASSES, np.int64)), objects) for index in range(IMAGES)]
    failures = [Failure(f"{index}" + "y" * 200, None, "plan", f"cause {index}" + "z" * 100) for index in range(3000)]
    report = build_report("partial", classes, [Semantic(), ObjectQuality()], images, failures=failures)
    report["per_image"] = [{**image, "name": f"{turn} {image['name']}"} for turn in range(TURNS) for image in report["per_image"]]
    begun = time.monotonic()
    write_report(report, tmp_path)
    assert time.monotonic() - begun < MOST_SECONDS
    page = (tmp_path / "index.html").read_text()
    assert 4_000_000 < len(page.encode()) < MOST_PAGE_BYTES - 6_000_000
    assert f"of {TURNS * IMAGES * CLASSES:,} rows" in page
    assert len(json.loads((tmp_path / "report.json").read_text())["per_image"]) == TURNS * IMAGES
    for name, number in (("per_image", TURNS * IMAGES), ("instances", (TURNS * IMAGES + 1) * CLASSES), ("failures", 3000)):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            assert sum(1 for _ in csv.reader(file)) == number + 1
